"""Which devices are candidates of which task, and which open round may select from them.

A device that waits is a candidate of every task that it fits. Tasks select least recently served first (ties by name;
the order of serving is not stored, so after a restart all tasks are equal). A task that found too few claims its
candidates, once a round, for ``selection_s``: it can gather its cohort, and one that cannot be filled starves no other.

A round of more devices than may wait also counts those that were sent away and are expected back (parked).
"""

from __future__ import annotations

from collections.abc import Callable

from edgefl.protocol.events import Phase, TaskStatus
from edgefl.protocol.fitness import unfit
from edgefl.protocol.messages import CheckIn
from edgefl.protocol.round import selection_size
from edgefl.protocol.roundkeeper import RoundKeeper
from edgefl.protocol.sampling import sampling
from edgefl.protocol.taskboard import TaskBoard, TaskRun
from edgefl.protocol.waiting import Waiting, WaitingRoom


class Selector:
    """Keeps ``TaskRun.candidates``; ``max_waiting`` is the number of check-ins that may wait."""

    def __init__(self, board: TaskBoard, keeper: RoundKeeper, room: WaitingRoom, max_waiting: int) -> None:
        self._board = board
        self._keeper = keeper
        self._room = room
        self._max_waiting = max_waiting
        self._served = 0

    def assigned(self, device: str, check_in: CheckIn) -> TaskRun | None:
        """The task whose round still awaits the answer of ``device``."""
        for run in self._board:
            if run.round.awaits(device) and run.spec.population == check_in.population:
                return run
        return None

    def enter(self, waiting: Waiting) -> None:
        """Let a check-in wait: its device becomes a candidate."""
        self._room.enter(waiting)
        self._add(waiting.device, waiting.check_in, parked=False)

    def leave(self, device: str) -> Waiting | None:
        """``device`` is not a candidate any more; returns its check-in if one waited."""
        self._room.unpark(device)
        self._remove(device)
        return self._room.leave(device)

    def park(self, waiting: Waiting, until: float) -> None:
        """``waiting`` was sent away for lack of a place, and is expected back at ``until`` at the latest."""
        if any(run.status is TaskStatus.RUNNING and self._is_large(run) for run in self._board):
            forgotten = self._room.park(waiting.device, waiting.check_in, until)
            self._add(waiting.device, waiting.check_in, parked=True)
            if forgotten is not None:
                self._remove(forgotten)

    def prepare(self) -> None:
        """Give the tasks that have become ready their candidates. Who is present is free: members do not wait."""
        for run in self._board.prepare():
            for device, check_in, parked in self._room.present():
                if self._may_select(run, check_in, parked=parked):
                    run.candidates[device] = None

    def select(self, now: float, assign: Callable[[Waiting, TaskRun], None]) -> None:
        """Let the open rounds select; ``assign`` is called for each member that waits."""
        claimed: set[str] = set()
        runs = [run for run in self._board if run.status is TaskStatus.RUNNING and run.ready is not None]
        for run in sorted(runs, key=lambda run: (run.served, run.name)):
            if run.round.phase is not Phase.OPEN or now < run.not_before:
                continue
            if self._offer(run, claimed, now):
                self._served += 1
                run.served = self._served
                for device in run.round.cohort:
                    waiting = self.leave(device)
                    if waiting is not None:
                        assign(waiting, run)
            elif run.round.claim_until is not None and now < run.round.claim_until:
                claimed.update(run.candidates)

    def _offer(self, run: TaskRun, claimed: set[str], now: float) -> bool:
        """Let the open round select from those whom no other claims. True when it did."""
        free = [device for device in run.candidates if device not in claimed] if claimed else run.candidates
        state = run.round
        if bool(free) == (state.waiting_since is not None) and len(free) < selection_size(state, now):
            return False
        gone = [device for device in free if self._room.expired(device, now)]
        present = tuple(sorted(set(free).difference(gone)))
        for device in gone:
            self.leave(device)
        reads_sizes = sampling(state.spec.sampling).reads_sizes
        num_examples = tuple(self._room.num_examples(device) for device in present) if reads_sizes else ()
        return self._keeper.select(run, present, num_examples, now)

    def _may_select(self, run: TaskRun, check_in: CheckIn, *, parked: bool) -> bool:
        if run.ready is None or (parked and not self._is_large(run)):
            return False
        return check_in.population == run.spec.population and not unfit(run.needs, run.plan, check_in)

    def _is_large(self, run: TaskRun) -> bool:
        return run.spec.round.pool_size > self._max_waiting

    def _add(self, device: str, check_in: CheckIn, *, parked: bool) -> None:
        for run in self._board:
            if self._may_select(run, check_in, parked=parked):
                run.candidates[device] = None

    def _remove(self, device: str) -> None:
        for run in self._board:
            run.candidates.pop(device, None)
