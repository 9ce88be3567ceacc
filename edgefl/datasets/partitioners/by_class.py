"""``by_class``: exactly so many classes for each client."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgefl.datasets.draws import Draws
from edgefl.datasets.partitioners._dealing import Shares, check_clients, client_id, equal_sizes, rows_by_class
from edgefl.errors import ConfigError, DataError


@dataclass(frozen=True)
class by_class:
    """Each client has exactly ``classes_per_client`` classes, and shares each of them equally with the other owners.

    The classes are handed out so that the numbers of owners of any two differ by at most one. Sizes follow the sizes of
    the classes. The pathological split of McMahan et al. 2017, with the number of classes exact.
    """

    num_clients: int
    classes_per_client: int

    def __post_init__(self) -> None:
        check_clients(self.num_clients)
        if self.classes_per_client < 1:
            raise ConfigError(f"classes_per_client is {self.classes_per_client}; expected at least 1")

    def rows(self, labels: Sequence[int], columns: Mapping[str, tuple[str, ...]], key: bytes) -> Shares:
        del columns
        stock = rows_by_class(labels, key)
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
                    "one each: fewer clients, or fewer classes per client"
                )
            start = 0
            for client, size in zip(clients, equal_sizes(len(rows), len(clients)), strict=True):
                dealt[client].extend(rows[start : start + size])
                start += size
        return {client_id(index): rows for index, rows in enumerate(dealt)}


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


PARTITIONER = by_class
