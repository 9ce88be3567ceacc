"""The tasks of a server: their state, what each waits for, and which devices fit.

A training that names a statistics task waits until that one is COMPLETED; an evaluation waits until its training has
committed the version that its round reads (``TaskSpec.reads``). Until then a task has no base model (``TaskRun.ready``
is None) and selects nothing.

Source: design §5; §10 (the task is the process that a simulation runs).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from edgefl.errors import ConfigError, ConflictError, LocalProtocolError, NotFoundError
from edgefl.protocol.backoff import NONE, Setbacks
from edgefl.protocol.dependencies import dependency_of, results_for
from edgefl.protocol.events import FINAL, HELD, TaskRecord, TaskStatus
from edgefl.protocol.fitness import Needs, needs_of, unfit
from edgefl.protocol.initial import initial_model
from edgefl.protocol.messages import MAX_COUNTS_BYTES, Assignment, CheckIn, Plan
from edgefl.protocol.process import Accumulator, Process, ProcessFactory, ProcessState
from edgefl.protocol.round import BaseModel, RoundState
from edgefl.protocol.task import TaskKind, TaskSpec
from edgefl.wording import name_hint

RECENT_ROUNDS = 4
"""So many ended rounds of a task stay in memory: a late duplicate nearly always belongs to one of them."""

KEPT_MODELS = 64
"""So many earlier models stay in memory for evaluations that lag, when the store can load the others (§11: memory)."""

LoadModel = Callable[[str, int], bytes | None]
"""The canonical bytes of a task's model of a version, from the store; None when it is not kept."""


@dataclass
class Wait:
    """What was told of a task's waiting (``edgefl.protocol.standing``). Times are monotonic seconds.

    ``since``: when the present wait began, None while the task does not wait for devices. ``text``, ``told_at``,
    ``present``: what was told last, when, and how many devices waited then; '' before the first time. ``next_at``: when
    to look again. ``logged_form``, ``logged_at``: of the last line in the log.
    """

    since: float | None = None
    text: str = ""
    told_at: float = 0.0
    present: int = 0
    next_at: float = 0.0
    logged_form: str = ""
    logged_at: float | None = None


@dataclass(frozen=True)
class Ready:
    """What a task's next or present round works with: there from when its dependencies are met until the round ends.

    ``accumulator``: what the round's accepted reports add up to so far.
    """

    process: Process
    plan: Plan
    base: BaseModel
    accumulator: Accumulator


@dataclass
class TaskRun:
    """A task as it runs. ``round`` is its open or collecting round; ``ended`` its last ones, the newest last.

    ``served`` orders the tasks: it grows at each selection. ``candidates`` are the devices that fit and are free.
    ``arrived``: how long after the selection each device of the round first reported, in seconds.
    ``process``: None until what it depends on is known. ``ready``: None where no round can begin or go on.
    ``needs``: what it asks of a device. ``reason``: why it is SUSPENDED. ``setbacks``, ``not_before``: what kept it
    from committing, and when its next round may begin for that. ``wait``: what was told of its waiting.
    """

    spec: TaskSpec
    definition: str
    status: TaskStatus
    state: ProcessState
    round: RoundState
    needs: Needs
    process: Process | None = None
    ready: Ready | None = None
    served: int = 0
    candidates: dict[str, None] = field(default_factory=dict)
    arrived: dict[str, float] = field(default_factory=dict)
    reason: str = ""
    setbacks: Setbacks = NONE
    not_before: float = 0.0
    wait: Wait = field(default_factory=Wait)
    ended: deque[RoundState] = field(default_factory=lambda: deque(maxlen=RECENT_ROUNDS))

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def record(self) -> TaskRecord:
        return TaskRecord(
            self.spec, self.definition, self.status, self.state, self.round.round_num, self.reason, self.setbacks
        )

    @property
    def depends_on(self) -> str:
        """The name of the task whose result this one needs, '' without one."""
        needed = dependency_of(self.spec)
        return "" if needed is None else needed.task

    @property
    def plan(self) -> Plan | None:
        """What devices execute in its round; None where it is not ready."""
        return None if self.ready is None else self.ready.plan

    @property
    def at_work(self) -> Ready:
        """``ready``, of a task that must be. Raises ``LocalProtocolError``."""
        if self.ready is None:
            raise LocalProtocolError(f"task {self.name!r} has no work in round {self.round.round_num}; expected a base")
        return self.ready

    def round_of(self, round_num: int) -> RoundState | None:
        """The round of that number while it is remembered; None for older ones."""
        if round_num == self.round.round_num:
            return self.round
        return next((r for r in self.ended if r.round_num == round_num), None)

    def assignment(self, now: float) -> Assignment:
        """What a member of its collecting round gets."""
        ready = self.at_work
        return Assignment(
            task=self.name,
            round_num=self.round.round_num,
            task_seed=self.spec.seed,
            plan=ready.plan,
            model_digest=ready.base.digest,
            model_size_bytes=ready.base.size_bytes,
            deadline_s=max(0.0, self.round.deadline_at - now),
        )

    def next_round(self) -> None:
        """Put the round that ended away and open the next."""
        self.ended.append(self.round)
        self.round = RoundState(self.name, self.spec.seed, self.spec.round, self.round.round_num + 1)
        self.ready = None
        self.candidates.clear()
        self.arrived.clear()


