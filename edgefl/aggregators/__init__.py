"""Aggregators fold client updates into one, exactly: integer sums, in any order, by any number of folders.

    contribution -> check -> fold ... fold -> [merge ...] -> finalize

An aggregator is an immutable value; what it has summed stands in the ``Sums`` that the caller holds. Those that a
task definition may name are registered in ``TRAINING_AGGREGATORS``. Source: design §4.4.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edgefl.aggregators.grid import MAX_TOTAL_WEIGHT
from edgefl.aggregators.integer_sum import IntegerSum
from edgefl.aggregators.sums import Contribution, Sums
from edgefl.aggregators.unweighted_mean import UnweightedMean
from edgefl.aggregators.weighted_mean import WeightedMean
from edgefl.errors import ConfigError

__all__ = [
    "MAX_TOTAL_WEIGHT",
    "TRAINING_AGGREGATORS",
    "Contribution",
    "IntegerSum",
    "Sums",
    "TrainingAggregator",
    "UnweightedMean",
    "WeightedMean",
    "training_aggregator",
]


class TrainingAggregator(Protocol):
    """Folds decoded float32 deltas into one binary64 delta."""

    def new(self) -> Sums: ...

    def check(self, contribution: Contribution) -> None:
        """Raises ``InvalidUpdateError``: WEIGHT, NORM. Changes nothing."""
        ...

    def fold(self, sums: Sums, contribution: Contribution) -> None:
        """Add a checked contribution to ``sums``, in place."""
        ...

    def merge(self, sums: Sums, other: Sums) -> None:
        """Add what another folder summed to ``sums``, in place."""
        ...

    def finalize(self, sums: Sums) -> bytes:
        """The aggregated delta as float64 bytes."""
        ...


TRAINING_AGGREGATORS: dict[str, Callable[[int, float, float, int], TrainingAggregator]] = {
    "unweighted_mean": UnweightedMean,
    "weighted_mean": WeightedMean,
}
"""By name: ``(num_values, norm_bound, clip_norm, max_weight) -> aggregator``."""


def training_aggregator(
    name: str, *, num_values: int, norm_bound: float, clip_norm: float, max_weight: int
) -> TrainingAggregator:
    """Build the aggregator that a task definition names. Raises ``ConfigError`` when there is none of that name."""
    if name not in TRAINING_AGGREGATORS:
        raise ConfigError(f"aggregator is {name!r}; expected one of {', '.join(sorted(TRAINING_AGGREGATORS))}")
    return TRAINING_AGGREGATORS[name](num_values, norm_bound, clip_norm, max_weight)
