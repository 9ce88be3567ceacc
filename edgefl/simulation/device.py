"""A simulated device: the agent's session machine, with memory where the agent has a disk and a network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edgefl import codecs
from edgefl._version import __version__
from edgefl.protocol.messages import (
    Assignment,
    CheckIn,
    CheckInAnswer,
    ClientUpdate,
    Receipt,
    Report,
    RetryWindow,
    RoundKey,
    WorkFailure,
)
from edgefl.protocol.session import SessionMachine
from edgefl.protocol.session_events import (
    CheckInAnswered,
    FetchModel,
    FetchRelease,
    ModelReady,
    ModelUnavailable,
    ReceiptReceived,
    ReleaseFetched,
    SaveUpdate,
    SendCheckIn,
    SendReport,
    StartWork,
    UpdateSaved,
    WorkDone,
    WorkFailed,
)
from edgefl.protocol.session_executor import Executor, JobEffect, Notes
from edgefl.protocol.session_state import SessionConfig
from edgefl.simulation.holdings import Holdings


class World(Protocol):
    """What surrounds a device: the clock, and the link to the server."""

    @property
    def now(self) -> float: ...

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        """Run ``action`` after ``delay_s`` of virtual time."""
        ...

    def send_check_in(self, device: SimulatedDevice, check_in: CheckIn) -> None: ...

    def send_report(self, device: SimulatedDevice, report: Report) -> None: ...

    def model(self, digest: str) -> bytes | None: ...

    def work(self, device: SimulatedDevice, assignment: Assignment, model: bytes, memory: bytes) -> None:
        """Have the work done; ``device.worked`` is called with what came of it, at the same virtual time."""
        ...


class DeviceMemory:
    """What one device remembers, by task."""

    def __init__(self) -> None:
        self._proposed: dict[str, bytes] = {}
        self._adopted: dict[str, bytes] = {}

    def proposals(self) -> tuple[RoundKey, ...]:
        return ()  # asked at a start, and a simulated device has only one

    def propose(self, task: str, memory: bytes) -> None:
        self._proposed[task] = memory

    def adopt(self, task: str) -> None:
        self._adopted[task] = self._proposed.pop(task)

    def drop(self, task: str) -> None:
        del self._proposed[task]

    def load(self, task: str) -> bytes:
        """The device's own memory of ``task``; b"" while it has none."""
        return self._adopted.get(task, b"")


class MemoryStorage:
    """What an agent has in its state folder."""

    session = 1
    found_outbox = None

    def __init__(self) -> None:
        self.notes = Notes()
        self.memory = DeviceMemory()
        self._update: ClientUpdate | None = None

    def note(self, notes: Notes) -> None:
        self.notes = notes

    def save_update(self, update: ClientUpdate) -> None:
        self._update = update

    def clear_outbox(self, proposal: RoundKey | None = None) -> None:
        if proposal is not None and self._update is not None:
            self.memory.propose(proposal.task, self._update.memory)
        self._update = None


class SimulatedDevice:
    """Carries the session's effects out at once: its work takes no virtual time and is the world's to do."""

    def __init__(self, holdings: Holdings, world: World) -> None:
        self.holdings = holdings
        self._world = world
        # A window's middle: no chance enters a simulation but that of learning.
        config = SessionConfig(encodings=codecs.names())
        self._kinds, self._encodings = config.kinds, config.encodings
        self._storage = MemoryStorage()
        machine = SessionMachine(config, lambda low, high: (low + high) / 2)
        self._executor = Executor(
            machine, self._storage, self, clock=lambda: world.now, warn=lambda _: None, later=world.later
        )
        self._model = b""

    def start(self) -> None:
        self._executor.start()

    def answered(self, answer: CheckInAnswer) -> None:
        self._executor.handle(CheckInAnswered(answer))

    def worked(self, report: Report) -> None:
        self._executor.handle(WorkFailed(report) if isinstance(report, WorkFailure) else WorkDone(report))

    def receipt(self, receipt: Receipt, retry: RetryWindow) -> None:
        self._executor.handle(ReceiptReceived(receipt, retry))

    def begin(self, effect: JobEffect) -> None:
        """Do a job, or have the world do it."""
        match effect:
            case SendCheckIn(last_task, last_round):
                self._world.send_check_in(self, self._check_in(last_task, last_round))
            case FetchModel(digest):
                self._fetch(digest)
            case StartWork(assignment):
                model = self._model if assignment.model_digest else b""
                self._world.work(self, assignment, model, self._storage.memory.load(assignment.task))
            case SaveUpdate(update):
                self._storage.save_update(update)
                self._executor.handle(UpdateSaved())
            case SendReport(report):
                self._world.send_report(self, report)
            case FetchRelease(info):
                self._executor.handle(ReleaseFetched(info))

    def stop_work(self) -> None:
        """Work takes no time here: there is none to stop."""

    def _check_in(self, last_task: str, last_round: int) -> CheckIn:
        return CheckIn(
            population=self.holdings.population,
            agent_version=__version__,
            session=self._storage.session,
            num_train=len(self.holdings.train),
            num_held_out=len(self.holdings.held_out),
            kinds=self._kinds,
            encodings=self._encodings,
            last_task=last_task,
            last_round=last_round,
        )

    def _fetch(self, digest: str) -> None:
        model = self._world.model(digest)
        if model is None:
            self._executor.handle(ModelUnavailable(f"no model {digest}"))
            return
        self._model = model
        self._executor.handle(ModelReady())
