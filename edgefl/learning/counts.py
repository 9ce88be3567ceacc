"""The server's side of the integers that travel beside an update (examples, right answers, losses): check and sum."""

from __future__ import annotations

from collections.abc import Sequence

from edgefl.errors import InvalidUpdateError, LocalProtocolError, UpdateRefusal
from edgefl.learning.loss_grid import LOSS_GRID_MAX, LOSS_GRID_SHIFT
from edgefl.protocol.messages import ClientUpdate
from edgefl.protocol.process import Accumulator, RoundMetrics
from edgefl.sums.running import Contribution, Sums


def contribution_of(update: ClientUpdate, decoded: bytes) -> Contribution:
    return Contribution(decoded, update.weight, update.num_examples, update.num_correct, update.loss_grid)


def check_counts(update: ClientUpdate, max_examples: int) -> None:
    """Raises ``InvalidUpdateError`` (MALFORMED) for counts that no honest device can send."""
    if not 0 <= update.num_examples <= max_examples:
        raise InvalidUpdateError(
            UpdateRefusal.MALFORMED, f"num_examples is {update.num_examples}; expected 0 to {max_examples}"
        )
    if not 0 <= update.num_correct <= update.num_examples:
        raise InvalidUpdateError(
            UpdateRefusal.MALFORMED, f"num_correct is {update.num_correct}; expected 0 to {update.num_examples}"
        )
    if not 0 <= update.loss_grid <= LOSS_GRID_MAX:
        raise InvalidUpdateError(UpdateRefusal.MALFORMED, f"loss_grid is {update.loss_grid}; expected 0 to 2**62")


def check_confusion(update: ClientUpdate, counts: Sequence[int], num_classes: int) -> None:
    """Raises ``InvalidUpdateError`` (MALFORMED) when what travels beside the counts contradicts them."""
    counted, correct = sum(counts), sum(counts[i] for i in range(0, len(counts), num_classes + 1))
    claimed = (update.weight, update.num_examples, update.num_correct)
    if claimed != (counted, counted, correct):
        raise InvalidUpdateError(
            UpdateRefusal.MALFORMED,
            f"weight, examples and right answers are {claimed}; the counts say {(counted, counted, correct)}",
        )


def as_sums(accumulator: Accumulator) -> Sums:
    """The accumulator that a process handed out before. Raises ``LocalProtocolError`` for any other."""
    if not isinstance(accumulator, Sums):
        raise LocalProtocolError(f"an accumulator of type {type(accumulator).__name__}; expected Sums")
    return accumulator


def round_metrics(sums: Sums, confusion: tuple[int, ...] = ()) -> RoundMetrics:
    return RoundMetrics(
        num_reports=sums.num_reports,
        total_weight=sums.total_weight,
        num_examples=sums.num_examples,
        num_correct=sums.num_correct,
        loss_sum=sums.loss_grid / (1 << LOSS_GRID_SHIFT),
        confusion=confusion,
    )
