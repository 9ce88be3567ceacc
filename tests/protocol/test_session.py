"""The device's machine (design §5): every row of its table, its retries, its outbox; illegal events change nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_kit import ENCODING, MODEL, failure, update

from edgefl.errors import ConfigError, LocalProtocolError, UpdateRefusal
from edgefl.protocol.messages import (
    Accepted,
    AlreadyAccepted,
    Assignment,
    CheckInAnswer,
    Fate,
    Late,
    Noted,
    Plan,
    Refused,
    Rejection,
    ReleaseInfo,
    RetryWindow,
    StatisticsWork,
    TrainingWork,
)
from edgefl.protocol.session import TRANSITIONS, SessionConfig, SessionMachine, SessionPhase, SessionState, step
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

CONFIG = SessionConfig(encodings=(ENCODING,), backoff_base_s=1.0, backoff_cap_s=8.0, not_eligible_s=60.0)
TRAIN = TrainingWork(0.1, 8, 1, 0.0, 0.0, 0.0, 0.0, True, 100)
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

# ------------------------------------------------------------------------------------------------ the table


def test_each_path_leads_to_its_phase() -> None:
    for phase, path in PATHS.items():
        assert machine(*path).state.phase is phase
    assert {type(event) for event in ONE_OF_EACH} == {kind for row in TRANSITIONS.values() for kind in row}


@pytest.mark.parametrize("phase", list(SessionPhase))
def test_an_event_outside_the_table_raises_and_changes_nothing(phase: SessionPhase) -> None:
    for event in ONE_OF_EACH:
        made = machine(*PATHS[phase])
        before = made.state
        if type(event) not in TRANSITIONS[phase]:
            with pytest.raises(LocalProtocolError, match=type(event).__name__):
                made.handle(event, 1.0)
            assert made.state is before


def test_a_whole_round() -> None:
    """Design §5: IDLE -> CHECKED_IN -> ASSIGNED -> TRAINING -> REPORTING -> IDLE, with one durable write."""
    made, seen = SessionMachine(CONFIG, upper), []
    events = (*REPORTING, ReceiptReceived(Accepted(9), LATER))
    for event in events:
        seen.append(made.handle(event, 5.0))
    assert seen == [
        (StartTimer(0.0),),
        (SendCheckIn("", 0, CONFIG.check_in_timeout_s),),
        (SaveAssignment(JOB, WINDOW), FetchModel("d" * 64, 16)),
        (StartWork(JOB), StartTimer(100.0)),
        (StopTimer(), SaveUpdate(UPDATE)),
        (SendReport(UPDATE, CONFIG.report_timeout_s),),
        (ClearOutbox(Accepted(9), "train", 3, LATER), StartTimer(20.0)),
    ]
    assert made.handle(TimerFired(), 25.0) == (SendCheckIn("train", 3, CONFIG.check_in_timeout_s),)


# ------------------------------------------------------------------------------------------------ starting


def test_a_saved_update_is_reported_before_anything_else() -> None:
    made = SessionMachine(CONFIG, upper)
    assert made.handle(Started(outbox=UPDATE), 0.0) == (SendReport(UPDATE, CONFIG.report_timeout_s),)
    effects = made.handle(ReceiptReceived(AlreadyAccepted(4), WINDOW), 1.0)
    assert effects == (ClearOutbox(AlreadyAccepted(4), "train", 3, WINDOW), StartTimer(0.0))
    assert made.state.phase is SessionPhase.IDLE


def test_a_booting_device_draws_its_first_delay_from_the_stored_window() -> None:
    assert SessionMachine(CONFIG, upper).handle(Started(window=LATER), 0.0) == (StartTimer(20.0),)


def test_the_last_round_survives_a_restart_and_its_fate_is_learned_once() -> None:
    made = machine(Started(last_task="train", last_round=3))
    assert made.handle(TimerFired(), 0.0) == (SendCheckIn("train", 3, CONFIG.check_in_timeout_s),)
    made.handle(answer(Rejection("none"), last_fate=Fate.OPEN), 0.0)
    assert (made.state.last_task, made.state.last_round) == ("train", 3)
    made.handle(TimerFired(), 0.0)
    made.handle(answer(Rejection("none"), last_fate=Fate.COUNTED), 0.0)
    assert (made.state.last_task, made.state.last_fate) == ("", Fate.COUNTED)


# ------------------------------------------------------------------------------------------------ checking in


def test_a_rejection_is_followed_by_its_window() -> None:
    made = machine(*CHECKED_IN)
    assert made.handle(answer(Rejection("no task"), LATER), 3.0) == (StartTimer(20.0),)
    assert made.state.timer_at == 23.0


def test_a_device_that_is_not_eligible_sends_nothing_and_says_why() -> None:
    made = machine(*CHECKED_IN)
    assert made.handle(NotEligible("82 degrees"), 0.0) == (StartTimer(60.0),)
    assert made.state.last_error == "not eligible: 82 degrees"


def test_backoff_doubles_to_its_cap_and_a_success_resets_it() -> None:
    made, delays = machine(*IDLE), []
    for _ in range(6):
        made.handle(TimerFired(), 0.0)
        (timer,) = made.handle(RpcFailed("no route", transient=True), 0.0)
        assert isinstance(timer, StartTimer)
        delays.append(timer.delay_s)
    assert delays == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    made.handle(TimerFired(), 0.0)
    made.handle(answer(Rejection("none")), 0.0)
    made.handle(TimerFired(), 0.0)
    assert made.handle(RpcFailed("no route", transient=True), 0.0) == (StartTimer(1.0),)


def test_backoff_starts_at_zero_and_never_overflows() -> None:
    made = SessionMachine(CONFIG, lambda low, _: low)
    made.handle(Started(), 0.0)
    for _ in range(2000):
        made.handle(TimerFired(), 0.0)
        assert made.handle(RpcFailed("no route", transient=True), 0.0) == (StartTimer(0.0),)


def test_the_servers_window_beats_the_backoff() -> None:
    made = machine(*CHECKED_IN)
    assert made.handle(RpcFailed("busy", transient=True, retry=LATER), 0.0) == (StartTimer(20.0),)


def test_a_check_in_refused_for_good_comes_back_near_the_cap() -> None:
    bounds: list[tuple[float, float]] = []

    def spy(low: float, high: float) -> float:
        bounds.append((low, high))
        return high

    made = SessionMachine(CONFIG, spy)
    for event in (*CHECKED_IN, RpcFailed("revoked", transient=False)):
        made.handle(event, 0.0)
    assert bounds[-1] == (4.0, 8.0)
    assert made.state.last_error == "revoked"


# ------------------------------------------------------------------------------------------------ the plan, the model


@pytest.mark.parametrize(
    ("config", "plan", "named"),
    [
        (CONFIG, Plan(MODEL, TRAIN, "int9"), "'int9'"),
        (replace(CONFIG, kinds=("training",)), Plan(MODEL, StatisticsWork(1.0, 20, 10), ENCODING), "'statistics'"),
    ],
)
def test_a_plan_that_the_agent_does_not_know_is_refused_politely(config: SessionConfig, plan: Plan, named: str) -> None:
    made = machine(*CHECKED_IN, config=config)
    (effect,) = made.handle(answer(replace(JOB, plan=plan)), 0.0)
    assert isinstance(effect, SendReport)
    assert effect.report.kind == "PlanNotUnderstood"  # type: ignore[union-attr]
    assert named in effect.report.message  # type: ignore[union-attr]
    assert (effect.report.task, effect.report.round_num) == ("train", 3)
    assert made.handle(ReceiptReceived(Noted(), WINDOW), 0.0)[-1] == StartTimer(0.0)


def test_a_plan_that_cannot_be_read_is_refused_politely() -> None:
    made = machine(*CHECKED_IN)
    assert made.handle(PlanNotUnderstood(failure()), 0.0) == (SendReport(failure(), CONFIG.report_timeout_s),)


def test_work_without_a_model_starts_at_once() -> None:
    made = machine(*CHECKED_IN)
    job = replace(JOB, model_digest="", model_size_bytes=0)
    assert made.handle(answer(job), 0.0) == (SaveAssignment(job, WINDOW), StartWork(job), StartTimer(100.0))


def test_a_model_is_fetched_again_until_the_deadline() -> None:
    made = machine(*ASSIGNED)
    assert made.handle(RpcFailed("cut off", transient=True), 50.0) == (StartTimer(1.0),)
    for event in (ModelReady(), RpcFailed("again", transient=True), ModelUnavailable("no")):
        with pytest.raises(LocalProtocolError, match="no call is in flight"):
            made.handle(event, 50.5)
    assert made.handle(TimerFired(), 51.0) == (FetchModel("d" * 64, 16),)
    (effect,) = made.handle(RpcFailed("cut off", transient=True), 98.0)
    assert isinstance(effect, SendReport)
    assert effect.report.kind == "DeadlineExceeded"  # type: ignore[union-attr]


@pytest.mark.parametrize("event", [ModelUnavailable("bad digest"), RpcFailed("bad digest", transient=False)])
def test_a_model_that_cannot_be_had_is_a_failure(event: SessionEvent) -> None:
    made = machine(*ASSIGNED)
    (effect,) = made.handle(event, 0.0)
    assert isinstance(effect, SendReport)
    assert (effect.report.kind, effect.report.message) == ("ModelUnavailable", "bad digest")  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------------ the work


def test_the_deadline_stops_the_work_and_the_server_is_told() -> None:
    made = machine(*TRAINING)
    assert made.handle(TimerFired(), 100.0) == (StopWork(),)
    (effect,) = made.handle(WorkStopped("deadline"), 100.1)
    assert isinstance(effect, SendReport)
    assert effect.report.kind == "WorkStopped"  # type: ignore[union-attr]


def test_failed_work_is_reported_without_a_durable_write() -> None:
    made = machine(*TRAINING)
    failed = failure(round_num=3)
    assert made.handle(WorkFailed(failed), 0.0) == (StopTimer(), SendReport(failed, CONFIG.report_timeout_s))


def test_work_of_another_round_is_our_own_bug() -> None:
    made = machine(*TRAINING)
    before = made.state
    with pytest.raises(LocalProtocolError, match="round 4"):
        made.handle(WorkDone(replace(UPDATE, round_num=4)), 0.0)
    assert made.state is before


def test_an_update_is_not_sent_before_it_is_saved() -> None:
    made = machine(*TRAINING)
    assert not any(isinstance(effect, SendReport) for effect in made.handle(WorkDone(UPDATE), 0.0))
    assert made.handle(UpdateSaved(), 0.0) == (SendReport(UPDATE, CONFIG.report_timeout_s),)


def test_an_update_that_cannot_be_saved_is_a_failure() -> None:
    made = machine(*SAVING)
    (effect,) = made.handle(SaveFailed("disk full"), 0.0)
    assert isinstance(effect, SendReport)
    assert effect.report.kind == "StorageError"  # type: ignore[union-attr]


# ------------------------------------------------------------------------------------------------ the report


def test_a_report_is_repeated_until_a_receipt_comes_and_the_outbox_is_kept() -> None:
    made, attempts = machine(*REPORTING), []
    for _ in range(5):
        effects = made.handle(RpcFailed("no route", transient=True), 0.0)
        assert len(effects) == 1
        assert isinstance(effects[0], StartTimer)
        with pytest.raises(LocalProtocolError):
            made.handle(ReceiptReceived(Accepted(1), WINDOW), 0.0)
        (again,) = made.handle(TimerFired(), 0.0)
        assert isinstance(again, SendReport)
        attempts.append(again.report.attempt)  # type: ignore[union-attr]
        assert replace(again.report, attempt=1) == UPDATE  # type: ignore[type-var]
    assert attempts == [2, 3, 4, 5, 6]
    assert made.handle(ReceiptReceived(Accepted(1), WINDOW), 0.0)[0] == ClearOutbox(Accepted(1), "train", 3, WINDOW)


def test_a_report_refused_for_good_is_dropped_and_the_reason_kept() -> None:
    made = machine(*REPORTING)
    effects = made.handle(RpcFailed("larger than 1 MiB", transient=False), 0.0)
    assert effects == (ClearOutbox(None, "", 0, None), StartTimer(8.0))
    assert made.state.phase is SessionPhase.IDLE
    assert made.state.last_error == "larger than 1 MiB"
    assert made.state.report is None


def test_a_refused_or_late_update_is_dropped_and_not_remembered_as_accepted() -> None:
    refused = Refused(UpdateRefusal.NORM, "norm 99")
    for receipt, error in ((refused, "refused (NORM): norm 99"), (Late(), "")):
        made = machine(*REPORTING)
        effects = made.handle(ReceiptReceived(receipt, WINDOW), 0.0)
        assert effects == (ClearOutbox(receipt, "", 0, WINDOW), StartTimer(0.0))
        assert (made.state.last_error, made.state.last_task, made.state.last_receipt) == (error, "", receipt)


# ------------------------------------------------------------------------------------------------ stopping


@pytest.mark.parametrize("phase", [SessionPhase.NEW, SessionPhase.CHECKED_IN, SessionPhase.ASSIGNED])
def test_a_stop_halts_what_can_be_repeated(phase: SessionPhase) -> None:
    made = machine(*PATHS[phase])
    assert made.handle(StopRequested(), 0.0) == (Halt(),)
    assert made.handle(StopRequested(), 0.0) == ()


def test_a_stop_while_a_timer_runs_stops_the_timer() -> None:
    assert machine(*IDLE).handle(StopRequested(), 0.0) == (StopTimer(), Halt())


def test_a_stop_while_training_waits_for_the_work_and_keeps_a_finished_update() -> None:
    made = machine(*TRAINING)
    assert made.handle(StopRequested(), 0.0) == (StopWork(),)
    assert made.handle(StopRequested(), 0.0) == ()
    assert made.handle(WorkDone(UPDATE), 0.0) == (StopTimer(), SaveUpdate(UPDATE))
    assert made.handle(UpdateSaved(), 0.0) == (Halt(),)


@pytest.mark.parametrize("event", [WorkStopped(), WorkFailed(failure(round_num=3))])
def test_a_stop_while_training_reports_nothing(event: SessionEvent) -> None:
    made = machine(*TRAINING, StopRequested())
    assert made.handle(event, 0.0) == (StopTimer(), Halt())


def test_a_stop_while_saving_halts_after_the_write() -> None:
    for event in (UpdateSaved(), SaveFailed("disk full")):
        made = machine(*SAVING)
        assert made.handle(StopRequested(), 0.0) == ()
        assert made.handle(event, 0.0) == (Halt(),)


# ------------------------------------------------------------------------------------------------ releases (I7)


def test_a_release_is_fetched_once_and_only_above_the_highest_seen() -> None:
    made = machine(*CHECKED_IN)
    news = answer(Rejection("news"), releases=(RELEASE,))
    assert made.handle(news, 0.0) == (FetchRelease(RELEASE), StartTimer(0.0))
    made.handle(TimerFired(), 0.0)
    assert made.handle(news, 0.0) == (StartTimer(0.0),), "on its way"
    made.handle(ReleaseFetched(RELEASE), 0.0)
    for version, wanted in ((1, False), (2, False), (3, True)):
        made.handle(TimerFired(), 0.0)
        offered = replace(RELEASE, version=version)
        effects = made.handle(answer(Rejection("news"), releases=(offered,)), 0.0)
        assert (FetchRelease(offered) in effects) is wanted


def test_a_release_that_failed_is_fetched_again_at_the_next_answer() -> None:
    made = machine(*CHECKED_IN)
    news = answer(Rejection("news"), releases=(RELEASE,))
    made.handle(news, 0.0)
    made.handle(ReleaseFailed(RELEASE, "cut off"), 0.0)
    made.handle(TimerFired(), 0.0)
    assert made.handle(news, 0.0) == (FetchRelease(RELEASE), StartTimer(0.0))


def test_a_release_comes_with_an_assignment_and_survives_a_restart_as_seen() -> None:
    made = machine(Started(releases=(RELEASE,)), TimerFired())
    effects = made.handle(answer(releases=(RELEASE,)), 0.0)
    assert effects == (SaveAssignment(JOB, WINDOW), FetchModel("d" * 64, 16))


def test_an_older_release_that_arrives_late_does_not_lower_the_highest_seen() -> None:
    made = machine(Started(releases=(replace(RELEASE, version=5),)))
    made.handle(ReleaseFetched(RELEASE), 0.0)
    assert made.state.releases == (replace(RELEASE, version=5),)


# ------------------------------------------------------------------------------------------------ any order


def _pick(number: int, phase: SessionPhase) -> SessionEvent:
    """Mostly a legal event that goes on, sometimes any: a walk that reaches every phase."""
    if number % 8 == 0:
        return ONE_OF_EACH[number // 8 % len(ONE_OF_EACH)]
    legal = [event for event in ONE_OF_EACH if type(event) in TRANSITIONS[phase] and event != StopRequested()]
    return (legal or list(ONE_OF_EACH))[number % len(legal or ONE_OF_EACH)]


@given(st.lists(st.integers(0, 10_000), max_size=60), st.floats(0.0, 1.0))
def test_any_order_of_events_keeps_the_promises(numbers: list[int], chance: float) -> None:
    """No report of an update before it was saved; a cleared outbox only by a receipt or a refusal; one timer."""

    def uniform(low: float, high: float) -> float:
        return low + chance * (high - low)

    state, saved, timer = SessionState(), False, False
    for now, number in enumerate(numbers):
        before, event = state, _pick(number, state.phase)
        try:
            state, effects = step(state, event, float(now), CONFIG, uniform)
        except LocalProtocolError:
            assert state == before
            continue
        saved = saved or isinstance(event, UpdateSaved)
        timer = timer and not isinstance(event, TimerFired)
        for effect in effects:
            _check_promise(effect, event, saved)
            timer = isinstance(effect, StartTimer) or (timer and not isinstance(effect, StopTimer))
        saved = saved and not any(isinstance(effect, ClearOutbox) for effect in effects)
        assert timer == (state.timer_at is not None)


def _check_promise(effect: SessionEffect, event: SessionEvent, saved: bool) -> None:
    if isinstance(effect, SendReport) and replace_attempt(effect) == UPDATE:
        assert saved
    if isinstance(effect, ClearOutbox):
        assert isinstance(event, ReceiptReceived | RpcFailed)
    if isinstance(effect, StartTimer):
        assert effect.delay_s >= 0


def replace_attempt(effect: SendReport) -> object:
    report = effect.report
    return replace(report, attempt=1) if isinstance(report, type(UPDATE)) else report


@pytest.mark.parametrize(
    "wrong", [{"backoff_base_s": 0.0}, {"backoff_base_s": 10.0, "backoff_cap_s": 5.0}, {"check_in_timeout_s": -1.0}]
)
def test_a_wrong_option_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(reversed(wrong)))):
        replace(CONFIG, **wrong)
