"""The agent's blocking work: each job takes an effect of the session and gives the event that answers it.

Jobs run one after another in a worker thread; they use the network, the disk and the kernel, whose loops release the
interpreter lock. Nothing on this way imports NumPy. Errors of the kinds that the session knows become events; anything
else is a bug and leaves by exception.

Source: design §9 (the way from wire to outbox).
"""

from __future__ import annotations

import logging
import os
import time
from dataclasses import dataclass
from functools import partial

from edgefl import __version__, codecs
from edgefl.classes import listed
from edgefl.command import one_line
from edgefl.errors import ConfigError, EdgeFLError, StorageError
from edgefl.kernels import StopFlag
from edgefl.learning.client import run_plan
from edgefl.protocol.delivery import CallError
from edgefl.protocol.messages import (
    KINDS,
    Assignment,
    CheckIn,
    ReleaseInfo,
    Split,
    WorkFailure,
)
from edgefl.protocol.session_events import (
    CheckInAnswered,
    FetchModel,
    FetchRelease,
    ModelReady,
    ModelUnavailable,
    NotEligible,
    PlanNotUnderstood,
    ReceiptReceived,
    ReleaseFailed,
    ReleaseFetched,
    RpcFailed,
    SaveFailed,
    SaveUpdate,
    SendCheckIn,
    SendReport,
    SessionEvent,
    StartWork,
    UpdateSaved,
    WorkDone,
    WorkFailed,
    WorkStopped,
)
from edgefl.protocol.session_state import SessionConfig
from edgefl.protocol.shape import ExampleShape
from edgefl.types import Examples
from edgefl_device.config import DeviceConfig, ExampleSpec
from edgefl_device.content import ModelCache, ReleaseStore
from edgefl_device.example_store import ExampleStore
from edgefl_device.rpc import OTHER, FleetClient
from edgefl_device.state import StateDir

log = logging.getLogger("edgefl.device")


def session_config() -> SessionConfig:
    """What this agent knows: every kind of work, every codec."""
    return SessionConfig(encodings=codecs.names())


@dataclass
class Counts:
    """How many examples there were at the last check-in, for people."""

    num_train: int = 0
    num_held_out: int = 0


