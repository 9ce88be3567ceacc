"""Parts for the tests of the device's machine: a machine in each phase, one event of each kind."""

from __future__ import annotations

from protocol_kit import ENCODING, MODEL, failure, update

from edgefl.protocol.messages import (
    Accepted,
    Assignment,
    CheckInAnswer,
    Plan,
    Rejection,
    ReleaseInfo,
    RetryWindow,
    TrainingWork,
)
from edgefl.protocol.session import SessionConfig, SessionMachine, SessionPhase
from edgefl.protocol.session_events import (
    CheckInAnswered,
    ModelReady,
    ModelUnavailable,
    NotEligible,
    PlanNotUnderstood,
    ReceiptReceived,
    ReleaseFailed,
    ReleaseFetched,
    RpcFailed,
    SaveFailed,
    SessionEvent,
    Started,
    StopRequested,
    TimerFired,
    UpdateSaved,
    WorkDone,
    WorkFailed,
    WorkStopped,
)
from edgefl.types import SgdOptions

CONFIG = SessionConfig(encodings=(ENCODING,), backoff_base_s=1.0, backoff_cap_s=8.0, not_eligible_s=60.0)
TRAIN = TrainingWork(SgdOptions(0.1, 8, 1, 0.0, 0.0, 0.0, 0.0), True, 100)
WINDOW = RetryWindow(0.0, 0.0)
LATER = RetryWindow(10.0, 20.0)
JOB = Assignment("train", 3, 7, Plan(MODEL, TRAIN, ENCODING), "d" * 64, 16, deadline_s=100.0)
UPDATE = update("d" * 64, 5, round_num=3)
RELEASE = ReleaseInfo("motion", 2, "a" * 64, 1000)


def upper(_: float, high: float) -> float:
    """The chance that always draws the top of the window."""
    return high


def machine(*events: SessionEvent, config: SessionConfig = CONFIG, now: float = 0.0) -> SessionMachine:
    """A machine that took ``events``, all at ``now``."""
    made = SessionMachine(config, upper)
    for event in events:
        made.handle(event, now)
    return made


def answer(outcome: Assignment | Rejection = JOB, retry: RetryWindow = WINDOW, **more: object) -> CheckInAnswered:
    return CheckInAnswered(CheckInAnswer(outcome, retry, **more))  # type: ignore[arg-type]


IDLE = (Started(),)
CHECKED_IN = (*IDLE, TimerFired())
ASSIGNED = (*CHECKED_IN, answer())
TRAINING = (*ASSIGNED, ModelReady())
SAVING = (*TRAINING, WorkDone(UPDATE))
REPORTING = (*SAVING, UpdateSaved())
PATHS: dict[SessionPhase, tuple[SessionEvent, ...]] = {
    SessionPhase.NEW: (),
    SessionPhase.IDLE: IDLE,
    SessionPhase.CHECKED_IN: CHECKED_IN,
    SessionPhase.ASSIGNED: ASSIGNED,
    SessionPhase.TRAINING: TRAINING,
    SessionPhase.SAVING: SAVING,
    SessionPhase.REPORTING: REPORTING,
    SessionPhase.HALTED: (*IDLE, StopRequested()),
}
ONE_OF_EACH: tuple[SessionEvent, ...] = (
    Started(),
    TimerFired(),
    NotEligible("hot"),
    answer(),
    PlanNotUnderstood(failure()),
    RpcFailed("no route", transient=True),
    ModelReady(),
    ModelUnavailable("bad digest"),
    WorkDone(UPDATE),
    WorkFailed(failure(round_num=3)),
    WorkStopped(),
    UpdateSaved(),
    SaveFailed("disk full"),
    ReceiptReceived(Accepted(1), WINDOW),
    ReleaseFetched(RELEASE),
    ReleaseFailed(RELEASE, "no route"),
    StopRequested(),
)
