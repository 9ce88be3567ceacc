"""The rounds of all tasks: takes reports through the gate, folds them, closes rounds and opens the next.

The update gate, in the order of design §5 (size and schema were checked when the message was read): ENCODING, SHAPE,
NON_FINITE -> WRONG_TASK, WRONG_ROUND, NOT_ASSIGNED, WRONG_BASE_MODEL -> already accepted -> WEIGHT, NORM, MALFORMED ->
fold. The process takes the update at once; what it refuses for a later reason waits for its place in this order. A
refused update enters neither ledger nor aggregate; to its round it is the member's failure.
"""

from __future__ import annotations

from collections.abc import Callable

from edgefl.errors import EdgeFLError, InvalidUpdateError, LocalProtocolError, UpdateRefusal
from edgefl.protocol.backoff import NONE, Setbacks
from edgefl.protocol.devices import KnownDevices
from edgefl.protocol.events import (
    FINAL,
    OVER,
    Effect,
    Notice,
    Phase,
    PublishRound,
    RoundRecord,
    SaveSetbacks,
    SaveTaskStatus,
    TaskStatus,
)
from edgefl.protocol.failures import refusal
from edgefl.protocol.latency import Latencies
from edgefl.protocol.messages import (
    Accepted,
    AlreadyAccepted,
    ClientUpdate,
    Late,
    Receipt,
    Refused,
    WorkFailure,
    learning_rate,
)
from edgefl.protocol.process import BEFORE_ROUND, RoundConditions, fold_recorded
from edgefl.protocol.round import (
    CandidatesWaiting,
    MemberFailed,
    RoundEnded,
    RoundEvent,
    RoundFinalized,
    TimePassed,
    UpdateAccepted,
    admit,
    restore,
    step,
)
from edgefl.protocol.taskboard import Ready, TaskBoard, TaskRun
from edgefl.sums.running import Contribution

FindAccepted = Callable[[str, int, str], int | None]
"""The ledger's sequence of a key (task, round, device), from the store; None when none was accepted."""


