"""The device's machine (design §5): its table, starting, checking in, the model; illegal events change nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_kit import ENCODING, MODEL, failure
from session_kit import (
    ASSIGNED,
    CHECKED_IN,
    CONFIG,
    IDLE,
    JOB,
    LATER,
    ONE_OF_EACH,
    PATHS,
    REPORTING,
    TRAIN,
    UPDATE,
    WINDOW,
    answer,
    machine,
    upper,
)

from edgefl.errors import ConfigError, LocalProtocolError
from edgefl.protocol.messages import (
    Accepted,
    AlreadyAccepted,
    Fate,
    Noted,
    Plan,
    Rejection,
    StatisticsWork,
)
from edgefl.protocol.session import TRANSITIONS, SessionConfig, SessionMachine, SessionPhase, SessionState, step
from edgefl.protocol.session_events import (
    ClearOutbox,
    FetchModel,
    ModelReady,
    ModelUnavailable,
    NotEligible,
    PlanNotUnderstood,
    ReceiptReceived,
    RpcFailed,
    SaveAssignment,
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
    TimerFired,
    UpdateSaved,
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
