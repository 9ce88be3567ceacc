"""How the devices of one round failed: counted by kind, with one example of each.

A round may have thousands of failures, and a person needs what they have in common and one of them to look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgefl.errors import InvalidUpdateError
from edgefl.protocol.messages import WorkFailure

MAX_KINDS = 16
"""Kinds come from devices: beyond so many, further ones are counted as ``OTHER``."""

OTHER = "other kinds"

SHOWN_KINDS = 3
"""In a sentence; all are in ``--json``."""

SHOWN_TEXT = 160
"""Characters of an example in a sentence: with three of them it stays within the 500 that travel."""


@dataclass(frozen=True)
class FailureCount:
    """``count`` failures of ``kind``; ``device`` and ``message`` are those of one of them."""

    kind: str
    count: int
    device: str
    message: str

    def __str__(self) -> str:
        text = self.message if len(self.message) <= SHOWN_TEXT else f"{self.message[:SHOWN_TEXT]}..."
        where = f"device {self.device}" if self.count == 1 else f"{self.count} devices, one is {self.device}"
        return f"{self.kind}: {text} ({where})"


def refusal(task: str, round_num: int, error: InvalidUpdateError) -> WorkFailure:
    """What an update that the gate refused is to its round: a failure, of a kind for each reason."""
    return WorkFailure(task, round_num, f"{type(error).__name__} {error.reason.name}", str(error))


def counted(failures: tuple[FailureCount, ...], device: str, failure: WorkFailure) -> tuple[FailureCount, ...]:
    """``failures`` and one more."""
    kinds = [one.kind for one in failures]
    kind = failure.kind if failure.kind in kinds or len(failures) < MAX_KINDS else OTHER
    if kind not in kinds:
        return (*failures, FailureCount(kind, 1, device, failure.message))
    place = kinds.index(kind)
    more = replace(failures[place], count=failures[place].count + 1)
    return (*failures[:place], more, *failures[place + 1 :])


def told(failures: Sequence[FailureCount]) -> str:
    """All of them in a sentence, the most frequent first; '' for none."""
    ordered = sorted(failures, key=lambda one: -one.count)
    rest = sum(one.count for one in ordered[SHOWN_KINDS:])
    parts = [str(one) for one in ordered[:SHOWN_KINDS]]
    return "; ".join([*parts, *([f"{rest} other failures"] if rest else [])])
