"""The server's side of the integers that travel with an update (examples, right answers, losses): check and sum.

The clients' accuracies are compared on a grid of 2**-30 (``share_on_grid``): sums of integers and of their squares, and
order statistics of sorted integers, each turned into binary64 by one division. Clients of the same accuracy are the
same to them all, so no tie needs a rule, and neither the order of folding nor that of merging changes a bit (§4.6).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar, overload

from edgefl import codecs
from edgefl.errors import InvalidUpdateError, LocalProtocolError, UpdateRefusal
from edgefl.learning.loss_grid import LOSS_GRID_MAX, LOSS_GRID_SHIFT
from edgefl.protocol.messages import ClientUpdate
from edgefl.protocol.process import Accumulator, ClientAccuracies, RoundMetrics
from edgefl.sums.grid import SHARE_SHIFT
from edgefl.sums.running import Contribution, Sums
from edgefl.types import RoundKey

WORST_PART = 10
"""One in so many clients, rounded up, is among the worst: a decile, and at least one client."""


def decoded(device: str, update: ClientUpdate, task_seed: int, encoding: str, num_values: int) -> Contribution:
    """The update's numbers in fixed layout, and what belongs to them; nothing else is checked yet.

    Raises ``InvalidUpdateError``: ENCODING, SHAPE, NON_FINITE.
    """
    key = RoundKey(task_seed, update.round_num)
    values = codecs.decode(update.encoding, encoding, update.payload, num_values, key)
    return Contribution(
        values, update.weight, update.num_examples, update.num_correct, update.loss_grid, device=device, key=key
    )


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
    """Raises ``InvalidUpdateError`` (MALFORMED) when what travels with the counts contradicts them."""
    counted, correct = sum(counts), sum(counts[i] for i in range(0, len(counts), num_classes + 1))
    claimed = (update.weight, update.num_examples, update.num_correct)
    if claimed != (counted, counted, correct):
        raise InvalidUpdateError(
            UpdateRefusal.MALFORMED,
            f"weight, examples and right answers are {claimed}; the counts say {(counted, counted, correct)}",
        )


_S = TypeVar("_S", bound=Sums)


@overload
def as_sums(accumulator: Accumulator) -> Sums: ...
@overload
def as_sums(accumulator: Accumulator, kind: type[_S]) -> _S: ...
def as_sums(accumulator: Accumulator, kind: type[Sums] = Sums) -> Sums:
    """The accumulator that a process handed out before. Raises ``LocalProtocolError`` for any other."""
    if not isinstance(accumulator, kind):
        raise LocalProtocolError(f"an accumulator of type {type(accumulator).__name__}; expected {kind.__name__}")
    return accumulator


def round_metrics(sums: Sums, confusion: tuple[int, ...] = ()) -> RoundMetrics:
    """With ``confusion``, of one model that all clients answered by, how their accuracies differ, too."""
    return RoundMetrics(
        num_reports=sums.num_reports,
        total_weight=sums.total_weight,
        num_examples=sums.num_examples,
        num_correct=sums.num_correct,
        loss_sum=sums.loss_grid / (1 << LOSS_GRID_SHIFT),
        confusion=confusion,
        accuracies=client_accuracies(sums.accuracies) if confusion else None,
    )


def client_accuracies(ranked: Sequence[int]) -> ClientAccuracies | None:
    """Of one accuracy a client, rising, in steps of ``2**-SHARE_SHIFT``; None where there is none."""
    if not ranked:
        return None
    count, step = len(ranked), 1 << SHARE_SHIFT
    total, squares = sum(ranked), sum(share * share for share in ranked)
    worst = ranked[: -(-count // WORST_PART)]
    return ClientAccuracies(
        mean=total / (count * step),
        spread=math.sqrt((count * squares - total * total) / (count * step) ** 2),
        minimum=ranked[0] / step,
        maximum=ranked[-1] / step,
        worst_decile=sum(worst) / (len(worst) * step),
    )
