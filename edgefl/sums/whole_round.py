"""``WholeRound``: for aggregators that need all updates of a round at once, such as a median.

    contribution -> check -> fold (recorded) ... fold -> finalize: combine(every contribution, sorted by device)

``combine`` is a second pass over what was recorded, once per round. The price is memory: each update of the round stays
until its end. So an aggregator says how much that is (``memory_bytes``), and a task whose round would need more than
``MAX_RECORDED_BYTES`` is refused when it is created. After a restart the ledger's payloads are recorded again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgefl.errors import ConfigError, LocalProtocolError
from edgefl.sums.grid import MAX_TOTAL_WEIGHT
from edgefl.sums.running import Contribution, Sums, check_norm, check_total, check_weight

MAX_RECORDED_BYTES = 256 << 20
"""So much a round may hold until it ends: 8,500 updates of 7,850 parameters, and a server of 1 GB still has room."""


@dataclass
class RecordedSums(Sums):
    """``values`` is empty. ``recorded``: as they were folded."""

    recorded: list[Contribution] = field(default_factory=list)

    def in_order(self) -> list[Contribution]:
        """By device; those of one device, which a round does not have, by what they say."""
        return sorted(self.recorded, key=lambda one: (one.device, one.values, one.weight))


@dataclass(frozen=True)
class WholeRound(ABC):
    """Derive from it, and define ``combine``. The fields and ``check`` are those of ``weighted_mean``.

    Deltas are not clipped. Raises ``ConfigError`` for a ``clip_norm`` other than 0.
    """

    num_values: int
    norm_bound: float
    clip_norm: float
    max_weight: int

    def __post_init__(self) -> None:
        if self.clip_norm:
            raise ConfigError(
                f"clip_norm is {self.clip_norm!r}, and {type(self).__name__} does not clip; expected 0: "
                "lower norm_bound to refuse large deltas"
            )

    @abstractmethod
    def combine(self, contributions: Sequence[Contribution]) -> bytes:
        """``num_values`` float64 of at least one contribution of ``num_values`` float32, sorted by device."""

    def memory_bytes(self, num_reports: int) -> int:
        """What the updates of ``num_reports`` devices take until the round ends."""
        return num_reports * 4 * self.num_values

    def check_round(self, goal: int) -> None:
        """Raises ``ConfigError`` when the updates of ``goal`` devices take more than ``MAX_RECORDED_BYTES``."""
        needed, one = self.memory_bytes(goal), self.memory_bytes(1)
        if needed > MAX_RECORDED_BYTES:
            raise ConfigError(
                f"round.goal is {goal}, and {type(self).__name__} keeps every update of a round: {goal} x {one} bytes "
                f"are {needed}; expected at most {MAX_RECORDED_BYTES}: "
                f"lower round.goal to {MAX_RECORDED_BYTES // one}, or choose one that only adds: 'weighted_mean'"
            )

    def new(self) -> RecordedSums:
        return RecordedSums.zeros(0)

    def check(self, contribution: Contribution) -> None:
        """Raises ``InvalidUpdateError``: WEIGHT, NORM."""
        check_weight(contribution.weight, self.max_weight)
        check_norm(contribution.values, self.norm_bound)

    def fold(self, sums: Sums, contribution: Contribution) -> None:
        recorded = _recorded(sums)
        check_total(sums.total_weight, contribution.weight, MAX_TOTAL_WEIGHT)
        sums.add_counts(contribution)
        recorded.recorded.append(contribution)

    def merge(self, sums: Sums, other: Sums) -> None:
        mine, theirs = _recorded(sums), _recorded(other)
        mine.merge(theirs, MAX_TOTAL_WEIGHT)
        mine.recorded += theirs.recorded

    def finalize(self, sums: Sums) -> bytes:
        """What ``combine`` returns. Raises ``LocalProtocolError`` when nothing was folded, or for another size."""
        contributions = _recorded(sums).in_order()
        if not contributions:
            raise LocalProtocolError("the round has no updates to combine; expected at least one")
        combined = self.combine(contributions)
        if len(combined) != 8 * self.num_values:
            raise LocalProtocolError(
                f"{type(self).__name__}.combine returned {len(combined)} bytes; expected {8 * self.num_values}: "
                "one float64 per value"
            )
        return combined


def _recorded(sums: Sums) -> RecordedSums:
    if not isinstance(sums, RecordedSums):
        raise LocalProtocolError(f"sums of type {type(sums).__name__}; expected RecordedSums, as new() makes them")
    return sums