class Jobs:
    """The parts that jobs work with. The store is used by the session's worker thread alone."""

    def __init__(
        self,
        config: DeviceConfig,
        session: SessionConfig,
        client: FleetClient,
        state: StateDir,
        store: ExampleStore,
    ) -> None:
        self._config = config
        self._session = session
        self._client = client
        self._state = state
        self._store = store
        self._models = ModelCache(state.path / "models")
        self.releases = ReleaseStore(state.path / "releases")
        self.counts = Counts()
        self.running = self._installed()
        self.refused_release = ""
        self._purpose = OTHER
        self._instance = int.from_bytes(os.urandom(8), "little") or 1

    def check_in(self, effect: SendCheckIn) -> SessionEvent:
        """Take in the inbox, look at the device's own conditions, then check in."""
        try:
            self._take_inbox()
            self._store.enforce_retention()
            self.counts.num_train = self._store.count(Split.TRAIN)
            self.counts.num_held_out = self._store.count(Split.HELD_OUT)
        except StorageError as error:
            return NotEligible(str(error))
        wanted = self._config.eligibility.min_examples
        if self.counts.num_train < wanted:
            return NotEligible(f"{self.counts.num_train} training examples; min_examples is {wanted}")
        message = CheckIn(
            population=self._config.device.population,
            agent_version=__version__,
            session=self._state.session,
            num_train=self.counts.num_train,
            num_held_out=self.counts.num_held_out,
            kinds=self._session.kinds,
            encodings=self._session.encodings,
            last_task=effect.last_task,
            last_round=effect.last_round,
            shape=_shape_of(self._config.examples),
            running=tuple((one.info.name, one.info.version) for one in self.releases.installed()),
            instance=self._instance,
        )
        try:
            answer = self._client.check_in(message, effect.timeout_s)
        except CallError as error:
            return _failed(error)
        if isinstance(answer, WorkFailure):
            return PlanNotUnderstood(answer)
        work = answer.outcome.plan.work if isinstance(answer.outcome, Assignment) else None
        self._purpose = OTHER if work is None else KINDS[type(work)]
        return CheckInAnswered(answer)

    def fetch_model(self, effect: FetchModel) -> SessionEvent:
        """Have the model in the cache, verified."""
        try:
            self._models.ensure(effect.digest, effect.size_bytes, partial(self._client.download, purpose=self._purpose))
        except CallError as error:
            return _failed(error) if error.error.transient else ModelUnavailable(str(error))
        except EdgeFLError as error:
            return ModelUnavailable(str(error))
        return ModelReady()

    def work(self, effect: StartWork, stop: StopFlag) -> SessionEvent:
        """Run the plan on this device's examples."""
        assignment = effect.assignment
        try:
            self._check_classes(assignment)
            model = b""
            if assignment.model_digest:
                cached = self._models.read(assignment.model_digest)
                if cached is None:
                    raise StorageError(f"the model {assignment.model_digest[:12]} left the cache; check the card")
                model = cached
            train, held_out = self._load(assignment)
            memory = self._own_memory(assignment)
        except EdgeFLError as error:
            return WorkFailed(WorkFailure(assignment.task, assignment.round_num, type(error).__name__, str(error)))
        device = self._config.device.name
        result = run_plan(assignment, model, train, held_out, device, memory=memory, stop=stop)
        if result is None:
            return WorkStopped("the round's deadline came before the work was done")
        return WorkFailed(result) if isinstance(result, WorkFailure) else WorkDone(result)

    def save_update(self, effect: SaveUpdate) -> SessionEvent:
        """The one durable write of a round."""
        try:
            self._state.save_update(effect.update)
        except StorageError as error:
            return SaveFailed(str(error))
        return UpdateSaved()

    def report(self, effect: SendReport) -> SessionEvent:
        """Deliver a report."""
        try:
            return ReceiptReceived(*self._client.report(effect.report, effect.timeout_s, self._purpose))
        except CallError as error:
            return _failed(error)

    def fetch_release(self, effect: FetchRelease) -> SessionEvent:
        """Download, verify and swap in a release. Runs alongside the session's own jobs."""
        try:
            self.releases.install(effect.info, self._client.download)
        except CallError as error:
            return ReleaseFailed(effect.info, f"release {_name(effect.info)}: {error}")
        except StorageError as error:
            return ReleaseFailed(effect.info, f"release {_name(effect.info)}: {error}")
        except EdgeFLError as error:
            self.refused_release = f"{effect.info.name} {effect.info.version}: {one_line(str(error))}"
            log.warning("release %s is refused: %s", _name(effect.info), one_line(str(error)))
            return ReleaseFetched(effect.info)
        self.running = self._installed()
        log.info("release %s is installed", _name(effect.info))
        return ReleaseFetched(effect.info)

    def _installed(self) -> tuple[str, ...]:
        return tuple(f"{one.info.name} {one.info.version}" for one in self.releases.installed())

    def _check_classes(self, assignment: Assignment) -> None:
        """Labels are numbers: under other names they would train another class."""
        wanted, ours = assignment.plan.model.classes, self._config.examples.classes
        if wanted and ours and wanted != ours:
            raise ConfigError(
                f"the task's classes are {listed(wanted)}; this device's are {listed(ours)}: give both the same names "
                "in the same order"
            )

    def _load(self, assignment: Assignment) -> tuple[Examples, Examples]:
        """Only what the work reads: another split stays on disk."""
        spec = self._config.examples
        none = Examples(spec.num_features, b"", b"", spec.dtype, spec.quantization)
        reads = assignment.plan.work.reads
        train, held_out = (self._store.load(one) if one in reads else none for one in (Split.TRAIN, Split.HELD_OUT))
        return train, held_out

    def _own_memory(self, assignment: Assignment) -> bytes:
        size = assignment.plan.memory_bytes
        return self._state.memory.load(assignment.task, assignment.round_num, size) if size else b""

    def _take_inbox(self) -> None:
        if self._config.examples.inbox is None:
            return
        from edgefl_device.inbox import take_inbox  # csv and zipfile: only for devices that use them

        for taken in take_inbox(self._store, self._config.examples, wall_now=time.time()):
            if taken.error:
                log.warning("inbox: refused: %s", one_line(taken.error))
            else:
                log.info("inbox: %d examples from %s", taken.count, taken.name)


def _shape_of(spec: ExampleSpec) -> ExampleShape:
    return ExampleShape(spec.num_features, spec.num_classes, spec.dtype, spec.quantization)


def _failed(error: CallError) -> RpcFailed:
    return RpcFailed(str(error), error.error.transient, error.retry)


def _name(info: ReleaseInfo) -> str:
    return f"{info.name[:64]!r} version {info.version}"
