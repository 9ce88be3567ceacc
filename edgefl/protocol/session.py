"""The device's machine: check in, fetch, train, save, report. Sans-I/O; the clock and the chance are parameters.

Theory of operation
-------------------
::

    NEW ──> IDLE ──> CHECKED_IN ──> ASSIGNED ──> TRAINING ──> SAVING ──> REPORTING ──> IDLE
     └────────────────────────────────(an outbox was found)───────────────^        any ──> HALTED

``SAVING`` and ``REPORTING`` together are the REPORTING of the design: the update is made durable, and only then sent.
A session waits for exactly one thing: in IDLE for the timer; in CHECKED_IN, ASSIGNED and REPORTING for its call, or,
after a transient failure of that call, for the timer that repeats it; in TRAINING for the work, while the timer guards
the round's deadline; in SAVING for the disk. ``TRANSITIONS`` lists every legal event of every phase and the phases it
may lead to; anything else raises ``LocalProtocolError`` and leaves the state as it was.

Invariants
----------
- A report of an update is sent only after it was saved, and repeated until a receipt (or a refusal for good) comes.
- The outbox is cleared only by a receipt or by a refusal for good.
- A release version is fetched only if it is above the highest one seen (I7).
- A failure is not saved: if it is lost, the server's deadline says the same.
- Device memory is adopted only when its round counted the device (``edgefl.protocol.session_memory``).

Retries: full jitter, ``uniform(0, min(cap, base * 2**failures))``, or the server's window where it gave one
(AWS Architecture Blog, "Exponential Backoff and Jitter", 2015). What is refused for good comes back near the cap.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from edgefl.errors import LocalProtocolError
from edgefl.protocol.messages import (
    KINDS,
    PLAN_NOT_UNDERSTOOD,
    Accepted,
    AlreadyAccepted,
    Assignment,
    ClientUpdate,
    Fate,
    Receipt,
    Refused,
    Rejection,
    Report,
    RetryWindow,
    WorkFailure,
)
from edgefl.protocol.session_events import (
    CheckInAnswered,
    ClearOutbox,
    FetchModel,
    FetchRelease,
    Halt,
    ModelReady,
    ModelUnavailable,
    NotEligible,
    PlanNotUnderstood,
    ReceiptReceived,
    ReleaseFailed,
    ReleaseFetched,
    RpcFailed,
    SaveAssignment,
    SaveFailed,
    SaveUpdate,
    SendCheckIn,
    SendReport,
    SessionEffect,
    SessionEvent,
    Started,
    StartTimer,
    StartWork,
    StopRequested,
    StopTimer,
    StopWork,
    TimerFired,
    UpdateSaved,
    WorkDone,
    WorkFailed,
    WorkStopped,
)
from edgefl.protocol.session_memory import begin, propose, settle
from edgefl.protocol.session_state import Context, Result, SessionConfig, SessionPhase, SessionState, Uniform

__all__ = ["TRANSITIONS", "SessionConfig", "SessionMachine", "SessionPhase", "SessionState", "step"]


def step(state: SessionState, event: SessionEvent, now: float, config: SessionConfig, uniform: Uniform) -> Result:
    """The next state and the effects, in order. Raises ``LocalProtocolError`` for an event that is illegal now."""
    _check_legal(state, event)
    handler, targets = TRANSITIONS[state.phase][type(event)]
    if isinstance(event, TimerFired):
        state = replace(state, timer_at=None)
    after, effects = handler(Context(config, uniform, now), state, event)
    assert after.phase in targets, f"{state.phase} + {type(event).__name__} -> {after.phase}"
    restarted = any(isinstance(effect, StartTimer) for effect in effects)
    if state.timer_at is not None and after.phase is not state.phase and not restarted:
        # A timer belongs to the phase that started it.
        after, effects = replace(after, timer_at=None), (StopTimer(), *effects)
    return after, effects


class SessionMachine:
    """A session in its present ``state``; all logic is in ``step``."""

    def __init__(self, config: SessionConfig, uniform: Uniform) -> None:
        self._config = config
        self._uniform = uniform
        self._state = SessionState()

    @property
    def state(self) -> SessionState:
        return self._state

    def handle(self, event: SessionEvent, now: float) -> tuple[SessionEffect, ...]:
        """Take ``event`` at monotonic ``now``. Raises ``LocalProtocolError``; the state then stays as it was."""
        self._state, effects = step(self._state, event, now, self._config, self._uniform)
        return effects


def _check_legal(state: SessionState, event: SessionEvent) -> None:
    name, phase = type(event).__name__, state.phase.value
    if type(event) not in TRANSITIONS[state.phase]:
        legal = ", ".join(sorted(kind.__name__ for kind in TRANSITIONS[state.phase]))
        raise LocalProtocolError(f"{name} in phase {phase}; expected one of {legal}")
    if isinstance(event, TimerFired) and state.timer_at is None:
        raise LocalProtocolError(f"TimerFired in phase {phase} while no timer runs")
    waiting = state.timer_at is not None and state.phase in (SessionPhase.ASSIGNED, SessionPhase.REPORTING)
    if waiting and isinstance(event, ModelReady | ModelUnavailable | RpcFailed | ReceiptReceived):
        raise LocalProtocolError(f"{name} in phase {phase} while no call is in flight; its retry waits for the timer")
    if isinstance(event, WorkDone | WorkFailed):
        report = event.update if isinstance(event, WorkDone) else event.failure
        assert state.assignment is not None
        wanted = (state.assignment.task, state.assignment.round_num)
        if (report.task, report.round_num) != wanted:
            raise LocalProtocolError(f"{name} for {report.task} round {report.round_num}; expected {wanted}")


# ------------------------------------------------------------------------------------------------ handlers


def _start(ctx: Context, state: SessionState, event: Started) -> Result:
    state = replace(state, last_task=event.last_task, last_round=event.last_round)
    state = replace(state, releases=event.releases, proposals=event.proposals)
    if event.outbox is not None:
        return _send_report(ctx, state, event.outbox)
    return ctx.wait(state, ctx.draw(event.window or RetryWindow(0.0, 0.0)), phase=SessionPhase.IDLE)


def _check_in(ctx: Context, state: SessionState, _: TimerFired) -> Result:
    effect = SendCheckIn(state.asked.task, state.asked.round_num, ctx.config.check_in_timeout_s)
    return replace(state, phase=SessionPhase.CHECKED_IN), (effect,)


def _not_eligible(ctx: Context, state: SessionState, event: NotEligible) -> Result:
    delay = ctx.uniform(ctx.config.not_eligible_s / 2, ctx.config.not_eligible_s)
    return ctx.wait(state, delay, phase=SessionPhase.IDLE, last_error=f"not eligible: {event.reason}")


def _answered(ctx: Context, state: SessionState, event: CheckInAnswered) -> Result:
    answer = event.answer
    state = replace(state, failures=0, last_error="")
    asked = state.asked
    state, settled = settle(state, answer.last_fate)
    fresh = state.unseen(answer.releases)
    state, fetches = replace(state, fetching=state.fetching + fresh), tuple(FetchRelease(info) for info in fresh)
    if isinstance(answer.outcome, Rejection):
        return ctx.wait(state, ctx.draw(answer.retry), *settled, *fetches, phase=SessionPhase.IDLE)
    state, dropped, reason = begin(state, answer.outcome, asked)
    if reason:
        after, effects = _fail(ctx, state, answer.outcome, "MemoryUnsettled", reason)
    else:
        after, effects = _assigned(ctx, state, answer.outcome, answer.retry)
    return after, (*settled, *dropped, *fetches, *effects)


def _assigned(ctx: Context, state: SessionState, assignment: Assignment, retry: RetryWindow) -> Result:
    kind, encoding = KINDS[type(assignment.plan.work)], assignment.plan.encoding
    for what, name, known in (("kind", kind, ctx.config.kinds), ("encoding", encoding, ctx.config.encodings)):
        if name not in known:
            message = f"{what} is {name!r}; this agent knows {', '.join(known)}; update the agent"
            return _fail(ctx, state, assignment, PLAN_NOT_UNDERSTOOD, message)
    state = replace(
        state, phase=SessionPhase.ASSIGNED, assignment=assignment, deadline_at=ctx.now + assignment.deadline_s
    )
    saved = SaveAssignment(assignment, retry)
    if assignment.model_digest:
        return state, (saved, FetchModel(assignment.model_digest, assignment.model_size_bytes))
    state, effects = _train(ctx, state, ModelReady())
    return state, (saved, *effects)


def _plan_not_understood(ctx: Context, state: SessionState, event: PlanNotUnderstood) -> Result:
    return _send_report(ctx, replace(state, failures=0, last_error=event.failure.message), event.failure)


def _check_in_failed(ctx: Context, state: SessionState, event: RpcFailed) -> Result:
    delay = ctx.backoff(state.failures, event.retry) if event.transient else ctx.refused(event.retry)
    changes = {"phase": SessionPhase.IDLE, "failures": state.failures + 1, "last_error": event.message}
    return ctx.wait(state, delay, **changes)


def _fetch_again(_ctx: Context, state: SessionState, _: TimerFired) -> Result:
    assert state.assignment is not None
    return state, (FetchModel(state.assignment.model_digest, state.assignment.model_size_bytes),)


def _fetch_failed(ctx: Context, state: SessionState, event: RpcFailed) -> Result:
    assert state.assignment is not None
    if not event.transient:
        return _fail(ctx, state, state.assignment, "ModelUnavailable", event.message)
    delay = ctx.backoff(state.failures, event.retry)
    if ctx.now + delay >= state.deadline_at:
        return _fail(ctx, state, state.assignment, "DeadlineExceeded", f"no model before the deadline: {event.message}")
    return ctx.wait(state, delay, failures=state.failures + 1, last_error=event.message)


def _no_model(ctx: Context, state: SessionState, event: ModelUnavailable) -> Result:
    assert state.assignment is not None
    return _fail(ctx, state, state.assignment, "ModelUnavailable", event.message)


def _train(ctx: Context, state: SessionState, _: ModelReady) -> Result:
    assert state.assignment is not None
    delay = max(0.0, state.deadline_at - ctx.now)
    changes = {"phase": SessionPhase.TRAINING, "failures": 0}
    return ctx.wait(state, delay, StartWork(state.assignment), **changes)


def _deadline(_ctx: Context, state: SessionState, _: TimerFired) -> Result:
    return state, (StopWork(),)


def _work_done(_: Context, state: SessionState, event: WorkDone) -> Result:
    return replace(state, phase=SessionPhase.SAVING, report=event.update), (SaveUpdate(event.update),)


def _work_failed(ctx: Context, state: SessionState, event: WorkFailed) -> Result:
    if state.stopping:
        return _halt(ctx, state, event)
    return _send_report(ctx, replace(state, last_error=event.failure.message), event.failure)


def _work_stopped(ctx: Context, state: SessionState, event: WorkStopped) -> Result:
    if state.stopping:
        return _halt(ctx, state, event)
    assert state.assignment is not None
    return _fail(ctx, state, state.assignment, "WorkStopped", event.reason)


def _saved(ctx: Context, state: SessionState, event: UpdateSaved) -> Result:
    if state.stopping:
        return _halt(ctx, state, event)  # The outbox is durable: the next start delivers it.
    assert state.report is not None
    return _send_report(ctx, state, state.report)


def _save_failed(ctx: Context, state: SessionState, event: SaveFailed) -> Result:
    if state.stopping:
        return _halt(ctx, state, event)
    assert state.assignment is not None
    return _fail(ctx, state, state.assignment, "StorageError", event.message)


def _report_again(ctx: Context, state: SessionState, _: TimerFired) -> Result:
    report = state.report
    assert report is not None
    if isinstance(report, ClientUpdate):
        report = replace(report, attempt=report.attempt + 1)
    return _send_report(ctx, state, report)


def _report_failed(ctx: Context, state: SessionState, event: RpcFailed) -> Result:
    state = replace(state, last_error=event.message)
    if event.transient:
        return ctx.wait(state, ctx.backoff(state.failures, event.retry), failures=state.failures + 1)
    return _put_away(ctx, state, None, event.retry, ctx.refused(event.retry))


def _receipt(ctx: Context, state: SessionState, event: ReceiptReceived) -> Result:
    report, receipt = state.report, event.receipt
    assert report is not None
    state = replace(state, failures=0, last_receipt=receipt)
    if isinstance(receipt, Accepted | AlreadyAccepted):
        state = replace(state, last_task=report.task, last_round=report.round_num, last_fate=Fate.OPEN, last_error="")
    elif isinstance(receipt, Refused):
        state = replace(state, last_error=f"refused ({receipt.reason.name}): {receipt.message}")
    return _put_away(ctx, state, receipt, event.retry, ctx.draw(event.retry))


def _put_away(
    ctx: Context, state: SessionState, receipt: Receipt | None, retry: RetryWindow | None, delay_s: float
) -> Result:
    state, proposal = propose(state, receipt)
    clear = ClearOutbox(receipt, state.last_task, state.last_round, retry, proposal)
    return ctx.wait(state, delay_s, clear, phase=SessionPhase.IDLE, assignment=None, report=None)


def _send_report(ctx: Context, state: SessionState, report: Report) -> Result:
    state = replace(state, phase=SessionPhase.REPORTING, report=report)
    return state, (SendReport(report, ctx.config.report_timeout_s),)


def _fail(ctx: Context, state: SessionState, assignment: Assignment, kind: str, message: str) -> Result:
    failure = WorkFailure(assignment.task, assignment.round_num, kind, message)
    return _send_report(ctx, replace(state, failures=0, last_error=message), failure)


def _release_fetched(_: Context, state: SessionState, event: ReleaseFetched) -> Result:
    return state.with_seen(event.info), ()


def _release_failed(_: Context, state: SessionState, event: ReleaseFailed) -> Result:
    fetching = tuple(info for info in state.fetching if info != event.info)
    return replace(state, fetching=fetching, last_error=event.message), ()


def _halt(_ctx: Context, state: SessionState, _event: SessionEvent) -> Result:
    return replace(state, phase=SessionPhase.HALTED, stopping=True), (Halt(),)


def _stop_work(_ctx: Context, state: SessionState, _event: StopRequested) -> Result:
    return replace(state, stopping=True), () if state.stopping else (StopWork(),)


def _stop_later(_ctx: Context, state: SessionState, _event: StopRequested) -> Result:
    return replace(state, stopping=True), ()


# ------------------------------------------------------------------------------------------------ the table

Handler = Callable[[Context, SessionState, Any], Result]
Row = tuple[Handler, frozenset[SessionPhase]]


def _row(handler: Handler, *targets: SessionPhase) -> Row:
    return handler, frozenset(targets)


_P = SessionPhase
_RELEASES: Mapping[SessionPhase, Mapping[type, Row]] = {
    phase: {ReleaseFetched: _row(_release_fetched, phase), ReleaseFailed: _row(_release_failed, phase)} for phase in _P
}

TRANSITIONS: Mapping[SessionPhase, Mapping[type, Row]] = {
    _P.NEW: {
        Started: _row(_start, _P.IDLE, _P.REPORTING),
        StopRequested: _row(_halt, _P.HALTED),
    },
    _P.IDLE: {
        TimerFired: _row(_check_in, _P.CHECKED_IN),
        StopRequested: _row(_halt, _P.HALTED),
        **_RELEASES[_P.IDLE],
    },
    _P.CHECKED_IN: {
        NotEligible: _row(_not_eligible, _P.IDLE),
        CheckInAnswered: _row(_answered, _P.IDLE, _P.ASSIGNED, _P.TRAINING, _P.REPORTING),
        PlanNotUnderstood: _row(_plan_not_understood, _P.REPORTING),
        RpcFailed: _row(_check_in_failed, _P.IDLE),
        StopRequested: _row(_halt, _P.HALTED),
        **_RELEASES[_P.CHECKED_IN],
    },
    _P.ASSIGNED: {
        TimerFired: _row(_fetch_again, _P.ASSIGNED),
        ModelReady: _row(_train, _P.TRAINING),
        ModelUnavailable: _row(_no_model, _P.REPORTING),
        RpcFailed: _row(_fetch_failed, _P.ASSIGNED, _P.REPORTING),
        StopRequested: _row(_halt, _P.HALTED),
        **_RELEASES[_P.ASSIGNED],
    },
    _P.TRAINING: {
        TimerFired: _row(_deadline, _P.TRAINING),
        WorkDone: _row(_work_done, _P.SAVING),
        WorkFailed: _row(_work_failed, _P.REPORTING, _P.HALTED),
        WorkStopped: _row(_work_stopped, _P.REPORTING, _P.HALTED),
        StopRequested: _row(_stop_work, _P.TRAINING),
        **_RELEASES[_P.TRAINING],
    },
    _P.SAVING: {
        UpdateSaved: _row(_saved, _P.REPORTING, _P.HALTED),
        SaveFailed: _row(_save_failed, _P.REPORTING, _P.HALTED),
        StopRequested: _row(_stop_later, _P.SAVING),
        **_RELEASES[_P.SAVING],
    },
    _P.REPORTING: {
        TimerFired: _row(_report_again, _P.REPORTING),
        ReceiptReceived: _row(_receipt, _P.IDLE),
        RpcFailed: _row(_report_failed, _P.REPORTING, _P.IDLE),
        StopRequested: _row(_halt, _P.HALTED),
        **_RELEASES[_P.REPORTING],
    },
    _P.HALTED: {
        StopRequested: _row(_stop_later, _P.HALTED),
        **_RELEASES[_P.HALTED],
    },
}
"""Every legal event of every phase, its handler, and the phases that it may lead to."""
