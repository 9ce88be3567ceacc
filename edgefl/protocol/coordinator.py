"""The server's machine: all tasks, rounds, devices and releases. Sans-I/O; the clock is a parameter.

Theory of operation
-------------------
The shell hands in one event at a time and gets effects back, ordered: **persist, then acknowledge, then send**. Within
one ``handle`` the coordinator first lets time pass (deadlines, long polls), then takes the event, then selects cohorts
for the rounds that can start. A round that closes is finalized in the same call, so its reports, its model and its end
reach the store in one transaction.

A check-in waits until a round takes its device, until ``long_poll_s``, or until there is nothing left that it could
serve. Which device goes to which task: ``edgefl.protocol.selector``.

A member of a COLLECTING round that has not answered gets the same assignment again at each check-in: it may have been
killed, and training again gives the same bits.

Invariants
----------
- A control event that is wrong raises before anything changes.
- A report is acknowledged only together with its ``SaveReport``; sequences grow over all tasks.
- A key (task, round, device) is accepted once; every further report of it gets the first sequence.
- The version of a release only grows, for each name in a population (I7).

Source: design §5 (round, receipts, gate, pace).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from edgefl.errors import ConflictError, StorageError
from edgefl.protocol.admission import check_devices
from edgefl.protocol.catalogue import Catalogue
from edgefl.protocol.devices import KnownDevices
from edgefl.protocol.events import (
    FINAL,
    HELD,
    AnswerCheckIn,
    DeviceCheckedIn,
    DeviceGone,
    Draining,
    Effect,
    Event,
    Persist,
    Phase,
    ReleaseCreated,
    ReleaseRecord,
    ReportReceived,
    RoundSummary,
    SaveDevice,
    SaveRelease,
    SaveTask,
    SendReceipt,
    Snapshot,
    TaskCreated,
    TaskEnded,
    TaskPaused,
    TaskRecord,
    TaskResumed,
    TaskStatus,
    Ticked,
)
from edgefl.protocol.messages import (
    Assignment,
    CheckInAnswer,
    ClientUpdate,
    Noted,
    Receipt,
    Refused,
    Rejection,
    RetryWindow,
    WorkFailure,
)
from edgefl.protocol.pace import SUPERSEDED, CoordinatorConfig, Pace
from edgefl.protocol.process import ProcessFactory
from edgefl.protocol.round import RoundEnded, TimePassed
from edgefl.protocol.roundkeeper import FindAccepted, RoundKeeper
from edgefl.protocol.selector import Selector
from edgefl.protocol.standing import DeviceView, Standings
from edgefl.protocol.taskboard import LoadModel, TaskBoard, TaskRun
from edgefl.protocol.waiting import Waiting, WaitingRoom


def _none_accepted(task: str, round_num: int, device: str) -> int | None:  # noqa: ARG001
    return None


def _no_model(task: str, version: int) -> bytes | None:  # noqa: ARG001
    return None


class Coordinator:
    """All that the server decides. One owner, one thread; ``now`` is monotonic seconds and never goes back.

    ``find_accepted`` and ``load_model`` look into the store for what is too old to be kept in memory: the sequence of
    an accepted report, the bytes of an earlier model. By default nothing is found.
    """

    def __init__(
        self,
        process_factory: ProcessFactory,
        config: CoordinatorConfig,
        *,
        find_accepted: FindAccepted = _none_accepted,
        load_model: LoadModel = _no_model,
    ) -> None:
        self._config = config
        self._pace = Pace(config)
        self._board = TaskBoard(process_factory, load_model)
        self._devices = KnownDevices()
        self._catalogue = Catalogue()
        self._keeper = RoundKeeper(self._board, find_accepted, self._devices, config.backoff_max_s)
        self._room = WaitingRoom()
        self._standings = Standings(self._board, self._devices, self._room)
        self._selector = Selector(self._board, self._keeper, self._room, config.max_waiting)
        self._draining = False
        self._now = 0.0

    # -------------------------------------------------------------------------------------------- the machine

    def restore(self, snapshot: Snapshot, now: float) -> list[Effect]:
        """Take up where the store left off. Once, before the first event. Rounds get their remaining time afresh."""
        self._now = now
        self._keeper.next_sequence = snapshot.next_sequence
        self._catalogue.floor = snapshot.release_floor
        for task in snapshot.tasks:
            self._add_task(task)
        self._board.add_models(dict(snapshot.models))
        for device in snapshot.devices:
            self._devices.add_device(device, now)
        for release in sorted(snapshot.releases, key=lambda release: release.info.version):
            self._catalogue.add_release(release)
        self._board.prepare()
        for record in snapshot.rounds:
            run = self._board.get(record.task)
            ready = run.ready
            base = None if ready is None else ready.base
            if ready is None or ready.base.version != record.base_version or record.round_num != run.round.round_num:
                raise StorageError(
                    f"round {record.round_num} of task {record.task!r} on version {record.base_version} does not fit "
                    f"its task: round {run.round.round_num} on {base}; the store is inconsistent"
                )
            self._keeper.restore(run, record, ready, now)
        self._refresh()
        return self._ordered()

    def handle(self, event: Event, now: float) -> list[Effect]:
        """Take ``event``; the effects come in order: persist, acknowledge, send.

        A wrong control event raises ``ConflictError``, ``NotFoundError`` or ``ConfigError`` and changes nothing.
        """
        self._now = now
        if not isinstance(event, CONTROL):
            # A control event may raise, and then must change nothing: for it, time passes with the next Ticked.
            self._pass_time(now)
            self._refresh()
        HANDLERS[type(event)](self, event, now)
        self._refresh()
        if not self._draining:
            self._selector.select(now, lambda waiting, run: self._assign(waiting, run, now))
            self._keeper.out.extend(self._standings.look(now))
        return self._ordered()

    def note_work(self, num_events: int, busy_s: float) -> None:
        """``num_events`` events took ``busy_s`` seconds of one processor: only retry windows follow from it."""
        self._pace.note_work(num_events, busy_s)

    def next_deadline(self) -> float | None:
        """When to hand in ``Ticked`` at the latest; None while nothing is timed."""
        oldest = self._room.oldest()
        times = [] if oldest is None else [oldest.since + self._config.long_poll_s]
        if not self._draining and (look_at := self._standings.next_at()) is not None:
            times.append(look_at)
        for run in self._board:
            state = run.round
            if state.phase is Phase.COLLECTING:
                times.append(state.deadline_at)
            elif run.status is TaskStatus.RUNNING and not self._draining:
                # What is past and changed nothing will change nothing later: others must come first.
                ends = [run.not_before] if run.candidates else []
                if state.waiting_since is not None:
                    ends += [state.waiting_since + state.spec.selection_s, state.claim_until or 0.0]
                times.extend(end for end in ends if end > self._now)
        return min(times, default=None)

    def tasks(self) -> tuple[TaskRecord, ...]:
        return tuple(run.record for run in self._board)

    def task(self, name: str) -> TaskRecord:
        """Raises ``NotFoundError``."""
        return self._board.get(name).record

    def rounds(self) -> tuple[RoundSummary, ...]:
        """The last rounds of each task, the present one last."""
        return tuple(self._standings.summaries(self._now))

    def standing(self, name: str) -> tuple[str, str]:
        """What the task waits for and what troubles it, as of the last event; '' for nothing. ``NotFoundError``."""
        run = self._board.get(name)
        return self._standings.waiting(run, self._now), self._standings.trouble(run, self._now)

    def devices(self) -> tuple[DeviceView, ...]:
        """All known devices, as of the last event."""
        return tuple(self._standings.view(known, self._now) for known in self._devices)

    def releases(self) -> tuple[ReleaseRecord, ...]:
        return self._catalogue.releases

    def next_release_version(self, name: str) -> int:
        return self._catalogue.next_release_version(name)

    def early_receipt(self, device: str, update: ClientUpdate) -> tuple[Receipt, RetryWindow] | None:
        """How ``update`` is answered whatever its payload, which need not be there; None when the payload decides."""
        receipt = self._keeper.early_receipt(device, update)
        return None if receipt is None else (receipt, self._report_window(receipt))

    def content(self, digest: str) -> bytes | None:
        """What the devices of a round download, by SHA-256, where it is more than a model that the store has."""
        return self._board.content(digest)

    def awaits(self, device: str) -> bool:
        """Whether the payload of a report of ``device`` can still matter to a round."""
        return any(run.round.may_accept(device) for run in self._board)

    # -------------------------------------------------------------------------------------------- devices

    def _on_check_in(self, event: DeviceCheckedIn, now: float) -> None:
        device, check_in = event.device, event.check_in
        record = self._devices.note(device, check_in, now)
        if record is not None:
            self._keeper.out.append(SaveDevice(record))
        known = self._devices.find(device)
        if known is not None:
            self._keeper.out.extend(self._standings.note_twins(known, now))
        older = self._selector.leave(device)
        if older is not None:
            self._reject(older, "superseded by a newer check-in of this device", SUPERSEDED)
        waiting = Waiting(event.token, device, check_in, now)
        if self._draining:
            self._reject(waiting, "the server is stopping", self._pace.drain_window())
        elif (run := self._selector.assigned(device, check_in)) is not None:
            self._assign(waiting, run, now)
        elif reason := self._board.no_work(check_in):
            self._reject(waiting, reason, self._pace.idle_window(len(self._devices)))
        elif len(self._room) >= self._config.max_waiting:
            window = self._pace.full_window(len(self._devices))
            self._reject(waiting, f"{len(self._room)} devices are waiting, as many as may", window)
            self._selector.park(waiting, now + window.max_s)
        else:
            self._selector.enter(waiting)

    def _on_gone(self, event: DeviceGone, now: float) -> None:
        device = self._room.device_of(event.token)
        if device is not None:
            self._selector.leave(device)
            self._devices.heard(device, now, self._pace.timeout_window(len(self._devices)))

    def _on_report(self, event: ReportReceived, now: float) -> None:
        report = event.report
        receipt: Receipt
        if isinstance(report, WorkFailure):
            self._keeper.fail(event.device, report, now)
            receipt = Noted()
        else:
            receipt = self._keeper.receive(event.device, report, now)
        window = self._report_window(receipt)
        self._devices.heard(event.device, now, window)
        self._keeper.out.append(SendReceipt(event.token, receipt, window))

    def _report_window(self, receipt: Receipt) -> RetryWindow:
        if self._draining:
            return self._pace.drain_window()
        if isinstance(receipt, Noted | Refused):
            return self._pace.failed_window(len(self._devices))
        return self._pace.next_window(len(self._devices))

    # -------------------------------------------------------------------------------------------- control

    def _on_task_created(self, event: TaskCreated, _: float) -> None:
        record = self._board.new_record(event.spec, event.definition, event.initial)
        if event.check_devices:
            check_devices(event.spec.name, self._board.needs(event.spec), self._devices)
        self._add_task(record)
        self._keeper.out.append(SaveTask(record))
        self._keeper.changed = True

    def _add_task(self, record: TaskRecord) -> None:
        run = self._board.add(record)
        run.not_before = self._now + run.setbacks.delay_s(self._config.backoff_max_s)
        if run.status not in FINAL:
            self._devices.watch(run.name, run.needs)

    def _on_task_paused(self, event: TaskPaused, _: float) -> None:
        self._keeper.set_status(self._in_status(event.task, "pause", TaskStatus.RUNNING), TaskStatus.PAUSED)

    def _on_task_resumed(self, event: TaskResumed, _: float) -> None:
        self._keeper.resume(self._in_status(event.task, "resume", *HELD))

    def _on_task_ended(self, event: TaskEnded, now: float) -> None:
        run = self._in_status(event.task, "end", TaskStatus.RUNNING, *HELD)
        run.status = TaskStatus.ENDED  # before its round ends: that end is not a setback
        if run.round.phase is Phase.COLLECTING:
            self._keeper.advance(run, RoundEnded("the task was ended"), now)
        self._keeper.set_status(run, TaskStatus.ENDED)

    def _in_status(self, name: str, verb: str, *wanted: TaskStatus) -> TaskRun:
        run = self._board.get(name)
        if run.status not in wanted:
            expected = " or ".join(status.value for status in wanted)
            raise ConflictError(f"cannot {verb} task {name!r}: it is {run.status.value}; expected {expected}")
        return run

    def _on_release(self, event: ReleaseCreated, _: float) -> None:
        release, info = event.release, event.release.info
        self._catalogue.add_release(release)
        self._keeper.out.append(SaveRelease(release))
        window = self._pace.next_window(len(self._devices))
        self._dismiss(f"release {info.name!r} version {info.version} is there", window, release.population)

    def _on_ticked(self, event: Ticked, now: float) -> None:
        """Time has passed already: see ``handle``."""

    def _on_draining(self, _: Draining, __: float) -> None:
        self._draining = True
        self._dismiss("the server is stopping", self._pace.drain_window())
        self._keeper.out.extend(SaveDevice(record) for record in self._devices.unnoted(self._now))

    # -------------------------------------------------------------------------------------------- time

    def _pass_time(self, now: float) -> None:
        for run in self._board:
            if run.round.phase is Phase.COLLECTING and now >= run.round.deadline_at:
                self._keeper.advance(run, TimePassed(), now)
        while (oldest := self._room.oldest()) is not None and now >= oldest.since + self._config.long_poll_s:
            window = self._pace.timeout_window(len(self._devices))
            self._send_away(oldest, self._standings.population(oldest.check_in.population, now), window)

    def _refresh(self) -> None:
        """After a change: open what can be opened, and send those away for whom nothing is left."""
        if not self._keeper.changed:
            return
        self._keeper.changed = False
        self._selector.prepare()
        for waiting in self._room:
            if reason := self._board.no_work(waiting.check_in):
                self._send_away(waiting, reason, self._pace.idle_window(len(self._devices)))

    # -------------------------------------------------------------------------------------------- answers

    def _assign(self, waiting: Waiting, run: TaskRun, now: float) -> None:
        self._answer(waiting, run.assignment(now), self._pace.next_window(len(self._devices)))

    def _reject(self, waiting: Waiting, reason: str, window: RetryWindow) -> None:
        self._answer(waiting, Rejection(reason), window)

    def _send_away(self, waiting: Waiting, reason: str, window: RetryWindow) -> None:
        self._selector.leave(waiting.device)
        self._reject(waiting, reason, window)

    def _dismiss(self, reason: str, window: RetryWindow, population: str | None = None) -> None:
        """Answer all who wait, or all of one population."""
        for waiting in self._room:
            if population in (None, waiting.check_in.population):
                self._send_away(waiting, reason, window)

    def _answer(self, waiting: Waiting, outcome: Assignment | Rejection, window: RetryWindow) -> None:
        self._devices.heard(waiting.device, self._now, window)
        answer = CheckInAnswer(outcome, window, self._catalogue.newest(waiting.check_in.population))
        self._keeper.out.append(AnswerCheckIn(waiting.token, waiting.device, answer))

    def _ordered(self) -> list[Effect]:
        effects, self._keeper.out = self._keeper.out, []
        return sorted(effects, key=_rank)


def _rank(effect: Effect) -> int:
    return 0 if isinstance(effect, Persist) else 1 if isinstance(effect, SendReceipt) else 2


CONTROL = (TaskCreated, TaskPaused, TaskResumed, TaskEnded, ReleaseCreated)
"""Events that come from an operator, and that may be wrong."""

HANDLERS: Mapping[type, Callable[[Coordinator, Any, float], None]] = {
    DeviceCheckedIn: Coordinator._on_check_in,
    DeviceGone: Coordinator._on_gone,
    ReportReceived: Coordinator._on_report,
    TaskCreated: Coordinator._on_task_created,
    TaskPaused: Coordinator._on_task_paused,
    TaskResumed: Coordinator._on_task_resumed,
    TaskEnded: Coordinator._on_task_ended,
    ReleaseCreated: Coordinator._on_release,
    Ticked: Coordinator._on_ticked,
    Draining: Coordinator._on_draining,
}
