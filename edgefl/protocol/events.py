"""What goes into the coordinator and what comes out of it: events and effects, as data.

The shell (the server's engine, or the simulator) hands in events and carries the effects out in their order:
**persist, then acknowledge, then send** (design §5). Every ``Persist`` of a batch goes into one transaction; nothing
of a batch is acknowledged or sent before that transaction is durable. A shell that cannot persist throws the
coordinator away and recovers from the store.

``token`` is the shell's own handle of a waiting call; the coordinator only hands it back.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgefl.protocol.backoff import NONE, Setbacks
from edgefl.protocol.failures import FailureCount
from edgefl.protocol.messages import (
    CheckIn,
    CheckInAnswer,
    ClientUpdate,
    Receipt,
    ReleaseInfo,
    Report,
    RetryWindow,
    WorkFailure,
)
from edgefl.protocol.process import UNSELECTED, ProcessState, RoundConditions, RoundMetrics
from edgefl.protocol.shape import ExampleShape
from edgefl.protocol.task import TaskSpec

# ------------------------------------------------------------------------------------------------ records


class TaskStatus(enum.Enum):
    """RUNNING <-> PAUSED by an operator; RUNNING -> SUSPENDED by the server, for a reason, and back by an operator.

    COMPLETED after its rounds; ENDED by an operator. The last two are final.
    """

    RUNNING = "running"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    COMPLETED = "completed"
    ENDED = "ended"


FINAL = (TaskStatus.COMPLETED, TaskStatus.ENDED)
"""From these a task never goes on."""
HELD = (TaskStatus.PAUSED, TaskStatus.SUSPENDED)
"""From these it goes on when an operator resumes it."""


class Phase(enum.Enum):
    """OPEN -> COLLECTING -> CLOSING -> COMMITTED | ABANDONED (design §5)."""

    OPEN = "open"
    COLLECTING = "collecting"
    CLOSING = "closing"
    COMMITTED = "committed"
    ABANDONED = "abandoned"


OVER = (Phase.COMMITTED, Phase.ABANDONED)
"""From these a round never goes on."""


@dataclass(frozen=True)
class TaskRecord:
    """A task as the store keeps it. ``next_round`` is the number of the open round (the first is 1).

    ``reason``: why it is SUSPENDED.
    """

    spec: TaskSpec
    definition: str
    status: TaskStatus
    state: ProcessState
    next_round: int
    reason: str = ""
    setbacks: Setbacks = NONE


@dataclass(frozen=True)
class RoundRecord:
    """A selected round that has not ended; ``accepted`` is (sequence, device, update) in ledger order.

    ``num_examples``: the training examples of each candidate, where the task's sampling reads them; else empty.
    A store may read ``accepted`` as it is iterated, one update in memory at a time. ``failures``: those of ``failed``.
    """

    task: str
    round_num: int
    candidates: tuple[str, ...]
    cohort: tuple[str, ...]
    base_version: int
    remaining_s: float
    accepted: Sequence[tuple[int, str, ClientUpdate]] = ()
    failed: tuple[str, ...] = ()
    conditions: RoundConditions = UNSELECTED
    num_examples: tuple[int, ...] = ()
    failures: tuple[FailureCount, ...] = ()


@dataclass(frozen=True)
class DeviceError:
    """A failure of a device, ``ago_s`` seconds ago."""

    kind: str
    message: str
    ago_s: float


@dataclass(frozen=True)
class DeviceRecord:
    """What the server knows of a device. ``suspect`` marks a session counter that went back: a cloned card.

    ``shape`` and ``running`` as in its last check-in. ``seen_ago_s``: how long ago it was heard of, None when that is
    not known; ``error``: its last failure. Both are as of when the record was read, and are not part of what it says.
    """

    device: str
    population: str
    agent_version: str
    session: int
    num_train: int
    num_held_out: int
    suspect: bool = False
    shape: ExampleShape | None = None
    running: tuple[tuple[str, int], ...] = ()
    seen_ago_s: float | None = field(default=None, compare=False)
    error: DeviceError | None = field(default=None, compare=False)


@dataclass(frozen=True)
class ReleaseRecord:
    info: ReleaseInfo
    population: str
    task: str
    model_version: int


@dataclass(frozen=True)
class Snapshot:
    """What a coordinator is restored from. ``models`` holds earlier versions that evaluation tasks still need.

    ``release_floor``: new releases get higher versions, for devices may have seen it from a server that is lost.
    """

    tasks: tuple[TaskRecord, ...] = ()
    rounds: tuple[RoundRecord, ...] = ()
    devices: tuple[DeviceRecord, ...] = ()
    releases: tuple[ReleaseRecord, ...] = ()
    models: dict[tuple[str, int], bytes] = field(default_factory=dict)
    next_sequence: int = 1
    release_floor: int = 0


@dataclass(frozen=True)
class RoundSummary:
    """A round as people watch it. ``version`` is the model version it made (0 until committed).

    ``base_version``: the model version that devices work on, which an evaluation reads; 0 also before the cohort is
    drawn.
    ``latency_shares``: how its counted reports spread over the latency quartiles of its cohort, the fastest first;
    empty while too few times are known (``edgefl.protocol.latency``). ``conditions``: as recorded when its cohort was
    drawn. ``failures``: how its devices failed. ``waiting``: what an open round waits for, for people.
    """

    task: str
    round_num: int
    phase: Phase
    goal: int
    cohort: int
    accepted: int
    failed: int
    version: int = 0
    metrics: RoundMetrics | None = None
    reason: str = ""
    latency_shares: tuple[float, ...] = ()
    conditions: RoundConditions = UNSELECTED
    base_version: int = 0
    failures: tuple[FailureCount, ...] = ()
    waiting: str = ""


# ------------------------------------------------------------------------------------------------ events


@dataclass(frozen=True)
class DeviceCheckedIn:
    token: int
    device: str
    check_in: CheckIn


@dataclass(frozen=True)
class DeviceGone:
    """The waiting call ``token`` ended (cancelled, connection lost): its check-in is not a candidate any more."""

    token: int


@dataclass(frozen=True)
class ReportReceived:
    token: int
    device: str
    report: Report


@dataclass(frozen=True)
class TaskCreated:
    """``initial``: the weights that a definition with ``model.initial`` of a file begins at (canonical bytes).

    ``check_devices``: refuse a task that none of the known devices can ever do.
    """

    spec: TaskSpec
    definition: str
    initial: bytes = field(default=b"", repr=False)
    check_devices: bool = False


@dataclass(frozen=True)
class TaskPaused:
    task: str


@dataclass(frozen=True)
class TaskResumed:
    task: str


@dataclass(frozen=True)
class TaskEnded:
    task: str


@dataclass(frozen=True)
class ReleaseCreated:
    release: ReleaseRecord


@dataclass(frozen=True)
class Ticked:
    """Time passed: see ``Coordinator.next_deadline``."""


@dataclass(frozen=True)
class Draining:
    """The server is stopping: waiting check-ins are answered, no new round starts; reports are still taken."""


Event = (
    DeviceCheckedIn
    | DeviceGone
    | ReportReceived
    | TaskCreated
    | TaskPaused
    | TaskResumed
    | TaskEnded
    | ReleaseCreated
    | Ticked
    | Draining
)

# ------------------------------------------------------------------------------------------------ effects


@dataclass(frozen=True)
class SaveTask:
    """Insert the task (status RUNNING) with its state of version 0."""

    record: TaskRecord


@dataclass(frozen=True)
class SaveTaskStatus:
    """``reason``: why it is SUSPENDED."""

    task: str
    status: TaskStatus
    reason: str = ""


@dataclass(frozen=True)
class SaveSetbacks:
    """What ``edgefl.protocol.backoff`` must remember of a task."""

    task: str
    setbacks: Setbacks


@dataclass(frozen=True)
class SaveSelection:
    """A round left OPEN: its recorded candidates and the cohort drawn from them."""

    round: RoundRecord


@dataclass(frozen=True)
class SaveReport:
    """An accepted report: ledger entry ``sequence``, key (task, round, device)."""

    sequence: int
    device: str
    update: ClientUpdate


@dataclass(frozen=True)
class SaveFailure:
    """It is also the last failure of the device."""

    device: str
    failure: WorkFailure


@dataclass(frozen=True)
class SaveCommit:
    """The round's end: new state and model version, the counted devices, the task's next round, in one transaction."""

    task: str
    round_num: int
    counted: tuple[str, ...]
    state: ProcessState
    metrics: RoundMetrics
    status: TaskStatus
    latency_shares: tuple[float, ...] = ()


@dataclass(frozen=True)
class SaveAbandon:
    task: str
    round_num: int
    reason: str


@dataclass(frozen=True)
class SaveDevice:
    """What a device says, and that it was heard of just now."""

    record: DeviceRecord


@dataclass(frozen=True)
class SaveRelease:
    release: ReleaseRecord


Persist = (
    SaveTask
    | SaveTaskStatus
    | SaveSetbacks
    | SaveSelection
    | SaveReport
    | SaveFailure
    | SaveCommit
    | SaveAbandon
    | SaveDevice
    | SaveRelease
)


@dataclass(frozen=True)
class SendReceipt:
    """Answer to ``ReportReceived``; leaves only after the batch is durable."""

    token: int
    receipt: Receipt
    retry: RetryWindow


@dataclass(frozen=True)
class AnswerCheckIn:
    """Answer to ``DeviceCheckedIn``. The shell fills ``answer.last_fate`` from the store."""

    token: int
    device: str
    answer: CheckInAnswer


@dataclass(frozen=True)
class PublishRound:
    """A round changed: for those who watch."""

    summary: RoundSummary


@dataclass(frozen=True)
class Notice:
    """Something that an operator should see in the log, said once and seldom after."""

    text: str


Acknowledge = SendReceipt
Send = AnswerCheckIn | PublishRound | Notice
Effect = Persist | Acknowledge | Send
