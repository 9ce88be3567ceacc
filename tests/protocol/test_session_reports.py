"""The device's machine (design §5) from the work on: its outbox, its reports, its stops, its releases."""

from __future__ import annotations

from dataclasses import replace

import pytest
from protocol_kit import failure
from session_kit import (
    CHECKED_IN,
    CONFIG,
    IDLE,
    JOB,
    PATHS,
    RELEASE,
    REPORTING,
    SAVING,
    TRAINING,
    UPDATE,
    WINDOW,
    answer,
    machine,
)

from edgefl.errors import LocalProtocolError, UpdateRefusal
from edgefl.protocol.messages import (
    Accepted,
    Late,
    Refused,
    Rejection,
)
from edgefl.protocol.session import SessionPhase
from edgefl.protocol.session_events import (
    ClearOutbox,
    FetchModel,
    FetchRelease,
    Halt,
    ReceiptReceived,
    ReleaseFailed,
    ReleaseFetched,
    RpcFailed,
    SaveAssignment,
    SaveFailed,
    SaveUpdate,
    SendReport,
    SessionEvent,
    Started,
    StartTimer,
    StopRequested,
    StopTimer,
    StopWork,
    TimerFired,
    UpdateSaved,
    WorkDone,
    WorkFailed,
    WorkStopped,
)

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
