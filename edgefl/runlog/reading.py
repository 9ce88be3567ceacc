"""What there is to read in a round, for tables, files and charts."""

from __future__ import annotations

from collections.abc import Iterable

from edgefl.confusion import Confusion
from edgefl.protocol.events import RoundSummary
from edgefl.protocol.process import RoundMetrics


def by_client(metrics: RoundMetrics) -> dict[str, float]:
    """How the accuracy differs from client to client, by the names that programs read; {} where that is not known."""
    found = metrics.accuracies
    return {} if found is None else {f"accuracy_{name}": value for name, value in vars(found).items()}


def learned(summary: RoundSummary) -> RoundMetrics | None:
    """What a round says of a model; None for one that was abandoned, and for statistics: they have no model."""
    found = summary.metrics
    # A model that is sure of every answer has no loss, and one whose answers are all wrong has one.
    return found if found is not None and (found.loss_sum or found.num_correct) else None


def place(summary: RoundSummary) -> int:
    """Where a round stands in a chart: by its number, or by the later version that it evaluated."""
    return max(summary.round_num, summary.base_version)


def last_confusion(rounds: Iterable[RoundSummary], classes: tuple[str, ...]) -> tuple[RoundSummary, Confusion] | None:
    """Of the last round that counted answers by class; None where none did."""
    last = None
    for summary in rounds:
        if counts_answers(summary):
            last = summary
    if last is None or last.metrics is None:
        return None
    return last, last.metrics.confusion_matrix(classes)


def counts_answers(summary: RoundSummary) -> bool:
    """By class."""
    return summary.metrics is not None and bool(summary.metrics.confusion)
