"""The server's machine of one round: sans-I/O; the clock is a parameter and learning stays outside.

Theory of operation
-------------------
::

    OPEN ──> COLLECTING ──> CLOSING ──> COMMITTED
                  └────────────┴──────> ABANDONED

*OPEN.* The round waits for candidates. It selects when they fill the cohort (goal x over-selection), or, when the first
of them has waited ``selection_s``, as soon as they meet the minimum. *COLLECTING.* It closes at the goal; or when every
member has answered and the minimum is met; or at the deadline if the minimum is met. It is abandoned at the deadline
otherwise, or as soon as the minimum is out of reach. *CLOSING* lasts within one call: the caller aggregates and says
``RoundFinalized``. ``TRANSITIONS`` lists every legal event of every phase and the phases it may lead to; anything else
raises ``LocalProtocolError`` and leaves the state as it was.

Invariants
----------
- Events are taken one at a time, so the counted reports are the first *goal* accepted ones in ledger order, and a
  report beyond them finds the round closed and is LATE (I2).
- A member answers once: a second update is ``AlreadyAccepted``. An update after a failure is taken, for the failure may
  have been the link's; a failure after an accepted update changes nothing.
- A member whose update was refused is a failed member (the caller says so), else it would hold the round up.

Source: design §5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from edgefl.errors import InvalidUpdateError, LocalProtocolError, UpdateRefusal
from edgefl.protocol.appended import Appended
from edgefl.protocol.events import (
    Persist,
    Phase,
    RoundRecord,
    RoundSummary,
    SaveAbandon,
    SaveCommit,
    SaveFailure,
    SaveReport,
    SaveSelection,
    TaskStatus,
)
from edgefl.protocol.failures import FailureCount, counted, told
from edgefl.protocol.messages import AlreadyAccepted, ClientUpdate, Late, Receipt, WorkFailure
from edgefl.protocol.process import UNSELECTED, ProcessState, RoundConditions, RoundMetrics
from edgefl.protocol.sampling import draw_cohort
from edgefl.protocol.task import RoundSpec


@dataclass(frozen=True)
class BaseModel:
    """The model that a round starts from; ``digest`` is '' and the size 0 where the work needs none."""

    version: int
    digest: str
    size_bytes: int


@dataclass(frozen=True)
class RoundState:
    """All that a round knows. Times are monotonic seconds.

    ``waiting_since``: when the present wait for candidates began, None while there are none.
    ``claim_until``: until then no other task may take this round's candidates; set once, by its first candidate, so a
    task that cannot be filled holds the others up once a round.
    ``selected_at``: when the cohort was drawn; None before, and in a round that was restored.
    ``latency_shares``: as ``edgefl.protocol.latency`` says, of a committed round.
    ``accepted``: ledger sequence by device, in ledger order; ``last_sequence`` is its last.
    ``had_failed``: the members that failed, in that order; ``num_failed``: those of them without an accepted update.
    ``version``: the model version made (0 until committed).
    ``failures``: how its members failed, also of those whose update was accepted afterwards.
    """

    task: str
    seed: int
    spec: RoundSpec
    round_num: int
    phase: Phase = Phase.OPEN
    waiting_since: float | None = None
    claim_until: float | None = None
    base: BaseModel | None = None
    conditions: RoundConditions = UNSELECTED
    cohort: tuple[str, ...] = ()
    members: frozenset[str] = frozenset()
    accepted: Appended = field(default_factory=Appended)
    had_failed: Appended = field(default_factory=Appended)
    num_failed: int = 0
    last_sequence: int = 0
    failures: tuple[FailureCount, ...] = ()
    selected_at: float | None = None
    deadline_at: float = 0.0
    version: int = 0
    metrics: RoundMetrics | None = None
    latency_shares: tuple[float, ...] = ()
    reason: str = ""

    @property
    def outstanding(self) -> int:
        """Members that have not answered."""
        return len(self.cohort) - len(self.accepted) - self.num_failed

    def awaits(self, device: str) -> bool:
        """Whether ``device`` holds an assignment of this round that it has not answered."""
        if self.phase is not Phase.COLLECTING or device not in self.members:
            return False
        return device not in self.accepted and device not in self.had_failed

    def may_accept(self, device: str) -> bool:
        """Whether an update of ``device`` can still count; also one of a member that failed before."""
        return self.phase is Phase.COLLECTING and device in self.members and device not in self.accepted

    @property
    def summary(self) -> RoundSummary:
        return RoundSummary(
            task=self.task,
            round_num=self.round_num,
            phase=self.phase,
            goal=self.spec.goal,
            cohort=len(self.cohort),
            accepted=len(self.accepted),
            failed=self.num_failed,
            version=self.version,
            metrics=self.metrics,
            reason=self.reason,
            latency_shares=self.latency_shares,
            conditions=self.conditions,
            base_version=0 if self.base is None else self.base.version,
            failures=self.failures,
        )


# ------------------------------------------------------------------------------------------------ events


@dataclass(frozen=True)
class CandidatesWaiting:
    """The devices that could be selected now, sorted by id (it is so that they are recorded), and what they get.

    ``num_examples``: of each, where the task's sampling reads them.
    """

    devices: tuple[str, ...]
    base: BaseModel
    conditions: RoundConditions = UNSELECTED
    num_examples: tuple[int, ...] = ()


@dataclass(frozen=True)
class UpdateAccepted:
    """The update of ``device`` passed the whole gate (``admit`` returned None) and has its place in the ledger."""

    sequence: int
    device: str
    update: ClientUpdate


@dataclass(frozen=True)
class MemberFailed:
    device: str
    failure: WorkFailure


@dataclass(frozen=True)
class TimePassed:
    """Look at the clock."""


@dataclass(frozen=True)
class RoundFinalized:
    """What the aggregate made of the counted reports."""

    state: ProcessState
    metrics: RoundMetrics
    status: TaskStatus
    latency_shares: tuple[float, ...] = ()


@dataclass(frozen=True)
class RoundEnded:
    """Give the round up: its task ended, or its aggregate cannot be applied."""

    reason: str


RoundEvent = CandidatesWaiting | UpdateAccepted | MemberFailed | TimePassed | RoundFinalized | RoundEnded
Result = tuple[RoundState, tuple[Persist, ...]]

# ------------------------------------------------------------------------------------------------ queries


def selection_size(state: RoundState, now: float) -> int:
    """How many candidates let an OPEN round select at ``now``."""
    waited = state.waiting_since is not None and now >= state.waiting_since + state.spec.selection_s
    return state.spec.minimum if waited else state.spec.pool_size


def admit(state: RoundState, device: str, update: ClientUpdate) -> Receipt | None:
    """The round's part of the update gate: None when the update may go on to its last checks.

    Raises ``InvalidUpdateError``: WRONG_ROUND, NOT_ASSIGNED, WRONG_BASE_MODEL. For a round that is over the answer is
    ``AlreadyAccepted`` or ``Late`` for every device.
    """
    if update.round_num != state.round_num or state.phase is Phase.OPEN:
        raise InvalidUpdateError(
            UpdateRefusal.WRONG_ROUND,
            f"round {update.round_num} of task {state.task!r} has not been selected; round {state.round_num} is "
            f"{state.phase.value}; check in for an assignment",
        )
    if state.phase is not Phase.COLLECTING:
        return AlreadyAccepted(state.accepted[device]) if device in state.accepted else Late()
    if device not in state.members:
        raise InvalidUpdateError(
            UpdateRefusal.NOT_ASSIGNED,
            f"device {device!r} is not in the cohort of round {state.round_num} of task {state.task!r}; "
            "check in for an assignment",
        )
    assert state.base is not None
    if update.base_model_digest != state.base.digest:
        raise InvalidUpdateError(
            UpdateRefusal.WRONG_BASE_MODEL,
            f"base model is {update.base_model_digest!r}; expected {state.base.digest!r} "
            f"(version {state.base.version} of task {state.task!r})",
        )
    return AlreadyAccepted(state.accepted[device]) if device in state.accepted else None


def restore(record: RoundRecord, seed: int, spec: RoundSpec, base: BaseModel, now: float) -> RoundState:
    """The COLLECTING round of ``record``, with its remaining time granted afresh."""
    accepted = Appended({device: sequence for sequence, device, _ in record.accepted})
    had_failed = Appended({device: place for place, device in enumerate(dict.fromkeys(record.failed))})
    return RoundState(
        task=record.task,
        seed=seed,
        spec=spec,
        round_num=record.round_num,
        phase=Phase.COLLECTING,
        base=base,
        conditions=record.conditions,
        cohort=record.cohort,
        members=frozenset(record.cohort),
        accepted=accepted,
        last_sequence=max(accepted.values(), default=0),
        had_failed=had_failed,
        num_failed=sum(device not in accepted for device in had_failed),
        failures=record.failures,
        deadline_at=now + record.remaining_s,
    )


# ------------------------------------------------------------------------------------------------ the machine


def step(state: RoundState, event: RoundEvent, now: float) -> Result:
    """The next state, and what to persist. Raises ``LocalProtocolError`` for an event that is illegal now."""
    row = TRANSITIONS[state.phase].get(type(event))
    where = f"round {state.round_num} of task {state.task!r} in phase {state.phase.value}"
    if row is None:
        legal = ", ".join(sorted(kind.__name__ for kind in TRANSITIONS[state.phase])) or "none: it is over"
        raise LocalProtocolError(f"{type(event).__name__} for {where}; expected one of {legal}")
    handler, targets = row
    after, effects = handler(state, event, now)
    assert after.phase in targets, f"{type(event).__name__} for {where} -> {after.phase}"
    return after, effects


def _candidates(state: RoundState, event: CandidatesWaiting, now: float) -> Result:
    if not event.devices:
        return replace(state, waiting_since=None), ()
    if state.waiting_since is None:
        state = replace(state, waiting_since=now)
    if state.claim_until is None:
        state = replace(state, claim_until=now + state.spec.selection_s)
    if len(event.devices) < selection_size(state, now):
        return state, ()
    spec = state.spec
    cohort = draw_cohort(
        state.seed, state.round_num, event.devices, spec.cohort_size, spec.sampling, event.num_examples
    )
    record = RoundRecord(
        task=state.task,
        round_num=state.round_num,
        candidates=event.devices,
        cohort=cohort,
        base_version=event.base.version,
        remaining_s=state.spec.deadline_s,
        conditions=event.conditions,
        num_examples=event.num_examples,
    )
    state = replace(
        state,
        phase=Phase.COLLECTING,
        base=event.base,
        conditions=event.conditions,
        cohort=cohort,
        members=frozenset(cohort),
        selected_at=now,
        deadline_at=now + state.spec.deadline_s,
    )
    return state, (SaveSelection(record),)


def _accepted(state: RoundState, event: UpdateAccepted, now: float) -> Result:
    device = event.device
    newest = state.last_sequence
    if device not in state.members or device in state.accepted or event.sequence <= newest:
        raise LocalProtocolError(
            f"sequence {event.sequence} for {device!r} in round {state.round_num} of task {state.task!r}; expected a "
            f"member without an accepted update, and a sequence above {newest}"
        )
    accepted = state.accepted.plus(device, event.sequence)
    num_failed = state.num_failed - (device in state.had_failed)
    state = replace(state, accepted=accepted, last_sequence=event.sequence, num_failed=num_failed)
    return _settle(state, now, SaveReport(event.sequence, device, event.update))


def _failed(state: RoundState, event: MemberFailed, now: float) -> Result:
    if not state.awaits(event.device):
        raise LocalProtocolError(
            f"a failure of {event.device!r} in round {state.round_num} of task {state.task!r}; "
            "expected a member that has not answered"
        )
    failures = counted(state.failures, event.device, event.failure)
    had_failed = state.had_failed.plus(event.device, len(state.had_failed))
    state = replace(state, had_failed=had_failed, num_failed=state.num_failed + 1, failures=failures)
    return _settle(state, now, SaveFailure(event.device, event.failure))


def _time(state: RoundState, _: TimePassed, now: float) -> Result:
    return _settle(state, now)


def _settle(state: RoundState, now: float, *effects: Persist) -> Result:
    """Close or abandon the round where the rules say so."""
    spec, accepted, over = state.spec, len(state.accepted), now >= state.deadline_at
    if accepted >= spec.goal or (accepted >= spec.minimum and (over or state.outstanding == 0)):
        return replace(state, phase=Phase.CLOSING), effects
    because = f": {told(state.failures)}" if state.failures else ""
    if over:
        return _abandon(state, f"{accepted} of at least {spec.minimum} reports at the deadline{because}", *effects)
    if accepted + state.outstanding < spec.minimum:
        reason = f"{accepted} reports, {state.num_failed} of {len(state.cohort)} failed; {spec.minimum} out of reach"
        return _abandon(state, reason + because, *effects)
    return state, effects


def _abandon(state: RoundState, reason: str, *effects: Persist) -> Result:
    after = replace(state, phase=Phase.ABANDONED, reason=reason)
    return after, (*effects, SaveAbandon(state.task, state.round_num, reason))


def _finalized(state: RoundState, event: RoundFinalized, _: float) -> Result:
    counted = tuple(state.accepted)
    made, shares = event.state, event.latency_shares
    commit = SaveCommit(state.task, state.round_num, counted, made, event.metrics, event.status, shares)
    after = replace(state, phase=Phase.COMMITTED, version=made.version, metrics=event.metrics, latency_shares=shares)
    return after, (commit,)


def _ended(state: RoundState, event: RoundEnded, _: float) -> Result:
    return _abandon(state, event.reason)


Handler = Callable[[RoundState, Any, float], Result]
Row = tuple[Handler, frozenset[Phase]]


def _row(handler: Handler, *targets: Phase) -> Row:
    return handler, frozenset(targets)


TRANSITIONS: Mapping[Phase, Mapping[type, Row]] = {
    Phase.OPEN: {
        CandidatesWaiting: _row(_candidates, Phase.OPEN, Phase.COLLECTING),
    },
    Phase.COLLECTING: {
        UpdateAccepted: _row(_accepted, Phase.COLLECTING, Phase.CLOSING),
        MemberFailed: _row(_failed, Phase.COLLECTING, Phase.CLOSING, Phase.ABANDONED),
        TimePassed: _row(_time, Phase.COLLECTING, Phase.CLOSING, Phase.ABANDONED),
        RoundEnded: _row(_ended, Phase.ABANDONED),
    },
    Phase.CLOSING: {
        RoundFinalized: _row(_finalized, Phase.COMMITTED),
        RoundEnded: _row(_ended, Phase.ABANDONED),
    },
    Phase.COMMITTED: {},
    Phase.ABANDONED: {},
}
"""Every legal event of every phase, its handler, and the phases that it may lead to."""
