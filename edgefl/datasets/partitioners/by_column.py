"""``by_column``: a client for each value of a column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgefl.datasets.partitioners._dealing import Shares
from edgefl.errors import DataError


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


PARTITIONER = by_column