class RoundKeeper:
    """Moves rounds on. ``backoff_max_s``: the longest delay after abandoned rounds (``edgefl.protocol.backoff``).

    ``out`` collects effects; ``changed`` says that a round or a task ended since it was cleared.
    """

    def __init__(
        self, board: TaskBoard, find_accepted: FindAccepted, devices: KnownDevices, backoff_max_s: float
    ) -> None:
        self._board = board
        self._devices = devices
        self._backoff_max_s = backoff_max_s
        self._find_accepted = find_accepted
        self._latencies = Latencies()
        self.next_sequence = 1
        self.out: list[Effect] = []
        self.changed = False

    def select(self, run: TaskRun, devices: tuple[str, ...], num_examples: tuple[int, ...], now: float) -> bool:
        """Offer ``devices`` (sorted) to the open round; True when it drew its cohort from them.

        ``num_examples`` of each, where the round's sampling reads them.
        """
        ready = run.at_work
        conditions = RoundConditions(self._devices.num_able(run.name), learning_rate(ready.plan))
        self._step(run, CandidatesWaiting(devices, ready.base, conditions, num_examples), now)
        if run.round.phase is not Phase.COLLECTING:
            return False
        self.out.append(PublishRound(run.round.summary))
        return True

    def receive(self, device: str, update: ClientUpdate, now: float) -> Receipt:
        """Take an update through the gate; an accepted one is folded, and may close its round."""
        run = self._board.find(update.task)
        try:
            if run is None:
                raise InvalidUpdateError(UpdateRefusal.WRONG_TASK, f"no task {update.task!r}; check in for another")
            taken = _taken(run, device, update)
            receipt = self._admit(run, device, update)
            self._note_latency(run, device, update.round_num, now)
            if receipt is not None:
                self._devices.delivered(device)
                return receipt
            if isinstance(taken, InvalidUpdateError):
                raise taken
        except InvalidUpdateError as error:
            if run is not None:
                self.fail(device, refusal(update.task, update.round_num, error), now)
            return Refused(error.reason, str(error))
        ready = run.at_work
        ready.process.fold(ready.accumulator, taken)
        self._devices.delivered(device)
        sequence, self.next_sequence = self.next_sequence, self.next_sequence + 1
        self.advance(run, UpdateAccepted(sequence, device, update), now)
        return Accepted(sequence)

    def early_receipt(self, device: str, update: ClientUpdate) -> Receipt | None:
        """The receipt that ``update`` gets whatever its payload is; None when that decides. Changes nothing."""
        run = self._board.find(update.task)
        if run is None:
            return Refused(UpdateRefusal.WRONG_TASK, f"no task {update.task!r}; check in for another")
        try:
            return self._admit(run, device, update)
        except InvalidUpdateError as error:
            if update.round_num == run.round.round_num and run.round.awaits(device):
                return None  # to its round this refusal is a failure, which is for `receive` to note
            return Refused(error.reason, str(error))

    def fail(self, device: str, failure: WorkFailure, now: float) -> None:
        """Note a failure. It changes its round if it answers an assignment."""
        run = self._board.find(failure.task)
        if run is not None:
            self._devices.failed(device, failure, now)
        if run is not None and failure.round_num == run.round.round_num and run.round.awaits(device):
            self.advance(run, MemberFailed(device, failure), now)

    def advance(self, run: TaskRun, event: RoundEvent, now: float) -> None:
        """Step the round of ``run``; finalize it if it closes, and open the next if it ended."""
        self._step(run, event, now)
        if run.round.phase is Phase.CLOSING:
            self._finalize(run, now)
        if event != TimePassed() or run.round.phase is not Phase.COLLECTING:
            self.out.append(PublishRound(run.round.summary))
        if run.round.phase in OVER:
            if run.round.selected_at is not None:
                self._latencies.note_round(run.round.cohort, run.arrived, now - run.round.selected_at)
            self._back_off(run, now)
            run.next_round()
            self.changed = True

    def restore(self, run: TaskRun, record: RoundRecord, ready: Ready, now: float) -> None:
        """Take up a COLLECTING round again: fold what its ledger holds, and close it if that was the last."""
        run.round = restore(record, run.spec.seed, run.spec.round, ready.base, now)
        fold_recorded(ready.process, ready.accumulator, ((device, update) for _, device, update in record.accepted))
        self.advance(run, TimePassed(), now)

    def set_status(self, run: TaskRun, status: TaskStatus, reason: str = "") -> None:
        """``reason``: why it is SUSPENDED."""
        run.status, run.reason = status, reason
        self.out.append(SaveTaskStatus(run.name, status, reason))
        if reason:
            self.out.append(Notice(f"task {run.name} is suspended: {reason}; `edgefl task resume` takes it up again"))
        self._board.drop_models(run)
        self.changed = True
        if status in FINAL:
            self._devices.unwatch(run.name)

    def resume(self, run: TaskRun) -> None:
        """Take a task up again, without what held it back."""
        self._set_setbacks(run, NONE, 0.0)
        self.set_status(run, TaskStatus.RUNNING)

    def _back_off(self, run: TaskRun, now: float) -> None:
        """The round of ``run`` has ended: a commit forgets what was; after an abandoned one the next round waits."""
        ended = run.round
        if ended.phase is Phase.COMMITTED:
            self._set_setbacks(run, NONE, 0.0)
            return
        if run.status is not TaskStatus.RUNNING:
            return
        fruitless = not ended.accepted and bool(ended.failures) and all(map(self._fails, ended.cohort))
        setbacks = run.setbacks.after(ended.reason, fruitless=fruitless)
        self._set_setbacks(run, setbacks, now + setbacks.delay_s(self._backoff_max_s))
        if setbacks.hopeless:
            self.set_status(
                run, TaskStatus.SUSPENDED, f"its last {setbacks.fruitless} rounds only failed; the last: {ended.reason}"
            )

    def _set_setbacks(self, run: TaskRun, setbacks: Setbacks, not_before: float) -> None:
        run.not_before = not_before
        if setbacks != run.setbacks:
            run.setbacks = setbacks
            self.out.append(SaveSetbacks(run.name, setbacks))

    def _fails(self, device: str) -> bool:
        """Whether the last word of ``device`` was a failure."""
        known = self._devices.find(device)
        return known is not None and known.failing

    def _step(self, run: TaskRun, event: RoundEvent, now: float) -> None:
        run.round, effects = step(run.round, event, now)
        self.out.extend(effects)

    def _admit(self, run: TaskRun, device: str, update: ClientUpdate) -> Receipt | None:
        remembered = run.round_of(update.round_num)
        if remembered is None and 1 <= update.round_num < run.round.round_num:
            sequence = self._find_accepted(run.name, update.round_num, device)
            return Late() if sequence is None else AlreadyAccepted(sequence)
        return admit(remembered or run.round, device, update)

    def _note_latency(self, run: TaskRun, device: str, round_num: int, now: float) -> None:
        """``device`` has reported for a round that may be over."""
        reported = run.round_of(round_num)
        if reported is None or reported.selected_at is None or device not in reported.members:
            return
        if reported is run.round:
            run.arrived.setdefault(device, now - reported.selected_at)
        elif device not in reported.accepted:
            self._latencies.note(device, now - reported.selected_at)

    def _finalize(self, run: TaskRun, now: float) -> None:
        ready = run.at_work
        try:
            state, metrics = ready.process.finalize(run.state, ready.accumulator, run.round.conditions)
        except EdgeFLError as error:
            # The same reports would give the same error: a person has to look before more rounds are spent.
            reason = f"{type(error).__name__}: {error}"
            self._step(run, RoundEnded(reason), now)
            if run.status is TaskStatus.RUNNING:
                self.set_status(run, TaskStatus.SUSPENDED, reason)
            return
        if state.version != run.state.version + 1:
            raise LocalProtocolError(f"finalize made version {state.version}; expected {run.state.version + 1}")
        run.state = state
        if state.version == run.spec.rounds:
            run.status = TaskStatus.COMPLETED
            self._devices.unwatch(run.name)
        shares = self._latencies.shares(run.round.cohort, run.round.accepted)
        self._step(run, RoundFinalized(state, metrics, run.status, shares), now)
        self._board.keep_model(run)
        self._board.drop_models(run)


def _taken(run: TaskRun, device: str, update: ClientUpdate) -> Contribution | InvalidUpdateError:
    """What the task's process takes, or its refusal if others come before it. Raises those that come first."""
    if run.process is None:  # then no round was ever selected, and that comes first whatever the payload
        return InvalidUpdateError(UpdateRefusal.WRONG_ROUND, f"task {run.name!r} has no work yet; check in for another")
    try:
        return run.process.take(device, update)
    except InvalidUpdateError as error:
        if error.reason in BEFORE_ROUND:
            raise
        return error