class TaskBoard:
    """All tasks by name, and the models that evaluations still need."""

    def __init__(self, process_factory: ProcessFactory, load_model: LoadModel) -> None:
        self._factory = process_factory
        self._load_model = load_model
        self._runs: dict[str, TaskRun] = {}
        self._models: dict[tuple[str, int], bytes] = {}

    def __iter__(self) -> Iterator[TaskRun]:
        return iter(self._runs.values())

    def find(self, name: str) -> TaskRun | None:
        return self._runs.get(name)

    def get(self, name: str) -> TaskRun:
        """Raises ``NotFoundError``."""
        run = self._runs.get(name)
        if run is None:
            raise NotFoundError(f"no task {name!r}{name_hint(name, self._runs)}")
        return run

    def new_record(self, spec: TaskSpec, definition: str, initial: bytes = b"") -> TaskRecord:
        """The record of a task of version 0. Raises ``ConflictError``, ``NotFoundError`` or ``ConfigError``."""
        if spec.name in self._runs:
            raise ConflictError(f"task {spec.name!r} exists; choose another name (names are never used again)")
        self._check_dependency(spec)
        state = self._factory(spec, None, None).initialize()
        model = initial_model(spec, initial, lambda name: self.get(name).spec, self.model)
        if model is not None:
            state = replace(state, model=model)
        return TaskRecord(spec, definition, TaskStatus.RUNNING, state, 1)

    def add(self, record: TaskRecord) -> TaskRun:
        spec = record.spec
        opened = RoundState(spec.name, spec.seed, spec.round, record.next_round)
        run = TaskRun(spec, record.definition, record.status, record.state, opened, self.needs(spec))
        run.reason, run.setbacks = record.reason, record.setbacks
        self._runs[spec.name] = run
        return run

    def needs(self, spec: TaskSpec) -> Needs:
        """What a task asks of devices; of an evaluation, by the model of the task that it evaluates."""
        return needs_of(spec, self.get(spec.evaluates).spec.model if spec.evaluates else spec.model)

    def add_models(self, models: dict[tuple[str, int], bytes]) -> None:
        self._models.update(models)

    def prepare(self) -> list[TaskRun]:
        """Make each running task ready whose dependencies are now met; returns those tasks."""
        prepared = []
        for run in self._runs.values():
            if run.status in FINAL or run.ready is not None or (process := self._process_of(run)) is None:
                continue
            base = self._base(run, process)
            if base is not None:
                run.ready = Ready(process, process.plan(run.state), base, process.new_accumulator())
                prepared.append(run)
        return prepared

    def may_serve(self, run: TaskRun) -> bool:
        """Whether ``run`` has, or may come to have, work for some device."""
        if run.status is not TaskStatus.RUNNING:
            return False
        return run.ready is not None or (bool(run.depends_on) and self.get(run.depends_on).status not in FINAL)

    def no_work(self, check_in: CheckIn) -> str:
        """Why no task could ever serve a device that checked in so; '' when one may. For people."""
        runs = [run for run in self._runs.values() if run.spec.population == check_in.population]
        lacks = {run.name: unfit(run.needs, run.plan, check_in) for run in runs if self.may_serve(run)}
        if "" in lacks.values():
            return ""
        reasons = [f"task {name!r} does not fit this device, which has {reason}" for name, reason in lacks.items()]
        reasons += [f"task {run.name!r} is {run.status.value}" for run in runs if run.status in HELD]
        return "; ".join(reasons) or f"no task of population {check_in.population!r} is running"

    def keep_model(self, run: TaskRun) -> None:
        """``run`` has committed a version: keep it for the evaluations that need it, and drop what none needs."""
        readers = [r for r in self._runs.values() if r.spec.evaluates == run.name and r.status not in FINAL]
        if readers:
            self._models[(run.name, run.state.version)] = run.state.model
        next_reads = [r.spec.reads(r.state.version, _last_version(run)) for r in readers]
        oldest = min((version for version in next_reads if version), default=run.state.version + 1)
        mine = sorted(version for name, version in self._models if name == run.name)
        # The highest versions are wanted last; what goes here must be had from the store again.
        surplus = [v for v in mine[KEPT_MODELS:] if self._load_model(run.name, v) is not None]
        for version in {v for v in mine if v < oldest} | set(surplus):
            del self._models[(run.name, version)]

    def drop_models(self, run: TaskRun) -> None:
        """``run``, an evaluation, has committed or ended: what it read may be needed no more."""
        if run.spec.evaluates:
            self.keep_model(self.get(run.spec.evaluates))

    def model(self, name: str, version: int) -> bytes | None:
        run = self.get(name)
        if version == run.state.version:
            return run.state.model
        if not 1 <= version < run.state.version:
            return None
        kept = self._models.get((name, version))
        return kept if kept is not None else self._load_model(name, version)

    def content(self, digest: str) -> bytes | None:
        """What a round that goes on now gives its devices to download, by SHA-256; None when no round gives it."""
        for run in self._runs.values():
            ready = run.ready
            if ready is not None and ready.base.digest == digest and not run.spec.evaluates:
                return ready.process.content(run.state)
        return None

    def reads(self, run: TaskRun) -> int:
        """The version that the next round of an evaluation reads."""
        return run.spec.reads(run.state.version, _last_version(self.get(run.spec.evaluates)))

    def _base(self, run: TaskRun, process: Process) -> BaseModel | None:
        if not run.spec.evaluates:
            content = process.content(run.state)
            digest = hashlib.sha256(content).hexdigest() if content else ""
            return BaseModel(run.state.version, digest, len(content))
        version = self.reads(run)
        model = self.model(run.spec.evaluates, version) if version else None
        if model is None:
            return None
        return BaseModel(version, hashlib.sha256(model).hexdigest(), len(model))

    def _process_of(self, run: TaskRun) -> Process | None:
        """The task's process; None while what it depends on is not known."""
        if run.process is not None:
            return run.process
        if (needed := dependency_of(run.spec)) is not None:
            other = self.get(needed.task)
            unfinished = needed.kind is TaskKind.STATISTICS and other.status is not TaskStatus.COMPLETED
            if unfinished or self._process_of(other) is None:
                return None
        results = results_for(run.spec, self._process_and_state)
        if needed is not None and results == (None, None):
            return None
        run.process = self._factory(run.spec, *results)
        return run.process

    def _process_and_state(self, name: str) -> tuple[Process, ProcessState]:
        run = self.get(name)
        process = self._process_of(run)
        if process is None:
            raise LocalProtocolError(f"task {name!r} has no process yet; expected its results to be known")
        return process, run.state

    def _check_dependency(self, spec: TaskSpec) -> None:
        needed = dependency_of(spec)
        if needed is None:
            return
        what, name, kind = needed.key, needed.task, needed.kind
        other = self._runs.get(name)
        if other is None:
            hint = name_hint(name, self._runs)
            raise NotFoundError(f"{what} is {name!r}; there is no such task{hint}: create it first")
        if other.spec.kind is not kind or other.spec.population != spec.population:
            raise ConfigError(
                f"{what} is {name!r}, a task of kind {other.spec.kind.value!r} of population "
                f"{other.spec.population!r}; expected kind {kind.value!r} of population {spec.population!r}"
            )
        if kind is TaskKind.STATISTICS:
            self._check_statistics(other, spec)
        else:
            self._check_evaluated(other, spec)

    def _check_statistics(self, other: TaskRun, spec: TaskSpec) -> None:
        if other.status is TaskStatus.ENDED:
            raise ConflictError(f"standardize_by is {other.name!r}, which was ended before it had a result")
        assert other.spec.model is not None
        assert spec.model is not None
        if other.spec.model.num_features != spec.model.num_features:
            raise ConfigError(
                f"standardize_by is {other.name!r} of {other.spec.model.num_features} features; "
                f"expected {spec.model.num_features}, as this model has"
            )

    def _check_evaluated(self, other: TaskRun, spec: TaskSpec) -> None:
        assert other.spec.model is not None
        num_classes = other.spec.model.num_classes
        if (size := 8 * num_classes * num_classes) > MAX_COUNTS_BYTES:
            raise ConfigError(
                f"an evaluation of {other.name!r} reports counts of {num_classes} x {num_classes} classes, {size} "
                f"bytes; expected at most {MAX_COUNTS_BYTES}"
            )
        versions = _last_version(other)
        if spec.rounds > (most := spec.num_evaluations(versions)):
            every = f", of which every {spec.evaluate_every}th and the last are read" if spec.evaluate_every > 1 else ""
            raise ConfigError(
                f"rounds is {spec.rounds}; expected at most {most}: {other.name!r} has {versions} versions{every}"
            )
        first = spec.reads(0, versions)
        if other.state.version >= first and self.model(other.name, first) is None:
            raise ConflictError(
                f"version {first} of {other.name!r} is not kept any more; create an evaluation before its training "
                "goes on"
            )


def _last_version(run: TaskRun) -> int:
    """The last version that ``run`` will have, if nobody ends it before."""
    return run.state.version if run.status is TaskStatus.ENDED else run.spec.rounds
