"""``dirichlet``: class shares drawn from a Dirichlet distribution."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

from edgefl.datasets.draws import Draws
from edgefl.datasets.partitioners._dealing import (
    Shares,
    check_clients,
    check_enough,
    client_id,
    equal_sizes,
    rows_by_class,
)
from edgefl.errors import ConfigError


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
        check_clients(self.num_clients)
        if not 1e-6 <= self.alpha <= 1e6:
            raise ConfigError(f"alpha is {self.alpha!r}; expected 1e-6 to 1e6")

    def rows(self, labels: Sequence[int], columns: Mapping[str, tuple[str, ...]], key: bytes) -> Shares:
        del columns
        check_enough(self.num_clients, len(labels))
        stock = rows_by_class(labels, key)
        urns = [_Urn(Fraction(repr(float(self.alpha)))) for _ in range(self.num_clients)]
        sizes = equal_sizes(len(labels), self.num_clients)
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
        return {client_id(index): rows for index, rows in enumerate(dealt)}


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


PARTITIONER = dirichlet
