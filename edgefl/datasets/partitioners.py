"""Ways to deal the examples of a central data set to clients. Each is a frozen description; ``rows`` does the dealing.

Invariants: every row goes to exactly one client and every client gets at least one; sizes are as each way promises.
A pure function of labels, columns and key, in integers alone (Philox words, ``Fraction``, ``math.isqrt``): the same
clients on every machine. Free of NumPy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Protocol

from edgefl.datasets.draws import Draws
from edgefl.errors import ConfigError, DataError
from edgefl.kernels import permutation

MAX_CLIENTS = 1_000_000
"""More clients than a simulation takes: a typing error is likelier than a wish."""

Shares = Mapping[str, Sequence[int]]
"""The rows of each client, by its id."""


class Partitioner(Protocol):
    def rows(self, labels: Sequence[int], columns: Mapping[str, tuple[str, ...]], key: bytes) -> Shares:
        """Deal ``range(len(labels))``. Raises ``DataError`` when these examples cannot be dealt so."""
        ...


@dataclass(frozen=True)
class iid:
    """Each client gets the same number of examples (give or take one), drawn without regard to anything."""

    num_clients: int

    def __post_init__(self) -> None:
        _check_clients(self.num_clients)

    def rows(self, labels: Sequence[int], columns: Mapping[str, tuple[str, ...]], key: bytes) -> Shares:
        del columns
        _check_enough(self.num_clients, len(labels))
        return _cut(permutation(key, 0, len(labels)), _equal_sizes(len(labels), self.num_clients))


@dataclass(frozen=True)
class dirichlet:
    """Each client draws its class shares from a symmetric Dirichlet distribution; sizes are equal (give or take one).

    ``alpha``  the concentration of every class, 1e-6 to 1e6: 0.1 gives most clients one or two classes, 100 is nearly
               iid. It counts as it was written: 0.1 is one tenth.

    Clients take turns, one example at a time. Shares p ~ Dir(alpha, ..., alpha) and then draws of classes from p are,
    with p integrated out, Pólya's urn: the next class is c with probability (alpha + n_c) / (alpha C + n), where the
    client has n examples, n_c of them of class c. So no gamma variate is needed, and the draw is exact in integers.
    When the examples of a class are used up, clients draw from p restricted to the other classes: the restriction of a
    Dirichlet is a Dirichlet that does not depend on the rest (neutrality), so it is the urn without that class.

    Source: T.-M. H. Hsu, H. Qi and M. Brown, "Measuring the effects of non-identical data distribution for federated
    visual classification", 2019; D. Blackwell and J. B. MacQueen, "Ferguson distributions via Pólya urn schemes", 1973.
    """

    num_clients: int
    alpha: float

    def __post_init__(self) -> None:
        _check_clients(self.num_clients)
        if not 1e-6 <= self.alpha <= 1e6:
            raise ConfigError(f"alpha is {self.alpha!r}; expected 1e-6 to 1e6")

    def rows(self, labels: Sequence[int], columns: Mapping[str, tuple[str, ...]], key: bytes) -> Shares:
        del columns
        _check_enough(self.num_clients, len(labels))
        stock = _rows_by_class(labels, key)
        urns = [_Urn(Fraction(repr(float(self.alpha)))) for _ in range(self.num_clients)]
        sizes = _equal_sizes(len(labels), self.num_clients)
        dealt: list[list[int]] = [[] for _ in sizes]
        draws = Draws(key)
        open_classes = sorted(stock)
        for turn in range(sizes[0]):  # the first client's is the largest size
            for urn, rows, size in zip(urns, dealt, sizes, strict=True):
                if turn < size:
                    label = urn.draw(draws, open_classes)
                    rows.append(stock[label].pop())
                    if not stock[label]:
                        open_classes.remove(label)
        return {_client_id(index): rows for index, rows in enumerate(dealt)}


@dataclass(frozen=True)
class by_class:
    """Each client has exactly ``classes_per_client`` classes, and shares each of them equally with the other owners.

    The classes are handed out so that the numbers of owners of any two differ by at most one. Sizes follow the sizes of
    the classes. The pathological split of McMahan et al. 2017, with the number of classes exact.
    """

    num_clients: int
    classes_per_client: int

    def __post_init__(self) -> None:
        _check_clients(self.num_clients)
        if self.classes_per_client < 1:
            raise ConfigError(f"classes_per_client is {self.classes_per_client}; expected at least 1")

    def rows(self, labels: Sequence[int], columns: Mapping[str, tuple[str, ...]], key: bytes) -> Shares:
        del columns
        stock = _rows_by_class(labels, key)
        each, places = self.classes_per_client, self.num_clients * self.classes_per_client
        if each > len(stock):
            raise DataError(f"{each} classes a client of {len(stock)} that occur; expected at most {len(stock)}")
        if places < len(stock):
            raise DataError(
                f"{self.num_clients} clients of {each} classes cannot own {len(stock)} classes; expected "
                f"clients x classes_per_client of at least {len(stock)}"
            )
        owned = _deal_classes(sorted(stock), self.num_clients, each, Draws(key))
        owners: dict[int, list[int]] = {label: [] for label in stock}
        for client, classes in enumerate(owned):
            for label in classes:
                owners[label].append(client)
        dealt: list[list[int]] = [[] for _ in range(self.num_clients)]
        for label in sorted(stock):
            rows, clients = stock[label], owners[label]
            if len(rows) < len(clients):
                raise DataError(
                    f"class {label} has {len(rows)} examples for {len(clients)} clients that own it; expected at least "
                    "one each: fewer clients, or fewer classes a client"
                )
            start = 0
            for client, size in zip(clients, _equal_sizes(len(rows), len(clients)), strict=True):
                dealt[client].extend(rows[start : start + size])
                start += size
        return {_client_id(index): rows for index, rows in enumerate(dealt)}


@dataclass(frozen=True)
class by_size:
    """Each client draws from the same distribution; sizes follow a power law.

    The size of client k, counted from 1, is 1 + a share in proportion to k ** -exponent of the examples beyond one
    each. ``exponent`` is a multiple of 0.5 from 0 to 4 (a square root is exact in integers, other powers are not): at
    1, of 100 clients, the first has about a fifth of all examples, and the last a hundredth of that.
    """

    num_clients: int
    exponent: float = 1.0

    def __post_init__(self) -> None:
        _check_clients(self.num_clients)
        if not (0 <= self.exponent <= 4 and float(2 * self.exponent).is_integer()):
            raise ConfigError(f"exponent is {self.exponent!r}; expected a multiple of 0.5 from 0 to 4")

    def rows(self, labels: Sequence[int], columns: Mapping[str, tuple[str, ...]], key: bytes) -> Shares:
        del columns
        _check_enough(self.num_clients, len(labels))
        return _cut(permutation(key, 0, len(labels)), self.sizes(len(labels)))

    def sizes(self, count: int) -> list[int]:
        """How many of ``count`` examples each client gets; never more than the client before."""
        # 2**64 / k ** exponent, rounded down: isqrt(x / k ** (2 exponent)) with x = 2**128.
        twice = int(2 * self.exponent)
        shares = [math.isqrt(2**128 // k**twice) for k in range(1, self.num_clients + 1)]
        spare, total = count - self.num_clients, sum(shares)
        sizes = [1 + spare * share // total for share in shares]
        for index in range(count - sum(sizes)):  # what rounding left over, fewer than there are clients
            sizes[index] += 1
        return sizes


@dataclass(frozen=True)
class by_column:
    """A client for each value of a column: who wrote, which sensor. Clients come in the order of their first rows."""

    name: str

    def rows(self, labels: Sequence[int], columns: Mapping[str, tuple[str, ...]], key: bytes) -> Shares:
        del labels, key
        if self.name not in columns:
            raise DataError(f"no column {self.name!r} to make clients of; it has {', '.join(columns) or 'none'}")
        dealt: dict[str, list[int]] = {}
        for row, value in enumerate(columns[self.name]):
            dealt.setdefault(value, []).append(row)
        return dealt


class _Urn:
    """Pólya's urn of one client, over the classes that still have examples."""

    def __init__(self, alpha: Fraction) -> None:
        self._alpha = alpha
        self._drawn: list[int] = []

    def draw(self, draws: Draws, open_classes: Sequence[int]) -> int:
        """A new class with weight alpha each, or the class of an earlier draw with weight 1 each."""
        while True:
            fresh = self._alpha.numerator * len(open_classes)
            ticket = draws.below(fresh + self._alpha.denominator * len(self._drawn))
            if ticket < fresh:
                label = open_classes[ticket // self._alpha.numerator]
                break
            label = self._drawn[(ticket - fresh) // self._alpha.denominator]
            if label in open_classes:
                break
            # Rejecting a class that is used up is drawing from the others; its old draws leave the urn.
            still_open = set(open_classes)
            self._drawn = [earlier for earlier in self._drawn if earlier in still_open]
        self._drawn.append(label)
        return label


def _deal_classes(classes: Sequence[int], num_clients: int, each: int, draws: Draws) -> list[list[int]]:
    """``each`` different classes for each client, out of one shuffled deck after another.

    A deck is used up before the next is opened, so the classes are handed out equally often, give or take one. A client
    who needs cards of two decks takes from the second the first ones that it does not have.
    """
    deck: list[int] = []
    owned = []
    for _ in range(num_clients):
        hand = deck[:each]
        del deck[:each]
        if len(hand) < each:
            deck = list(classes)
            for last in range(len(deck) - 1, 0, -1):
                other = draws.below(last + 1)
                deck[last], deck[other] = deck[other], deck[last]
            added = [label for label in deck if label not in hand][: each - len(hand)]
            hand += added
            deck = [label for label in deck if label not in added]
        owned.append(hand)
    return owned


def _rows_by_class(labels: Sequence[int], key: bytes) -> dict[int, list[int]]:
    """The rows of each class that occurs, in an order drawn by ``key``."""
    stock: dict[int, list[int]] = {}
    for row in permutation(key, 0, len(labels)):
        stock.setdefault(labels[row], []).append(row)
    return stock


def _cut(rows: Sequence[int], sizes: Sequence[int]) -> Shares:
    shares = {}
    start = 0
    for index, size in enumerate(sizes):
        shares[_client_id(index)] = rows[start : start + size]
        start += size
    return shares


def _equal_sizes(count: int, num_parts: int) -> list[int]:
    """Sizes that add up to ``count`` and differ by at most one, the larger first."""
    return [count // num_parts + (index < count % num_parts) for index in range(num_parts)]


def _client_id(index: int) -> str:
    return f"client-{index}"


def _check_clients(num_clients: int) -> None:
    if not 1 <= num_clients <= MAX_CLIENTS:
        raise ConfigError(f"num_clients is {num_clients}; expected 1 to {MAX_CLIENTS}")


def _check_enough(num_clients: int, count: int) -> None:
    if count < num_clients:
        raise DataError(f"{count} examples for {num_clients} clients; expected at least one each")
