"""A fleet in one process: the server's coordinator and one session for each client, joined by a fake link.

Both machines, the learning process and the client's work are the very objects that the daemons run; only the network,
the disks and the clock are replaced. The clock is virtual: it jumps from one event to the next.

    SimulatedDevice --check-in, report--> Coordinator --Persist--> MemoryRecord
           ^--------answer, receipt-----------'

Invariants: everything happens in the order of (virtual time, order of scheduling), so a simulation is a pure function
of its arguments, and devices are made in the order of their ids, so the order of the arguments does not matter. Work
takes no virtual time, so a cohort's may be done at once, by whomever (``edgefl.simulation.workers``); with
over-selection the counted reports are those of the first *goal* members in draw order.

Source: design §4.7 (the claim), §5 (the machines and the order of effects).
"""

from __future__ import annotations

import contextlib
import heapq
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from edgefl.errors import ConfigError, ConflictError, LocalProtocolError
from edgefl.files import used_alone
from edgefl.learning.build import LearningProcess, build_process
from edgefl.learning.statistics import StatisticsProcess
from edgefl.protocol.coordinator import Coordinator
from edgefl.protocol.dependencies import results_for
from edgefl.protocol.events import (
    FINAL,
    HELD,
    OVER,
    AnswerCheckIn,
    DeviceCheckedIn,
    Event,
    Persist,
    Phase,
    PublishRound,
    ReportReceived,
    RoundSummary,
    SendReceipt,
    TaskCreated,
    TaskStatus,
    Ticked,
)
from edgefl.protocol.initial import begins_at, starts_from, usable
from edgefl.protocol.messages import Assignment, CheckIn, Report, RoundKey
from edgefl.protocol.pace import CoordinatorConfig
from edgefl.protocol.task import TaskKind, TaskSpec
from edgefl.settings import to_toml
from edgefl.simulation.checkpoint import Checkpoint, Keeper
from edgefl.simulation.device import SimulatedDevice
from edgefl.simulation.holdings import Holdings, deal, num_able
from edgefl.simulation.processes import ProcessWorkers
from edgefl.simulation.record import MemoryRecord
from edgefl.simulation.result import SimulationResult, TaskResult
from edgefl.simulation.workers import OwnWorkers, Workers
from edgefl.types import ClientDataset, Weights, check_whole

LINK_S = 0.005
"""A message takes so long each way. Any positive number does: without one, failing devices would come back at once,
and virtual time would stand still."""

MAX_ABANDONED = 10
"""So many rounds of a task abandoned in a row end the simulation: the next would be abandoned for the same reason."""

OnRound = Callable[[RoundSummary], None]

_KIND_ORDER = (TaskKind.STATISTICS, TaskKind.TRAINING, TaskKind.EVALUATION, TaskKind.PERSONALIZATION)


def simulate(
    tasks: Sequence[tuple[TaskSpec, str]],
    clients: Sequence[ClientDataset],
    held_out: Sequence[ClientDataset] = (),
    *,
    on_round: OnRound | None = None,
    processes: int | None = None,
    checkpoint: Checkpoint | None = None,
    initial: Mapping[str, Weights] | None = None,
) -> SimulationResult:
    """Run ``tasks`` (each a definition and its text) to their end on a fleet with these examples.

    A cohort is drawn from all devices that have the examples, unless a definition sets ``candidates``: so it does not
    matter who of them comes back first.

    ``clients`` hold what devices train on, ``held_out`` what they evaluate on; a device is an id in either.
    ``on_round`` is called with every round that was committed or abandoned. All models of all versions are kept.
    ``processes``: the devices' work is done in this many processes of its own, which changes no bit; None does it here,
    where a training runs on every core and all other work on one.
    ``initial``: by task, the weights that a definition begins at whose ``model.initial`` names a file or a digest. A
    task that begins at a version of another is created when that version is there.
    ``checkpoint``: where the run is kept, and whether it goes on from there. The result of a run that goes on is that
    of an unbroken one, and ``on_round`` is called with all its rounds, also those that were there.

    Raises ``ConfigError`` for tasks that do not fit each other or the fleet, ``ConflictError`` when a task cannot be
    finished: its rounds are abandoned again and again, or its aggregate cannot be applied; ``UnavailableError`` when
    one of the processes dies. With ``checkpoint`` also what ``edgefl.simulation.checkpoint.Keeper`` raises.
    """
    if processes is not None:
        check_whole("processes", processes)
    holdings = deal(tasks, clients, held_out)
    starts = {name: usable(weights) for name, weights in (initial or {}).items()}
    ordered = in_order(_beginning(tasks, starts))
    with contextlib.ExitStack() as stack:
        if isinstance(checkpoint, Checkpoint):
            stack.enter_context(used_alone(checkpoint.path))
        keeper = Keeper(checkpoint, [spec for spec, _ in ordered], holdings)
        workers: Workers = OwnWorkers(holdings)
        if processes is not None:
            workers = stack.enter_context(ProcessWorkers(holdings, processes))
        fleet = _Pool(holdings, keeper.workers(workers), on_round, keeper)
        for spec, text in ordered:
            spec = of_whole_fleet(spec, num_able(spec.kind, holdings))
            fleet.create(TaskCreated(spec, text, starts[spec.name].to_bytes() if spec.name in starts else b""))
        fleet.run()
    return fleet.result([spec.name for spec, _ in tasks])


