"""What server and device say to each other, as values. ``edgefl.wire`` turns them into protobuf and back.

A ``Plan`` is what the device executes for a task. It names its kind of work, its model and its encoding by registered
name and version, so that an agent can refuse politely what it does not know. ``delta = client_model - server_model``.

Source: design §2 (words), §5 (receipts, pace), §6 (wire), §13 (what must stay possible).
"""

from __future__ import annotations

import abc
import enum
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgefl.errors import ConfigError, UpdateRefusal
from edgefl.models.model import Model
from edgefl.protocol.shape import ExampleShape
from edgefl.types import SgdOptions, to_float32

if TYPE_CHECKING:
    from edgefl.types import Examples, TrainStats, Weights

INLINE_UPDATE_MAX_BYTES = 1 << 20
"""An update up to 1 MiB goes inline in ``Report`` (design §6); a larger one goes by ``Upload``."""

MAX_UPLOAD_BYTES = 64 << 20
"""Largest update: 16 million float32 weights, more than a softmax layer on a Pi-class device will have."""

MAX_COUNTS_BYTES = 8 << 20
"""Largest counts of an evaluation, 1024 classes: their sums, as varints, fit one message to those who watch rounds."""

MAX_WEIGHT = 1 << 32
"""Bound of (reports that can be counted) x (largest weight): sums stay within int64 (design §4.4)."""


class Split(enum.Enum):
    """Which of a device's examples a work reads."""

    TRAIN = "train"
    HELD_OUT = "held_out"


@dataclass(frozen=True)
class RetryWindow:
    """The delay before the next check-in is drawn uniformly from ``[min_s, max_s]`` by the device. Seconds."""

    min_s: float
    max_s: float

    def __post_init__(self) -> None:
        if not 0 <= self.min_s <= self.max_s < 1e9:
            raise ConfigError(f"retry window [{self.min_s}, {self.max_s}]; expected 0 <= min <= max")


@dataclass(frozen=True)
class TrainingWork:
    """Local SGD on the device's training examples, in a new order each epoch if ``shuffle``.

    ``max_weight`` bounds the example weight a client may claim (its example count, at most this).
    """

    reads = (Split.TRAIN,)
    value_format = "f"

    sgd: SgdOptions
    shuffle: bool
    max_weight: int

    @property
    def training(self) -> TrainingWork:
        """Itself: what every work that trains has."""
        return self


@dataclass(frozen=True)
class EvaluationWork:
    """Count the model's right and wrong answers on the device's held-out examples. Payload: C*C int64 counts."""

    reads = (Split.HELD_OUT,)
    value_format = "q"

    max_weight: int


@dataclass(frozen=True)
class StatisticsWork:
    """Sums over the device's training examples, as grid integers of step 2**-grid_shift. Payload: F int64.

    Without ``center`` the sums of each feature; with it (F float32 as bytes) the sums of squares about it.
    A feature beyond ``feature_bound`` in magnitude is refused on the device.
    """

    reads = (Split.TRAIN,)
    value_format = "q"

    feature_bound: float
    grid_shift: int
    max_weight: int
    center: bytes | None = None


MAX_BINS = 1024
"""Far above what a histogram is read by; bounds what a plan makes a device count and send."""


def description_bytes(num_features: int, num_bins: int, extremes: bool) -> int:
    """The size of a ``DescriptionWork``'s payload; at most ``MAX_UPLOAD_BYTES``, by which a device may refuse it."""
    return 8 * num_features * (1 + num_bins + 2 * extremes)


@dataclass(frozen=True)
class DescriptionWork:
    """``StatisticsWork`` and, after its sums, what ``edgefl.learning.description`` tells of each feature.

    Payload: F int64 sums, F * num_bins counts, and with ``extremes`` F minima and F maxima. A kind of its own, so that
    an agent that knows the sums alone refuses it instead of leaving the rest out.
    """

    reads = (Split.TRAIN,)
    value_format = "q"

    statistics: StatisticsWork
    num_bins: int
    extremes: bool

    @property
    def max_weight(self) -> int:
        return self.statistics.max_weight


@dataclass(frozen=True)
class PersonalizationWork:
    """Fine-tune on the training examples; count answers on the held-out ones before and after. ``delta`` is not sent.

    Payload: C*C int64 counts of the fine-tuned model, then the number of right answers of the model as it came.
    """

    reads = (Split.TRAIN, Split.HELD_OUT)
    value_format = "q"

    training: TrainingWork

    @property
    def max_weight(self) -> int:
        """Bounds the training examples and the held-out ones, which are the weight."""
        return self.training.max_weight


@dataclass(frozen=True)
class ScaffoldWork:
    """Local SGD whose every gradient is corrected by what the server sends less what the device remembers.

    What a device downloads for it is the model and, after it, the server's correction: as many float32 again. Payload:
    the delta alone. What the device remembers stays there (``ClientUpdate.memory``).
    """

    reads = (Split.TRAIN,)
    value_format = "f"

    training: TrainingWork

    @property
    def max_weight(self) -> int:
        return self.training.max_weight


class LocalWork(abc.ABC):
    """Work of a user's own, in Python: for processes that run in one process alone, for it has no form on the wire.

    ``max_weight`` bounds a client's example count; ``local_epochs``: how often it may count an example.
    """

    reads = (Split.TRAIN,)
    value_format = "f"

    max_weight: int
    local_epochs: int

    @abc.abstractmethod
    def run(self, model: Model, start: Weights, examples: Examples, key: bytes) -> tuple[Weights, TrainStats]:
        """The client's model and what was done. ``key``: 16 bytes, one for each round and client, for all chance.

        A pure function of its arguments, which may run on any thread. An error of ours becomes the client's failure.
        """


