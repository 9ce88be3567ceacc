"""``unweighted_mean``: the mean of the deltas, each client counting once, exact on the grid of ``weighted_mean``.

A client still reports its number of examples, which the gate checks and the ledger keeps; into the mean goes 1, and the
round's total weight is its number of reports. So a device executes the same plan for either mean.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgefl.aggregators.weighted_mean import WeightedMean
from edgefl.sums.running import Contribution, Sums


@dataclass(frozen=True)
class UnweightedMean(WeightedMean):
    """Options as in ``WeightedMean``."""

    def fold(self, sums: Sums, contribution: Contribution) -> None:
        super().fold(sums, replace(contribution, weight=1))


AGGREGATOR = UnweightedMean
