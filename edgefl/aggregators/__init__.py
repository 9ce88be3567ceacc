"""Aggregators fold client updates into one, exactly: integer sums, in any order, by any number of folders.

    contribution -> check -> fold ... fold -> [merge ...] -> finalize

An aggregator is an immutable value; what it has summed stands in the ``Sums`` that the caller holds. Each that a task
definition may name is one file of this package that defines ``AGGREGATOR``: a frozen dataclass with the fields
``num_values``, ``norm_bound``, ``clip_norm``, ``max_weight`` and options of its own. The name of the file is the name
in the definition (``edgefl.registry``). One that needs all updates of a round derives from ``WholeRound``.
What they add up is ``edgefl.sums``. Source: design §4.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, cast

from edgefl.registry import Registry
from edgefl.sums.extremes import ExtremeSums, SumsAndExtremes
from edgefl.sums.grid import MAX_TOTAL_WEIGHT
from edgefl.sums.integer_sum import IntegerSum
from edgefl.sums.running import Contribution, Sums
from edgefl.sums.whole_round import MAX_RECORDED_BYTES, RecordedSums, WholeRound

__all__ = [
    "AGGREGATORS",
    "MAX_RECORDED_BYTES",
    "MAX_TOTAL_WEIGHT",
    "Contribution",
    "ExtremeSums",
    "IntegerSum",
    "RecordedSums",
    "Sums",
    "SumsAndExtremes",
    "TrainingAggregator",
    "WholeRound",
    "training_aggregator",
]

AGGREGATORS = Registry("aggregator", __name__, "AGGREGATOR", group=__name__)


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


def training_aggregator(
    name: str,
    *,
    num_values: int,
    norm_bound: float,
    clip_norm: float,
    max_weight: int,
    options: Mapping[str, float] | None = None,
) -> TrainingAggregator:
    """Build the aggregator that a task definition names.

    Raises ``ConfigError`` when there is none of that name, and for an option that it does not have, lacks, or refuses.
    """
    made = AGGREGATORS.build(
        name,
        options or {},
        num_values=num_values,
        norm_bound=norm_bound,
        clip_norm=clip_norm,
        max_weight=max_weight,
    )
    return cast(TrainingAggregator, made)