def _beginning(tasks: Sequence[tuple[TaskSpec, str]], starts: Mapping[str, Weights]) -> list[tuple[TaskSpec, str]]:
    """``tasks`` whose definitions name the digests of ``starts``.

    Raises ``ConfigError`` for weights of no task, and for a task that begins at what this run does not come to.
    """
    known = {spec.name: spec for spec, _ in tasks}
    for name in starts:
        if name not in known:
            raise ConfigError(f"initial has weights of task {name!r}; the tasks are {', '.join(known)}")
    for spec in known.values():
        _check_start(spec, known)
    begun = [(begins_at(spec, starts[spec.name]) if spec.name in starts else spec, text) for spec, text in tasks]
    return [(spec, text if spec == known[spec.name] else to_toml(spec)) for spec, text in begun]


def _check_start(spec: TaskSpec, known: Mapping[str, TaskSpec]) -> None:
    seen = {spec.name}
    while (initial := starts_from(spec)) is not None:
        source = known.get(initial.task)
        if source is None or initial.task in seen or source.rounds < initial.version:
            raise ConfigError(
                f"task {spec.name!r} begins at version {initial.version} of task {initial.task!r}, which this run does "
                "not come to; add that task, or begin at a file"
            )
        seen.add(initial.task)
        spec = source


def of_whole_fleet(spec: TaskSpec, able: int) -> TaskSpec:
    """``spec`` whose cohorts are drawn from all ``able`` devices, unless it says from how many."""
    return spec if spec.round.candidates else replace(spec, round=replace(spec.round, candidates=able))


def hopeless(rounds: Sequence[RoundSummary], status: TaskStatus) -> bool:
    """Whether a task with these ended rounds will never be finished: it is held, or the last rounds were for nothing.

    The coordinator suspends a task whose aggregate cannot be applied.
    """
    last = rounds[-MAX_ABANDONED:]
    barren = len(last) == MAX_ABANDONED and all(summary.phase is Phase.ABANDONED for summary in last)
    return barren or status in HELD


def in_order(tasks: Sequence[tuple[TaskSpec, str]]) -> list[tuple[TaskSpec, str]]:
    """The order in which they can be created."""
    return sorted(tasks, key=lambda task: creation_rank(task[0]))


def creation_rank(spec: TaskSpec) -> int:
    """A task is created after those of a lower rank: it may depend on one of them."""
    return _KIND_ORDER.index(spec.kind)


@dataclass(frozen=True)
class _Call:
    """A call that waits for its answer."""

    device: SimulatedDevice
    message: CheckIn | Report