Work = TrainingWork | EvaluationWork | StatisticsWork | DescriptionWork | PersonalizationWork | ScaffoldWork | LocalWork
"""Each kind says of itself, so that nobody else asks which kind a work is:

``reads``         the splits that it needs; a device loads no others.
``value_format``  of the codecs that can carry its payload: "f" for float32, "q" for int64.
"""


KINDS: Mapping[type, str] = {
    TrainingWork: "training",
    EvaluationWork: "evaluation",
    PersonalizationWork: "personalization",
    StatisticsWork: "statistics",
    DescriptionWork: "description",
    ScaffoldWork: "scaffold",
}
"""The registered name of each kind of work that has a form on the wire, as a check-in's ``kinds`` gives it."""


@dataclass(frozen=True)
class Plan:
    """What the device executes: a model, the work on it, and how to encode what comes out (a codec's name)."""

    model: Model
    work: Work
    encoding: str

    @property
    def memory_bytes(self) -> int:
        """How much a device remembers between the rounds of such work; 0 where it remembers nothing."""
        return self.model.update_bytes if isinstance(self.work, ScaffoldWork) else 0


def learning_rate(plan: Plan) -> float:
    """The clients' rate as the kernel has it; 0 for work without one."""
    work = plan.work
    if isinstance(work, (TrainingWork, ScaffoldWork, PersonalizationWork)):
        return to_float32(work.training.sgd.learning_rate)
    return 0.0


@dataclass(frozen=True)
class Assignment:
    """One device's part in one round. ``model_digest`` is '' when the work needs no model (statistics).

    It is the SHA-256 of what the device downloads: the model's canonical bytes, and for ``ScaffoldWork`` more.
    """

    task: str
    round_num: int
    task_seed: int
    plan: Plan
    model_digest: str
    model_size_bytes: int
    deadline_s: float


@dataclass(frozen=True)
class Rejection:
    """No work now. ``reason`` is for people: it is shown by the device's ``status``."""

    reason: str


@dataclass(frozen=True)
class ReleaseInfo:
    """A model signed for inference: the device keeps the highest ``version`` of each ``name``."""

    name: str
    version: int
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class RoundKey:
    """A round of a task."""

    task: str
    round_num: int


class Fate(enum.Enum):
    """What became of a round in which the device's report was accepted."""

    OPEN = "open"
    COUNTED = "counted"
    NOT_COUNTED = "not_counted"


@dataclass(frozen=True)
class CheckIn:
    """A device says that it is available.

    ``encodings`` and ``kinds`` name what the agent knows; ``session`` grows with each start of the agent.
    ``shape``: None where an older agent does not say it. ``running``: the releases that the device runs, (name,
    version). ``instance``: drawn at random at each start of the agent; 0 where an older one does not say it.
    """

    population: str
    agent_version: str
    session: int
    num_train: int
    num_held_out: int
    kinds: tuple[str, ...]
    encodings: tuple[str, ...]
    last_task: str = ""
    last_round: int = 0
    shape: ExampleShape | None = None
    running: tuple[tuple[str, int], ...] = ()
    instance: int = 0


@dataclass(frozen=True)
class CheckInAnswer:
    """The answer to a check-in: an outcome, the retry window, releases to run, the fate of the last report."""

    outcome: Assignment | Rejection
    retry: RetryWindow
    releases: tuple[ReleaseInfo, ...] = ()
    last_fate: Fate = Fate.OPEN


@dataclass(frozen=True)
class ClientUpdate:
    """What a device computed for an assignment.

    ``weight`` is the integer example weight. ``payload`` is the encoded delta, counts or sums. ``loss_grid`` is the
    sum of losses as an integer of step 2**-20, so that sums of it do not depend on order.

    ``memory`` never leaves the device: what it remembers of the task from then on, if this update is counted. It has
    the ``memory_bytes`` of the plan; its content belongs to the kind of work.
    """

    task: str
    round_num: int
    base_model_digest: str
    encoding: str
    payload: bytes = field(repr=False)
    weight: int
    num_examples: int
    num_correct: int
    loss_grid: int
    attempt: int = 1
    memory: bytes = field(default=b"", repr=False)

    @property
    def payload_digest(self) -> str:
        return hashlib.sha256(self.payload).hexdigest()


@dataclass(frozen=True)
class UploadedContent:
    """Bytes that a device uploads: their SHA-256 in hexadecimal, and how many they are."""

    sha256: str
    size_bytes: int


PLAN_NOT_UNDERSTOOD = "PlanNotUnderstood"
"""The kind of a failure whose plan the agent does not know: it must be updated."""


@dataclass(frozen=True)
class WorkFailure:
    """The device could not do its work; ``kind`` is the error class's name, or ``PLAN_NOT_UNDERSTOOD``."""

    task: str
    round_num: int
    kind: str
    message: str


Report = ClientUpdate | WorkFailure


@dataclass(frozen=True)
class Accepted:
    """The update is durable; ``sequence`` is its place in the ledger."""

    sequence: int


@dataclass(frozen=True)
class AlreadyAccepted:
    """A report for this (task, round, device) was accepted before, as ``sequence``; this one changes nothing."""

    sequence: int


@dataclass(frozen=True)
class Late:
    """The round had what it wanted, or is over; the update is not counted."""


@dataclass(frozen=True)
class Refused:
    """The gate refused the update: a retry of the same bytes will be refused again."""

    reason: UpdateRefusal
    message: str


@dataclass(frozen=True)
class Noted:
    """A ``WorkFailure`` was noted."""


Receipt = Accepted | AlreadyAccepted | Late | Refused | Noted
