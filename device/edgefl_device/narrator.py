"""What the agent tells people about its session: lines for the log, and what its status shows. Pure.

Invariants
----------
- A line says what happened, not what a next step hopes for: a failure is a warning with its round, kind and text, and
  says when the next try comes. What the server noted of a failure is not a success.
- What failed last stays in the status until something else fails, also while the agent waits or works again.
- The same trouble in a row (no link, not eligible) is told once, and its end once, by what ended it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgefl.protocol.messages import (
    Accepted,
    AlreadyAccepted,
    Late,
    Receipt,
    Refused,
    Rejection,
    Report,
    WorkFailure,
)
from edgefl.protocol.session_events import (
    CheckInAnswered,
    NotEligible,
    ReceiptReceived,
    ReleaseFailed,
    RpcFailed,
    SessionEffect,
    SessionEvent,
    StartTimer,
)
from edgefl.protocol.session_state import SessionPhase, SessionState
from edgefl_device.status import without_digits

_WAITS = (SessionPhase.IDLE, SessionPhase.ASSIGNED, SessionPhase.REPORTING)
"""The phases in which a timer starts the next try; in TRAINING it ends the round."""


@dataclass(frozen=True)
class Line:
    """A line of the log."""

    text: str
    warning: bool = False


@dataclass(frozen=True)
class Story:
    """What was told so far. Times: seconds since 1970, 0 for none.

    ``no_work``: why the last check-in brought none, in the server's words. ``outcome``: what became of the last report,
    of round ``round_num`` of ``task``. ``failure``: what failed last. ``trouble``: what keeps the agent from working at
    this moment, and is told already; ``unreachable``: that it is the link.
    """

    task: str = ""
    round_num: int = 0
    outcome: str = ""
    accepted: int = 0
    failed: int = 0
    failure: str = ""
    failure_at: float = 0.0
    no_work: str = ""
    next_try_at: float = 0.0
    trouble: str = ""
    unreachable: bool = False


def tell(
    story: Story,
    event: SessionEvent,
    before: SessionState,
    after: SessionState,
    effects: tuple[SessionEffect, ...],
    wall_now: float,
) -> tuple[Story, tuple[Line, ...]]:
    """The story after ``event`` led from ``before`` to ``after``, and the lines that say so."""
    delay = next((effect.delay_s for effect in effects if isinstance(effect, StartTimer)), None)
    if after.phase not in _WAITS:
        story = replace(story, next_try_at=0.0)
    elif delay is not None:
        story = replace(story, next_try_at=wall_now + delay)
    again = "" if delay is None or after.phase not in _WAITS else f"; next try {_in(delay)}"
    lines = list[Line]()
    if isinstance(event, CheckInAnswered | ReceiptReceived) and story.trouble:
        lines.append(Line("the server answers again" if story.unreachable else "the device may work again"))
        story = replace(story, trouble="", unreachable=False)
    if isinstance(event, CheckInAnswered):
        reason = event.answer.outcome.reason if isinstance(event.answer.outcome, Rejection) else ""
        if reason and without_digits(reason) != without_digits(story.no_work):
            lines.append(Line(f"no work: {reason}"))
        story = replace(story, no_work=reason)
    if isinstance(after.report, WorkFailure) and after.report is not before.report:
        story, line = _failed(story, after.report, f"{after.report.kind}: {after.report.message}", wall_now)
        lines.append(line)
    elif isinstance(event, RpcFailed | NotEligible):
        story, more = _hindered(story, event, before, after, again, wall_now)
        lines += more
    elif isinstance(event, ReceiptReceived) and before.report is not None:
        story, line = _received(story, before.report, event.receipt, again, wall_now)
        lines.append(line)
    elif isinstance(event, ReleaseFailed):
        lines.append(Line(f"{event.message}; it is tried again after a later check-in", warning=True))
    if after.phase is SessionPhase.TRAINING and before.phase is not after.phase and after.assignment is not None:
        lines.append(Line(f"{_place(after.assignment.task, after.assignment.round_num)}: work begins"))
    return story, tuple(lines)


def _failed(story: Story, report: Report, why: str, wall_now: float) -> tuple[Story, Line]:
    text = f"{_place(report.task, report.round_num)} failed: {why}"
    return replace(story, failed=story.failed + 1, failure=text, failure_at=wall_now), Line(text, warning=True)


def _hindered(
    story: Story,
    event: RpcFailed | NotEligible,
    before: SessionState,
    after: SessionState,
    again: str,
    wall_now: float,
) -> tuple[Story, list[Line]]:
    report = before.report
    if isinstance(report, WorkFailure) and after.report is None:
        place = _place(report.task, report.round_num)
        return story, [
            Line(f"{place}: the server was not told of the failure: {after.last_error}{again}", warning=True)
        ]
    if report is not None and after.report is None:  # refused for good
        story, line = _failed(story, report, f"its report is given up: {after.last_error}", wall_now)
        return story, [replace(line, text=line.text + again)]
    told = after.last_error == story.trouble
    story = replace(story, trouble=after.last_error, unreachable=isinstance(event, RpcFailed))
    return story, [] if told else [Line(f"{after.last_error}{again}", warning=True)]


def _received(story: Story, report: Report, receipt: Receipt, again: str, wall_now: float) -> tuple[Story, Line]:
    place = _place(report.task, report.round_num)
    story = replace(story, task=report.task, round_num=report.round_num)
    if isinstance(receipt, Refused):
        why = f"the update was refused ({receipt.reason.name}): {receipt.message}"
        story, line = _failed(replace(story, outcome=why), report, why, wall_now)
        return story, replace(line, text=line.text + again)
    match receipt:
        case Accepted():
            story = replace(story, accepted=story.accepted + 1, outcome=f"accepted as {receipt.sequence}")
        case AlreadyAccepted():
            outcome = f"was accepted before, as {receipt.sequence}"
            story = replace(story, accepted=story.accepted + 1, outcome=outcome)
        case Late():
            story = replace(story, outcome="late: the round had what it wanted")
        case _:
            failed = f"failed: {report.kind}: {report.message}" if isinstance(report, WorkFailure) else "noted"
            story = replace(story, outcome=failed)
            return story, Line(f"{place}: the server was told of the failure{again}")
    return story, Line(f"{place}: {story.outcome}")


def _place(task: str, round_num: int) -> str:
    return f"task {task} round {round_num}"


def _in(delay_s: float) -> str:
    return f"in {delay_s:.0f} s" if delay_s >= 1 else "at once"
