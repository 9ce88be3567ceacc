"""The executor of a session's effects: their order, the timer, and what a storage that fails does not stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from session_kit import CONFIG, JOB, LATER, RELEASE, UPDATE, answer, upper

from edgefl.errors import StorageError
from edgefl.protocol.messages import Accepted, Rejection, RoundKey, WorkFailure
from edgefl.protocol.session import SessionMachine
from edgefl.protocol.session_events import (
    ModelReady,
    NotEligible,
    ReceiptReceived,
    ReleaseFetched,
    SaveUpdate,
    SendReport,
    StopRequested,
    UpdateSaved,
    WorkDone,
    WorkStopped,
)
from edgefl.protocol.session_executor import MAX_STARTS, Executor, JobEffect, Notes
from edgefl.protocol.session_state import SessionPhase


class Device:
    """Storage, jobs and agenda of one executor. ``broken``: storage does nothing any more."""

    def __init__(self, notes: Notes = Notes(), *, at_once: tuple[Any, ...] = ()) -> None:  # noqa: B008  frozen
        self.session = 4
        self.found_outbox = None
        self.notes = notes
        self.broken = False
        self.did: list[object] = []
        self.warned: list[str] = []
        self.agenda: list[Callable[[], None]] = []
        self._at_once = list(at_once)
        self.executor = Executor(
            SessionMachine(CONFIG, upper),
            self,
            self,
            clock=lambda: 0.0,
            warn=self.warned.append,
            later=lambda _, action: self.agenda.append(action),
        )

    @property
    def memory(self) -> Device:
        return self

    def proposals(self) -> tuple[RoundKey, ...]:
        return ()

    def adopt(self, task: str) -> None:
        self._do(("adopt", task))

    def drop(self, task: str) -> None:
        self._do(("drop", task))

    def note(self, notes: Notes) -> None:
        self._do("note")
        self.notes = notes

    def clear_outbox(self, proposal: RoundKey | None = None) -> None:
        self._do(("clear", proposal))

    def _do(self, what: object) -> None:
        if self.broken:
            raise StorageError("the card is full")
        self.did.append(what)

    def begin(self, effect: JobEffect) -> None:
        self.did.append(type(effect).__name__)
        if self._at_once:
            self.executor.handle(self._at_once.pop(0))

    def stop_work(self) -> None:
        self.did.append("stop")

    def work(self) -> None:
        """Come to the work of ``JOB``."""
        self.executor.start()
        self.agenda[-1]()
        self.executor.handle(answer(JOB, LATER))
        self.executor.handle(ModelReady())


def test_an_outcome_that_comes_at_once_is_taken_after_the_effects_of_its_cause() -> None:
    device = Device(at_once=(answer(),))
    device.executor.start()
    device.agenda[-1]()
    assert device.did == ["SendCheckIn", "note", "FetchModel"]
    assert device.executor.state.phase is SessionPhase.ASSIGNED


def test_a_whole_round_is_noted_and_its_outbox_cleared_after_the_notes() -> None:
    device = Device()
    device.work()
    notes = device.notes
    assert (notes.session, notes.task, notes.round_num, notes.starts) == (4, JOB.task, JOB.round_num, 1)
    assert notes.window == LATER
    for event in (WorkDone(UPDATE), UpdateSaved(), ReceiptReceived(Accepted(1), LATER)):
        device.executor.handle(event)
    assert device.did[-4:] == [SaveUpdate.__name__, SendReport.__name__, "note", ("clear", None)]
    assert device.notes == Notes(4, "", 0, 0, JOB.task, JOB.round_num, LATER.min_s, LATER.max_s)


def test_a_timer_that_was_replaced_never_fires() -> None:
    device = Device()
    device.executor.start()
    (first,) = device.agenda
    first()
    device.executor.handle(NotEligible("hot"))
    before = list(device.did)
    first()
    assert device.did == before
    device.agenda[-1]()
    assert device.did == [*before, "SendCheckIn"]


def test_a_timer_that_was_stopped_never_fires() -> None:
    device = Device()
    device.work()
    deadline = device.agenda[-1]
    device.executor.handle(WorkDone(UPDATE))
    deadline()
    assert "stop" not in device.did
    assert device.executor.state.phase is SessionPhase.SAVING


def test_a_deadline_stops_the_work() -> None:
    device = Device()
    device.work()
    device.agenda[-1]()
    assert device.did[-1] == "stop"


def test_storage_that_fails_is_told_and_stops_nothing() -> None:
    device = Device()
    device.work()
    device.broken = True
    for event in (WorkDone(UPDATE), UpdateSaved(), ReceiptReceived(Accepted(1), LATER)):
        device.executor.handle(event)
    assert device.warned == [
        "the card is full; the agent goes on without its notes",
        "the card is full; an update that is sent again is harmless",
    ]
    device.agenda[-1]()
    assert device.executor.state.phase is SessionPhase.CHECKED_IN
    device.executor.handle(answer(Rejection("none")))


def test_work_that_ended_the_agent_too_often_is_reported_as_failed() -> None:
    for starts in (MAX_STARTS - 1, MAX_STARTS):
        device = Device(Notes(task=JOB.task, round_num=JOB.round_num, starts=starts))
        device.executor.start()
        report = device.executor.state.report
        assert isinstance(report, WorkFailure) is (starts == MAX_STARTS)
    assert isinstance(report, WorkFailure)
    assert (report.kind, report.round_num) == ("CrashLoop", JOB.round_num)


def test_starts_of_the_same_work_are_counted_but_not_those_that_ended_cleanly() -> None:
    device = Device(Notes(task=JOB.task, round_num=JOB.round_num, starts=1))
    device.work()
    assert device.notes.starts == 2
    device.executor.handle(StopRequested())
    device.executor.ended()
    assert device.notes.starts == 2, "the work still runs"
    device.executor.handle(WorkStopped())
    device.executor.ended()
    assert device.notes.starts == 1


def test_a_start_waits_for_the_stored_window_unless_it_is_to_begin_at_once() -> None:
    for at_once, due in ((False, 20.0), (True, 0.0)):
        device = Device(Notes(window_min_s=10.0, window_max_s=20.0))
        device.executor.start(at_once=at_once)
        assert device.executor.state.timer_at == due


def test_a_release_is_begun_beside_the_session() -> None:
    device = Device()
    device.executor.start()
    device.agenda[-1]()
    device.executor.handle(answer(Rejection("news"), releases=(RELEASE,)))
    assert device.did[-1] == "FetchRelease"
    device.executor.handle(ReleaseFetched(RELEASE))
    assert device.executor.state.releases == (RELEASE,)
