"""``iid``: drawn without regard to anything."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgefl.datasets.partitioners._dealing import Shares, check_clients, check_enough, cut, equal_sizes
from edgefl.kernels import permutation


@dataclass(frozen=True)
class iid:
    """Each client gets the same number of examples (give or take one), drawn without regard to anything."""

    num_clients: int

    def __post_init__(self) -> None:
        check_clients(self.num_clients)

    def rows(self, labels: Sequence[int], columns: Mapping[str, tuple[str, ...]], key: bytes) -> Shares:
        del columns
        check_enough(self.num_clients, len(labels))
        return cut(permutation(key, 0, len(labels)), equal_sizes(len(labels), self.num_clients))


PARTITIONER = iid
