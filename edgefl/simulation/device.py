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
    AdoptVariate,
    CheckInAnswered,
    ClearOutbox,
    DropVariate,
    FetchModel,
    FetchRelease,
    ModelReady,
    ModelUnavailable,
    ReceiptReceived,
    ReleaseFetched,
    SaveUpdate,
    SendCheckIn,
    SendReport,
    SessionEffect,
    SessionEvent,
    Started,
    StartTimer,
    StartWork,
    StopTimer,
    TimerFired,
    UpdateSaved,
    WorkDone,
    WorkFailed,
)
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

    def work(self, device: SimulatedDevice, assignment: Assignment, model: bytes, variate: bytes) -> None:
        """Have the work done; ``device.worked`` is called with what came of it, at the same virtual time."""
        ...


class SimulatedDevice:
    """Carries the session's effects out at once: its work takes no virtual time and is the world's to do."""

    def __init__(self, holdings: Holdings, world: World) -> None:
        self.holdings = holdings
        self._world = world
        # A window's middle: no chance enters a simulation but that of learning.
        config = SessionConfig(encodings=codecs.names())
        self._kinds, self._encodings = config.kinds, config.encodings
        self._session = SessionMachine(config, lambda low, high: (low + high) / 2)
        self._timer = 0
        self._model = b""
        self._update: ClientUpdate | None = None
        self._proposed: dict[RoundKey, bytes] = {}
        self._variates: dict[str, bytes] = {}

    def start(self) -> None:
        self._handle(Started())

    def answered(self, answer: CheckInAnswer) -> None:
        self._handle(CheckInAnswered(answer))

    def worked(self, report: Report) -> None:
        self._handle(WorkFailed(report) if isinstance(report, WorkFailure) else WorkDone(report))

    def receipt(self, receipt: Receipt, retry: RetryWindow) -> None:
        self._handle(ReceiptReceived(receipt, retry))

    def _handle(self, event: SessionEvent) -> None:
        """Take ``event`` and carry the effects out, then the events that those make, until the session waits."""
        pending = [event]
        while pending:
            for effect in self._session.handle(pending.pop(0), self._world.now):
                outcome = self._carry_out(effect)
                if outcome is not None:
                    pending.append(outcome)

    def _carry_out(self, effect: SessionEffect) -> SessionEvent | None:
        match effect:
            case StartTimer(delay_s):
                self._timer += 1
                timer = self._timer
                self._world.later(delay_s, lambda: self._fire(timer))
            case StopTimer():
                self._timer += 1
            case SendCheckIn(last_task, last_round):
                self._world.send_check_in(self, self._check_in(last_task, last_round))
            case FetchModel(digest):
                return self._fetch(digest)
            case StartWork(assignment):
                model = self._model if assignment.model_digest else b""
                self._world.work(self, assignment, model, self._variates.get(assignment.task, b""))
            case SaveUpdate(update):
                self._update = update
                return UpdateSaved()
            case ClearOutbox():
                if effect.proposal is not None and self._update is not None:
                    self._proposed[effect.proposal] = self._update.variate
                self._update = None
            case AdoptVariate(proposal):
                self._variates[proposal.task] = self._proposed.pop(proposal)
            case DropVariate(proposal):
                del self._proposed[proposal]
            case SendReport(report):
                self._world.send_report(self, report)
            case FetchRelease(info):
                return ReleaseFetched(info)
            case _:  # notes for a restart, and stops, which a simulation does not have
                pass
        return None

    def _fire(self, timer: int) -> None:
        if timer == self._timer:
            self._handle(TimerFired())

    def _check_in(self, last_task: str, last_round: int) -> CheckIn:
        return CheckIn(
            population=self.holdings.population,
            agent_version=__version__,
            session=1,
            num_train=len(self.holdings.train),
            num_held_out=len(self.holdings.held_out),
            kinds=self._kinds,
            encodings=self._encodings,
            last_task=last_task,
            last_round=last_round,
        )

    def _fetch(self, digest: str) -> SessionEvent:
        model = self._world.model(digest)
        if model is None:
            return ModelUnavailable(f"no model {digest}")
        self._model = model
        return ModelReady()
