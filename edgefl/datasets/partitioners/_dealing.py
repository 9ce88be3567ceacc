"""What the partitioners share: their interface, and the parts of dealing. Free of NumPy.

Invariants of all: every row goes to exactly one client and every client gets at least one; sizes are as each promises.
A pure function of labels, columns and key, in integers alone (Philox words, ``Fraction``, ``math.isqrt``): the same
clients on every machine.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

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


def rows_by_class(labels: Sequence[int], key: bytes) -> dict[int, list[int]]:
    """The rows of each class that occurs, in an order drawn by ``key``."""
    stock: dict[int, list[int]] = {}
    for row in permutation(key, 0, len(labels)):
        stock.setdefault(labels[row], []).append(row)
    return stock


def cut(rows: Sequence[int], sizes: Sequence[int]) -> Shares:
    shares = {}
    start = 0
    for index, size in enumerate(sizes):
        shares[client_id(index)] = rows[start : start + size]
        start += size
    return shares


def equal_sizes(count: int, num_parts: int) -> list[int]:
    """Sizes that add up to ``count`` and differ by at most one, the larger first."""
    return [count // num_parts + (index < count % num_parts) for index in range(num_parts)]


def client_id(index: int) -> str:
    return f"client-{index}"


def check_clients(num_clients: int) -> None:
    if not 1 <= num_clients <= MAX_CLIENTS:
        raise ConfigError(f"num_clients is {num_clients}; expected 1 to {MAX_CLIENTS}")


def check_enough(num_clients: int, count: int) -> None:
    if count < num_clients:
        raise DataError(f"{count} examples for {num_clients} clients; expected at least one each")
