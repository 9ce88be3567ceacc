"""What the protocol's tests share: a process that adds integers, a store in memory, and short ways to say things.

``Adding`` is a whole ``Process`` of a few lines: its model is one int64, a payload is one int64, and a round adds the
sum of its payloads. Its sums do not depend on order, as the real accumulator's do not.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from edgefl.errors import InvalidUpdateError, KernelError, UpdateRefusal
from edgefl.models.kinds.softmax import SoftmaxModel
from edgefl.protocol.coordinator import Coordinator
from edgefl.protocol.events import (
    DeviceRecord,
    Effect,
    Event,
    ReleaseRecord,
    RoundRecord,
    SaveAbandon,
    SaveCommit,
    SaveDevice,
    SaveFailure,
    SaveRelease,
    SaveReport,
    SaveSelection,
    SaveSetbacks,
    SaveTask,
    SaveTaskStatus,
    Snapshot,
    TaskRecord,
)
from edgefl.protocol.failures import counted
from edgefl.protocol.messages import (
    CheckIn,
    ClientUpdate,
    EvaluationWork,
    Plan,
    StatisticsWork,
    TrainingWork,
    WorkFailure,
)
from edgefl.protocol.pace import CoordinatorConfig
from edgefl.protocol.process import ProcessState, RoundConditions, RoundMetrics
from edgefl.protocol.task import ClientSpec, ModelSpec, RoundSpec, StatisticsSpec, TaskKind, TaskSpec
from edgefl.sums.running import Contribution
from edgefl.types import RoundKey, SgdOptions, Standardization

ENCODING = "int"
NOT_A_NUMBER = -(2**63)
POISON = 666
"""A sum of this cannot be applied: ``finalize`` raises."""

MAX_WEIGHT = 100
MAX_VALUE = 1000
MODEL = SoftmaxModel(num_features=1, num_classes=2)


def pack(value: int) -> bytes:
    return struct.pack("<q", value)


def unpack(raw: bytes) -> int:
    return int(struct.unpack("<q", raw)[0])


@dataclass
class Sum:
    total: int = 0
    num_reports: int = 0
    weight: int = 0


class Adding:
    """A ``Process``; the same for training, evaluation (whose model is empty) and statistics."""

    def __init__(self, spec: TaskSpec, standardization: Standardization | None, model: SoftmaxModel | None) -> None:
        self.spec = spec
        self._standardization = standardization
        self._model = model

    def initialize(self) -> ProcessState:
        return ProcessState(0, pack(0) if self.spec.kind is TaskKind.TRAINING else b"")

    def plan(self, state: ProcessState) -> Plan:
        if self.spec.kind is TaskKind.EVALUATION:
            assert self._model is not None
            return Plan(self._model, EvaluationWork(MAX_WEIGHT), ENCODING)
        if self.spec.kind is TaskKind.STATISTICS:
            return Plan(MODEL, StatisticsWork(1.0, 20, MAX_WEIGHT, state.extra or None), ENCODING)
        model = replace(MODEL, standardization=self._standardization)
        return Plan(model, TrainingWork(SgdOptions(0.1, 8, 1, 0.0, 0.0, 0.0, 0.0), True, MAX_WEIGHT), ENCODING)

    def content(self, state: ProcessState) -> bytes:
        return state.model

    def take(self, device: str, update: ClientUpdate) -> Contribution:
        if update.encoding != ENCODING:
            raise InvalidUpdateError(UpdateRefusal.ENCODING, f"encoding {update.encoding!r}; expected {ENCODING!r}")
        if len(update.payload) != 8:
            raise InvalidUpdateError(UpdateRefusal.SHAPE, f"{len(update.payload)} bytes; expected 8")
        if unpack(update.payload) == NOT_A_NUMBER:
            raise InvalidUpdateError(UpdateRefusal.NON_FINITE, "not a number")
        if not 1 <= update.weight <= MAX_WEIGHT:
            raise InvalidUpdateError(UpdateRefusal.WEIGHT, f"weight {update.weight}; expected 1 to {MAX_WEIGHT}")
        if (norm := abs(unpack(update.payload))) > MAX_VALUE:
            raise InvalidUpdateError(UpdateRefusal.NORM, f"norm {norm}; expected at most {MAX_VALUE}")
        return Contribution(
            update.payload, update.weight, device=device, key=RoundKey(self.spec.seed, update.round_num)
        )

    def new_accumulator(self) -> Sum:
        return Sum()

    def fold(self, accumulator: Sum, contribution: Contribution) -> None:
        accumulator.total += unpack(contribution.values)
        accumulator.num_reports += 1
        accumulator.weight += contribution.weight

    def finalize(self, state: ProcessState, accumulator: Sum, _: RoundConditions) -> tuple[ProcessState, RoundMetrics]:
        if accumulator.total == POISON:
            raise KernelError("the model left the finite numbers")
        total = accumulator.total + (unpack(state.model) if state.model else 0)
        model = pack(total) if self.spec.kind is TaskKind.TRAINING else b""
        extra = b"" if model else struct.pack("<f", total)
        weight, count = accumulator.weight, accumulator.num_reports
        return ProcessState(state.version + 1, model, extra), RoundMetrics(count, weight, weight, 0, 0.0)

    def standardization(self, state: ProcessState) -> Standardization | None:
        done = self.spec.kind is TaskKind.STATISTICS and state.version == self.spec.rounds
        return Standardization(state.extra, struct.pack("<f", 1.0)) if done else None


@dataclass
class MemoryStore:
    """Applies ``Persist`` effects as the real store does, and remembers what was done to whom."""

    tasks: dict[str, TaskRecord] = field(default_factory=dict)
    rounds: dict[str, RoundRecord] = field(default_factory=dict)
    devices: dict[str, DeviceRecord] = field(default_factory=dict)
    releases: list[ReleaseRecord] = field(default_factory=list)
    models: dict[tuple[str, int], bytes] = field(default_factory=dict)
    ledger: dict[tuple[str, int, str], tuple[int, ClientUpdate]] = field(default_factory=dict)
    commits: dict[tuple[str, int], SaveCommit] = field(default_factory=dict)
    abandons: dict[tuple[str, int], str] = field(default_factory=dict)

    def apply(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case SaveTask(record):
                    assert record.spec.name not in self.tasks
                    self.tasks[record.spec.name] = record
                case SaveTaskStatus(task, status, reason):
                    self.tasks[task] = replace(self.tasks[task], status=status, reason=reason)
                case SaveSetbacks(task, setbacks):
                    self.tasks[task] = replace(self.tasks[task], setbacks=setbacks)
                case SaveSelection(record):
                    assert record.task not in self.rounds
                    assert record.round_num == self.tasks[record.task].next_round
                    self.rounds[record.task] = record
                case SaveReport(sequence, device, update):
                    self._report(sequence, device, update)
                case SaveFailure(device, failure):
                    record = self.rounds[failure.task]
                    failures = counted(record.failures, device, failure)
                    self.rounds[failure.task] = replace(record, failed=(*record.failed, device), failures=failures)
                case SaveCommit(task, round_num, _, state, _, status):
                    assert self.rounds.pop(task).round_num == round_num
                    self.commits[task, round_num] = effect
                    self.tasks[task] = replace(self.tasks[task], state=state, status=status, next_round=round_num + 1)
                    if state.model:
                        assert (task, state.version) not in self.models
                        self.models[task, state.version] = state.model
                case SaveAbandon(task, round_num, reason):
                    assert self.rounds.pop(task).round_num == round_num
                    self.abandons[task, round_num] = reason
                    self.tasks[task] = replace(self.tasks[task], next_round=round_num + 1)
                case SaveDevice(record):
                    self.devices[record.device] = record
                case SaveRelease(release):
                    self.releases.append(release)

    def _report(self, sequence: int, device: str, update: ClientUpdate) -> None:
        key = (update.task, update.round_num, device)
        assert key not in self.ledger, f"{key} accepted twice"
        assert sequence == len(self.ledger) + 1
        self.ledger[key] = (sequence, update)
        record = self.rounds[update.task]
        self.rounds[update.task] = replace(record, accepted=(*record.accepted, (sequence, device, update)))

    def snapshot(self) -> Snapshot:
        return Snapshot(
            tasks=tuple(self.tasks.values()),
            rounds=tuple(self.rounds.values()),
            devices=tuple(self.devices.values()),
            releases=tuple(self.releases),
            models=dict(self.models),
            next_sequence=len(self.ledger) + 1,
        )

    def find_accepted(self, task: str, round_num: int, device: str) -> int | None:
        entry = self.ledger.get((task, round_num, device))
        return None if entry is None else entry[0]


class Server:
    """A coordinator and the store that it is recovered from."""

    def __init__(self, config: CoordinatorConfig | None = None, store: MemoryStore | None = None) -> None:
        self.config = config or CoordinatorConfig()
        self.store = store or MemoryStore()
        self.coordinator = self._new()

    def _new(self) -> Coordinator:
        return Coordinator(Adding, self.config, find_accepted=self.store.find_accepted)

    def handle(self, event: Event, now: float = 0.0) -> list[Effect]:
        effects = self.coordinator.handle(event, now)
        self.store.apply(effects)
        return effects

    def restart(self, now: float = 0.0) -> list[Effect]:
        """The server was killed and comes back with what its store holds."""
        self.coordinator = self._new()
        effects = self.coordinator.restore(self.store.snapshot(), now)
        self.store.apply(effects)
        return effects


def training(
    name: str = "train", *, rounds: int = 3, standardize_by: str = "", population: str = "p", **round_options: Any
) -> TaskSpec:
    options = {"goal": 2, "minimum": 1, "selection_s": 5.0, "deadline_s": 60.0, **round_options}
    return TaskSpec(
        name=name,
        kind=TaskKind.TRAINING,
        population=population,
        round=RoundSpec(**options),
        seed=7,
        rounds=rounds,
        model=ModelSpec(num_features=1, num_classes=2, standardize_by=standardize_by),
        client=ClientSpec(learning_rate=0.1),
    )


def evaluation(name: str = "eval", evaluates: str = "train", *, rounds: int = 3, **round_options: Any) -> TaskSpec:
    spec = training(name, rounds=rounds, **round_options)
    return replace(spec, kind=TaskKind.EVALUATION, evaluates=evaluates, model=None, client=None)


def statistics(name: str = "stats", **round_options: Any) -> TaskSpec:
    spec = training(name, rounds=2, **round_options)
    return replace(spec, kind=TaskKind.STATISTICS, client=None, statistics=StatisticsSpec(feature_bound=1.0))


def check_in(**changes: Any) -> CheckIn:
    plain = CheckIn(
        population="p",
        agent_version="1.0",
        session=1,
        num_train=10,
        num_held_out=5,
        kinds=("training", "evaluation", "statistics"),
        encodings=(ENCODING,),
    )
    return replace(plain, **changes)


def update(base_digest: str, value: int = 1, task: str = "train", round_num: int = 1, **changes: Any) -> ClientUpdate:
    plain = ClientUpdate(
        task=task,
        round_num=round_num,
        base_model_digest=base_digest,
        encoding=ENCODING,
        payload=pack(value),
        weight=1,
        num_examples=10,
        num_correct=0,
        loss_grid=0,
    )
    return replace(plain, **changes)


def failure(task: str = "train", round_num: int = 1, message: str = "too hot") -> WorkFailure:
    return WorkFailure(task, round_num, "WorkStopped", message)
