"""``SumsAndExtremes``: integer sums, and with them the least and the largest of further integers.

    values = [num_sums to add][num_extremes to take the minimum of][num_extremes to take the maximum of]      int64

Minimum and maximum, like a sum of integers, do not depend on the order of folding or of merging.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field, replace

from edgefl.errors import LocalProtocolError
from edgefl.sums.integer_sum import IntegerSum
from edgefl.sums.running import Contribution, Sums


@dataclass
class ExtremeSums(Sums):
    """``minima`` and ``maxima``: int64, both empty until something was folded."""

    minima: array[int] = field(default_factory=lambda: array("q"))
    maxima: array[int] = field(default_factory=lambda: array("q"))

    def take(self, minima: array[int], maxima: array[int]) -> None:
        self.minima = array("q", map(min, self.minima, minima)) if self.minima else minima[:]
        self.maxima = array("q", map(max, self.maxima, maxima)) if self.maxima else maxima[:]


@dataclass(frozen=True)
class SumsAndExtremes:
    """``sums`` adds the first ``sums.num_values`` values of a contribution; what it must be checked for is there."""

    sums: IntegerSum
    num_extremes: int

    @property
    def num_values(self) -> int:
        return self.sums.num_values + 2 * self.num_extremes

    def new(self) -> ExtremeSums:
        return ExtremeSums.zeros(self.sums.num_values)

    def fold(self, sums: ExtremeSums, contribution: Contribution) -> None:
        """Add a checked contribution to ``sums``, in place."""
        first, second = 8 * self.sums.num_values, 8 * (self.sums.num_values + self.num_extremes)
        values = contribution.values
        self.sums.fold(sums, replace(contribution, values=values[:first]))
        sums.take(array("q", values[first:second]), array("q", values[second:]))

    def merge(self, sums: ExtremeSums, other: ExtremeSums) -> None:
        self.sums.merge(sums, other)
        if other.num_reports:
            sums.take(other.minima, other.maxima)

    def finalize(self, sums: Sums) -> tuple[int, ...]:
        """Sums, minima and maxima. Raises ``LocalProtocolError`` when nothing was folded."""
        if not isinstance(sums, ExtremeSums):
            raise LocalProtocolError(f"sums of type {type(sums).__name__}; expected ExtremeSums")
        return (*self.sums.finalize(sums), *sums.minima, *sums.maxima)