class _Pool:
    """The world of the simulated devices: clock, link and server."""

    def __init__(
        self, holdings: Sequence[Holdings], workers: Workers, on_round: OnRound | None, keeper: Keeper
    ) -> None:
        self.now = 0.0
        self._workers = workers
        self._starting: dict[RoundKey, list[tuple[SimulatedDevice, bytes]]] = {}
        self._on_round = on_round
        self._keeper = keeper
        self._record = MemoryRecord()
        # A waiting check-in costs nothing here: no device is ever sent away for want of a place.
        # No round waits for the bad moment to pass: whatever fails here fails again.
        config = CoordinatorConfig(
            max_waiting=max(CoordinatorConfig.max_waiting, 2 * len(holdings) + 1), backoff_max_s=0.0
        )
        self._coordinator = Coordinator(
            keeper.factory(build_process), config, find_accepted=self._record.sequence, load_model=self._record.version
        )
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._scheduled = 0
        self._calls: dict[int, _Call] = {}
        self._token = 0
        self._rounds: dict[str, list[RoundSummary]] = {}
        self._pending: list[TaskCreated] = []
        self._devices = [SimulatedDevice(one, self) for one in holdings]

    # ------------------------------------------------------------------------------------------ what devices see

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        self._scheduled += 1
        heapq.heappush(self._agenda, (self.now + delay_s, self._scheduled, action))

    def send_check_in(self, device: SimulatedDevice, check_in: CheckIn) -> None:
        token = self._call(device, check_in)
        event = DeviceCheckedIn(token, device.holdings.device, check_in)
        self.later(LINK_S, lambda: self._serve(event))

    def send_report(self, device: SimulatedDevice, report: Report) -> None:
        event = ReportReceived(self._call(device, report), device.holdings.device, report)
        self.later(LINK_S, lambda: self._serve(event))

    def model(self, digest: str) -> bytes | None:
        kept = self._record.content(digest)
        return self._coordinator.content(digest) if kept is None else kept

    def work(self, device: SimulatedDevice, assignment: Assignment, model: bytes, memory: bytes) -> None:
        """The work of all that start now is done at once, after the last of them: their assignments are one."""
        key = RoundKey(assignment.task, assignment.round_num)
        if key not in self._starting:
            self._starting[key] = []
            self.later(0.0, lambda: self._do_work(assignment, model, self._starting.pop(key)))
        self._starting[key].append((device, memory))

    def _do_work(self, assignment: Assignment, model: bytes, starting: Sequence[tuple[SimulatedDevice, bytes]]) -> None:
        memories = {device.holdings.device: memory for device, memory in starting if memory}
        members = [device.holdings.device for device, _ in starting]
        reports = self._workers.work(assignment, model, members, memories)
        for (device, _), report in zip(starting, reports, strict=True):
            device.worked(report)

    # ------------------------------------------------------------------------------------------ the run

    def create(self, event: TaskCreated) -> None:
        """Now, or as soon as what it needs is there: the version that it begins at, the task that it evaluates."""
        self._rounds[event.spec.name] = []
        self._pending.append(event)
        self._create_ready()

    def _create_ready(self) -> None:
        for event in [*self._pending]:
            initial = starts_from(event.spec)
            source = None if initial is None else self._record.tasks.get(initial.task)
            begun = initial is None or (source is not None and source.state.version >= initial.version)
            if begun and (not event.spec.evaluates or event.spec.evaluates in self._record.tasks):
                self._pending.remove(event)
                self._serve(event)

    def run(self) -> None:
        for device in self._devices:
            device.start()
        while not self._finished():
            deadline = self._coordinator.next_deadline()
            if self._agenda and (deadline is None or self._agenda[0][0] <= deadline):
                self.now, _, action = heapq.heappop(self._agenda)
                action()
                if self._pending:
                    self._create_ready()
            elif deadline is not None and deadline > self.now:
                self.now = deadline
                self._serve(Ticked())
            else:
                raise LocalProtocolError(f"nothing will happen after {self.now} s, and tasks are not finished")
        self._keeper.save()

    def result(self, names: Sequence[str]) -> SimulationResult:
        tasks = tuple(self._task_result(name) for name in names)
        return SimulationResult(tasks, tuple(self._record.failures), self.now)

    def _task_result(self, name: str) -> TaskResult:
        record = self._record.tasks[name]
        spec, state = record.spec, record.state
        process = self._process(name)
        return TaskResult(
            spec=spec,
            status=record.status,
            state=state,
            model=process.model,
            standardization=process.standardization(state),
            rounds=tuple(self._rounds[name]),
            models=self._record.models(name),
            features=(process.result(state) or ()) if isinstance(process, StatisticsProcess) else (),
        )

    def _process(self, name: str) -> LearningProcess:
        spec = self._record.tasks[name].spec
        return build_process(
            spec, *results_for(spec, lambda other: (self._process(other), self._record.tasks[other].state))
        )

    def _finished(self) -> bool:
        statuses = [record.status for record in self._record.tasks.values()]
        return not self._pending and all(status in FINAL for status in statuses)

    # ------------------------------------------------------------------------------------------ the server

    def _call(self, device: SimulatedDevice, message: CheckIn | Report) -> int:
        self._token += 1
        self._calls[self._token] = _Call(device, message)
        return self._token

    def _serve(self, event: Event) -> None:
        """One event through the coordinator; its effects come ordered: persist, acknowledge, send."""
        for effect in self._coordinator.handle(event, self.now):
            match effect:
                case SendReceipt(token, receipt, retry):
                    call = self._calls.pop(token)
                    device = call.device
                    assert not isinstance(call.message, CheckIn)  # noqa: S101  a receipt answers a report
                    self._keeper.note_receipt(device.holdings.device, call.message, receipt)
                    self.later(LINK_S, lambda d=device, r=receipt, w=retry: d.receipt(r, w))  # type: ignore[misc]
                case AnswerCheckIn():
                    self._answer(effect)
                case PublishRound(summary):
                    self._publish(summary)
                case _ if isinstance(effect, Persist):
                    self._record.apply(effect)
        self._keeper.save_if_due()

    def _answer(self, effect: AnswerCheckIn) -> None:
        call = self._calls.pop(effect.token)
        assert isinstance(call.message, CheckIn)  # noqa: S101  the coordinator answers what asked
        fate = self._record.fate(call.message.last_task, call.message.last_round, effect.device)
        answer = replace(effect.answer, last_fate=fate)
        if isinstance(answer.outcome, Assignment):
            self._keeper.note_assignment(effect.device, answer.outcome)
        self.later(LINK_S, lambda: call.device.answered(answer))

    def _publish(self, summary: RoundSummary) -> None:
        if summary.phase not in OVER:
            return
        self._rounds[summary.task].append(summary)
        if self._on_round is not None:
            self._on_round(summary)
        if hopeless(self._rounds[summary.task], self._record.tasks[summary.task].status):
            raise ConflictError(f"task {summary.task!r} cannot be finished: {summary.reason}")
        self._keeper.note_round(summary, self._record)
