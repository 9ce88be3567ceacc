"""What a checkpoint holds: the outcome of each round that has ended. And a process that knows it.

A simulation is a pure function of its arguments, and nothing of a client's work but its outcome reaches the rounds
after it. So a resumed simulation walks through the past again, event by event, with the same machines, and leaves only
the work and the arithmetic out: a device hands in an empty update (or the failure that it had), the gate refuses what
it refused, and a round that closes becomes the version that it became. Clock, turns, cohorts and ledger are then those
of the unbroken run, whatever they depend on, and everything after the past is computed as ever.

    device ──> empty update ──> KnownProcess: nothing to decode, no fold ──> finalize: the version as it was
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from edgefl.errors import InvalidUpdateError
from edgefl.protocol.events import RoundSummary
from edgefl.protocol.messages import Assignment, ClientUpdate, Plan, Refused, Report, WorkFailure
from edgefl.protocol.process import Accumulator, Process, ProcessState, RoundConditions, RoundMetrics
from edgefl.simulation.record import Key
from edgefl.sums.running import Contribution
from edgefl.types import RoundKey, Standardization

_NEVER_USED = b"-"
"""Device memory that is dropped, or replaced by a later one, before the device works again."""


@dataclass(frozen=True)
class Past:
    """``rounds``: those that ended, in that order, of all tasks.

    ``states``: the versions of each task from 1 on. Of one with a model, but the last, ``extra`` is empty: only the
    round after the last needs it.
    ``memories``: by task and device, the round that last counted the device, and the device memory that it proposed
    there and has adopted since, or will: see ``edgefl.protocol.session_memory``.
    """

    rounds: tuple[RoundSummary, ...] = ()
    states: dict[str, tuple[ProcessState, ...]] = field(default_factory=dict)
    failures: dict[Key, WorkFailure] = field(default_factory=dict)
    refusals: dict[Key, Refused] = field(default_factory=dict)
    memories: dict[tuple[str, str], tuple[int, bytes]] = field(default_factory=dict)
    _ended: frozenset[tuple[str, int]] = field(init=False, repr=False, compare=False)
    _metrics: dict[tuple[str, int], RoundMetrics] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        metrics = {(one.task, one.version): one.metrics for one in self.rounds if one.metrics is not None}
        object.__setattr__(self, "_metrics", metrics)
        object.__setattr__(self, "_ended", frozenset((one.task, one.round_num) for one in self.rounds))

    def knows(self, task: str, round_num: int) -> bool:
        """Whether that round has ended."""
        return (task, round_num) in self._ended

    def last_version(self, task: str) -> int:
        return len(self.states.get(task, ()))

    def outcome(self, task: str, version: int) -> tuple[ProcessState, RoundMetrics]:
        """What the round that made ``version`` of ``task`` was finalized to."""
        return self.states[task][version - 1], self._metrics[task, version]

    def reports(self, assignment: Assignment, devices: Sequence[str]) -> list[Report] | None:
        """What ``devices`` answered, without its numbers; None when the round has not ended, and work is to be done."""
        if not self.knows(assignment.task, assignment.round_num):
            return None
        where = (assignment.task, assignment.round_num)
        return [self.failures.get((*where, device)) or self._empty_update(assignment, device) for device in devices]

    def _empty_update(self, assignment: Assignment, device: str) -> ClientUpdate:
        memory = b""
        if assignment.plan.memory_bytes:
            round_num, memory = self.memories.get((assignment.task, device), (0, _NEVER_USED))
            if round_num != assignment.round_num:
                memory = _NEVER_USED
        return ClientUpdate(
            task=assignment.task,
            round_num=assignment.round_num,
            base_model_digest=assignment.model_digest,
            encoding=assignment.plan.encoding,
            payload=b"",
            weight=1,
            num_examples=0,
            num_correct=0,
            loss_grid=0,
            memory=memory,
        )


@dataclass(frozen=True)
class KnownProcess:
    """``process``, except in rounds that ``past`` knows."""

    process: Process
    past: Past
    task: str

    def initialize(self) -> ProcessState:
        return self.process.initialize()

    def plan(self, state: ProcessState) -> Plan:
        """Of a version of the past that has a model, ``extra`` is empty: no plan of such a task may need it."""
        return self.process.plan(state)

    def content(self, state: ProcessState) -> bytes:
        """In a round of the past nobody reads more than the model."""
        whole = state.version == 0 or state.version >= self.past.last_version(self.task) or not state.model
        return self.process.content(state) if whole else state.model

    def take(self, device: str, update: ClientUpdate) -> Contribution:
        if not self.past.knows(update.task, update.round_num):
            return self.process.take(device, update)
        refused = self.past.refusals.get((update.task, update.round_num, device))
        if refused is not None:
            raise InvalidUpdateError(refused.reason, refused.message)
        return Contribution(b"", update.weight, device=device, key=RoundKey(0, update.round_num))

    def new_accumulator(self) -> Accumulator:
        return self.process.new_accumulator()

    def fold(self, accumulator: Accumulator, contribution: Contribution) -> None:
        if not self.past.knows(self.task, contribution.key.round_num):
            self.process.fold(accumulator, contribution)

    def finalize(
        self, state: ProcessState, accumulator: Accumulator, conditions: RoundConditions
    ) -> tuple[ProcessState, RoundMetrics]:
        if state.version < self.past.last_version(self.task):
            return self.past.outcome(self.task, state.version + 1)
        return self.process.finalize(state, accumulator, conditions)

    def standardization(self, state: ProcessState) -> Standardization | None:
        return self.process.standardization(state)
