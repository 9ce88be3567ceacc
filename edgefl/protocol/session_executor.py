"""Carries out what a device's session says, through ports: no thread, no queue, no clock and no disk of its own.

The agent, the simulator and the simulation of faults run this same code. It knows what each effect means for the state
folder and the timer; the jobs (calls, work, the durable write) are begun in their order and are somebody else's to do.

Invariants
----------
- Effects are carried out in the order in which the session gave them, and all of one event before the next event.
- Notes, a cleared outbox and device memory are unsynced: where one fails, the session goes on.
- A timer that was stopped or replaced never fires.

After an error that passed through ``handle`` the executor is not used again.

Source: design §5 (the device machine), §9 (few writes).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from edgefl.errors import StorageError
from edgefl.protocol.messages import ReleaseInfo, Report, RetryWindow, RoundKey, WorkFailure
from edgefl.protocol.session import SessionMachine
from edgefl.protocol.session_events import (
    AdoptMemory,
    ClearOutbox,
    DropMemory,
    FetchModel,
    FetchRelease,
    Halt,
    SaveAssignment,
    SaveUpdate,
    SendCheckIn,
    SendReport,
    SessionEffect,
    SessionEvent,
    Started,
    StartTimer,
    StartWork,
    StopTimer,
    StopWork,
    TimerFired,
)
from edgefl.protocol.session_state import SessionPhase, SessionState

MAX_STARTS = 3
"""After so many unclean ends in the middle of one assignment it is reported as failed, not tried again."""

JobEffect = SendCheckIn | FetchModel | StartWork | SaveUpdate | SendReport | FetchRelease
"""Effects that take time, and have an outcome."""


@dataclass(frozen=True)
class Notes:
    """What is noted unsynced. ``starts``: how often work on (``task``, ``round_num``) began without a clean end.

    The window is the last retry window, in seconds.
    """

    session: int = 0
    task: str = ""
    round_num: int = 0
    starts: int = 0
    last_task: str = ""
    last_round: int = 0
    window_min_s: float = 0.0
    window_max_s: float = 0.0

    @property
    def window(self) -> RetryWindow:
        return RetryWindow(self.window_min_s, self.window_max_s)


class DeviceMemory(Protocol):
    """Where device memory is kept, by task. All methods raise ``StorageError``."""

    def proposals(self) -> tuple[RoundKey, ...]:
        """The rounds whose fate is not known."""
        ...

    def adopt(self, task: str) -> None: ...

    def drop(self, task: str) -> None: ...


class Storage(Protocol):
    """What outlives the process. ``found_outbox``: the update without a receipt that an earlier one left."""

    @property
    def session(self) -> int: ...

    @property
    def notes(self) -> Notes: ...

    @property
    def found_outbox(self) -> Report | None: ...

    @property
    def memory(self) -> DeviceMemory: ...

    def note(self, notes: Notes) -> None:
        """Replace the notes. Raises ``StorageError``."""
        ...

    def clear_outbox(self, proposal: RoundKey | None = None) -> None:
        """Forget the outbox entry, or keep its device memory under ``proposal``. Raises ``StorageError``."""
        ...


class Jobs(Protocol):
    """Who does the jobs. The outcome of each comes to ``Executor.handle``, at once or later."""

    def begin(self, effect: JobEffect) -> None: ...

    def stop_work(self) -> None:
        """Stop the work at hand, if there is any. Its outcome is still awaited."""
        ...


Later = Callable[[float, Callable[[], None]], None]
"""Runs an action after so many seconds."""

OnStep = Callable[[SessionEvent, SessionState, SessionState, tuple[SessionEffect, ...]], None]
"""Is told of an event, the state before and after it, and the effects, of which none is carried out yet."""


class Executor:
    """Owns ``machine`` and the notes of ``storage``; ``clock`` gives monotonic seconds.

    ``later`` runs the timer; None where the caller waits until ``state.timer_at`` and hands in ``TimerFired`` itself.
    ``on_effect`` is called before each effect; ``warn`` is told what storage could not do.
    """

    def __init__(
        self,
        machine: SessionMachine,
        storage: Storage,
        jobs: Jobs,
        *,
        clock: Callable[[], float],
        warn: Callable[[str], None],
        later: Later | None = None,
        on_step: OnStep | None = None,
        on_effect: Callable[[SessionEffect], None] | None = None,
    ) -> None:
        self._machine = machine
        self._storage = storage
        self._jobs = jobs
        self._clock = clock
        self._warn = warn
        self._later = later
        self._on_step = on_step
        self._on_effect = on_effect
        self._pending: list[SessionEvent] = []
        self._timer = 0

    @property
    def state(self) -> SessionState:
        return self._machine.state

    def start(self, releases: tuple[ReleaseInfo, ...] = (), *, at_once: bool = False) -> None:
        """Begin with what storage has. ``at_once``: do not wait for the stored window.

        Raises ``StorageError`` when the device memory cannot be read.
        """
        storage, notes = self._storage, self._storage.notes
        outbox = storage.found_outbox
        if outbox is None and notes.task and notes.starts >= MAX_STARTS:
            text = f"the agent ended {notes.starts} times in the middle of this work; see its log"
            outbox = WorkFailure(notes.task, notes.round_num, "CrashLoop", text)
        window = None if at_once else notes.window
        proposals = storage.memory.proposals()
        self.handle(Started(outbox, notes.last_task, notes.last_round, window, releases, proposals))

    def handle(self, event: SessionEvent) -> None:
        """Take ``event`` and carry out what follows; an event that comes meanwhile is taken after it."""
        self._pending.append(event)
        if len(self._pending) > 1:
            return
        while self._pending:
            self._step(self._pending[0])
            del self._pending[0]

    def ended(self) -> None:
        """No job runs any more. A clean end in the middle of work is not a reason to give that work up."""
        starts = self._storage.notes.starts
        if self.state.phase is SessionPhase.HALTED and starts:
            self._note(starts=starts - 1)

    def _step(self, event: SessionEvent) -> None:
        before = self.state
        effects = self._machine.handle(event, self._clock())
        if self._on_step is not None:
            self._on_step(event, before, self.state, effects)
        for effect in effects:
            if self._on_effect is not None:
                self._on_effect(effect)
            self._carry_out(effect)

    def _carry_out(self, effect: SessionEffect) -> None:
        storage = self._storage
        match effect:
            case StartTimer(delay_s):
                self._start_timer(delay_s)
            case StopTimer():
                self._timer += 1
            case StopWork():
                self._jobs.stop_work()
            case SaveAssignment():
                self._note_assignment(effect)
            case ClearOutbox():
                self._clear_outbox(effect)
            case AdoptMemory(proposal) | DropMemory(proposal):
                step = storage.memory.adopt if isinstance(effect, AdoptMemory) else storage.memory.drop
                self._try(lambda: step(proposal.task), "it is done before the next work that needs it")
            case Halt():
                pass  # the caller hands in nothing any more
            case _:
                self._jobs.begin(effect)

    def _start_timer(self, delay_s: float) -> None:
        self._timer += 1
        mine = self._timer
        if self._later is not None:
            self._later(delay_s, lambda: self._ring(mine))

    def _ring(self, timer: int) -> None:
        if timer == self._timer:
            self.handle(TimerFired())

    def _note_assignment(self, effect: SaveAssignment) -> None:
        notes, assignment = self._storage.notes, effect.assignment
        same = (notes.task, notes.round_num) == (assignment.task, assignment.round_num)
        starts = notes.starts + 1 if same else 1
        self._note(task=assignment.task, round_num=assignment.round_num, starts=starts, **_window(effect.retry))

    def _clear_outbox(self, effect: ClearOutbox) -> None:
        last = {"last_task": effect.last_task, "last_round": effect.last_round}
        self._note(task="", round_num=0, starts=0, **last, **_window(effect.retry))
        self._try(lambda: self._storage.clear_outbox(effect.proposal), "an update that is sent again is harmless")

    def _note(self, **changes: Any) -> None:
        storage = self._storage
        notes = replace(storage.notes, session=storage.session, **changes)
        self._try(lambda: storage.note(notes), "the agent goes on without its notes")

    def _try(self, action: Callable[[], None], otherwise: str) -> None:
        try:
            action()
        except StorageError as error:
            self._warn(f"{error}; {otherwise}")


def _window(retry: RetryWindow | None) -> dict[str, float]:
    return {} if retry is None else {"window_min_s": retry.min_s, "window_max_s": retry.max_s}
