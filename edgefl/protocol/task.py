"""A task's definition: the TOML file that an operator writes, a simulation reads and a server stores.

The definition is the only source of a task's process, so the same file simulated and deployed gives the same bits.

Source: design §2 (task, round), §4.4 (bounds), §5 (round options).
"""

from __future__ import annotations

import enum
import math
import re
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING

from edgefl.errors import ConfigError
from edgefl.models.kinds import build_model
from edgefl.models.model import Model
from edgefl.protocol.messages import MAX_BINS, MAX_UPLOAD_BYTES, MAX_WEIGHT, description_bytes
from edgefl.protocol.schedule import CONSTANT, Schedule
from edgefl.settings import parse_toml
from edgefl.types import DType, Quantization, SgdOptions, Standardization

if TYPE_CHECKING:
    from edgefl.optimizers import ServerOptimizer

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
"""Names of tasks, populations, releases and devices: they stand in file names, URLs and logs."""


def check_name(what: str, name: str) -> None:
    if not NAME.fullmatch(name):
        raise ConfigError(f"{what} is {name!r}; expected 1 to 64 of a-z 0-9 . _ -, starting with a letter or digit")


class TaskKind(enum.Enum):
    TRAINING = "training"
    EVALUATION = "evaluation"
    PERSONALIZATION = "personalization"
    STATISTICS = "statistics"


USUAL_PROCESS = {
    TaskKind.TRAINING: "weighted_fed_avg",
    TaskKind.EVALUATION: "fed_eval",
    TaskKind.PERSONALIZATION: "personalization_eval",
    TaskKind.STATISTICS: "fed_statistics",
}
"""The process (``edgefl.learning.processes``) of a definition that names none."""


@dataclass(frozen=True)
class RoundSpec:
    """How a round is made. ``over_selection`` 1.3 assigns 30 % more devices than the goal.

    ``candidates``: how many devices must wait before the cohort is drawn from them; fewer than a cohort (0) mean the
    cohort: the devices that come first are then in it. The more, the less the draw depends on who comes back early.
    ``sampling``: how it is drawn, a name of ``edgefl.protocol.sampling``.
    ``selection_s``: how long a round waits for them before it goes on with what meets the minimum.
    ``deadline_s``: how long after the assignments reports are taken.
    """

    goal: int
    minimum: int
    over_selection: float = 1.0
    selection_s: float = 10.0
    deadline_s: float = 120.0
    candidates: int = 0
    sampling: str = "uniform"

    def __post_init__(self) -> None:
        if not 1 <= self.minimum <= self.goal <= 1_000_000:
            raise ConfigError(f"minimum {self.minimum} and goal {self.goal}; expected 1 <= minimum <= goal <= 1000000")
        if not 1.0 <= self.over_selection <= 10.0:
            raise ConfigError(f"over_selection is {self.over_selection}; expected 1 to 10")
        if not 0 <= self.candidates <= 1_000_000:
            raise ConfigError(f"candidates is {self.candidates}; expected 0 to 1000000")
        self._check_sampling()
        for name in ("selection_s", "deadline_s"):
            if not 0.1 <= getattr(self, name) <= 7 * 86400:
                raise ConfigError(f"{name} is {getattr(self, name)}; expected 0.1 to {7 * 86400} seconds")

    def _check_sampling(self) -> None:
        if self.sampling != "uniform":
            from edgefl.protocol.sampling import (
                sampling,
            )  # the server's need alone; the agent reads names by this module

            sampling(self.sampling)

    @property
    def pool_size(self) -> int:
        """How many waiting devices let a round draw its cohort at once."""
        return max(self.cohort_size, self.candidates)

    @cached_property
    def cohort_size(self) -> int:
        """The goal times ``over_selection`` as it was written, rounded up: 10 x 1.1 is 11 (in binary64 it is above)."""
        from fractions import Fraction  # the server's need alone; the agent reads names by this module

        return math.ceil(self.goal * Fraction(repr(float(self.over_selection))))


@dataclass(frozen=True)
class InitialSpec:
    """Where a training begins: at ``version`` of the training ``task``, or at the weights of ``file``.

    ``file`` is read where the task is created. ``sha256``: of the weights (``Weights.digest``); '' for whatever they
    are. It stands alone where the weights are handed over with the definition.
    """

    task: str = ""
    version: int = 0
    file: str = ""
    sha256: str = ""

    def __post_init__(self) -> None:
        if self.task:
            check_name("initial.task", self.task)
            if self.file or not 1 <= self.version < 2**32:
                raise ConfigError(
                    f"initial has task {self.task!r}, version {self.version} and file {self.file!r}; expected a task "
                    "with a version from 1 on, or a file"
                )
        elif self.version or not (self.file or self.sha256):
            raise ConfigError(
                f"initial has version {self.version} and no task; expected a task and a version, or a file"
            )
        if self.sha256 and not re.fullmatch(r"[0-9a-f]{64}", self.sha256):
            raise ConfigError(f"initial.sha256 is {self.sha256!r}; expected 64 digits of 0-9 a-f")


@dataclass(frozen=True)
class ModelSpec:
    """``standardize_by`` names a statistics task of the same population; its result becomes part of the model.

    ``classes``: the names of the classes in index order; () where they have none. ``num_classes`` may be left out (0)
    where they have names.
    ``kind``, ``version``: of ``edgefl.models.kinds``. ``hidden``: the units of the hidden layer of an ``mlp``; None for
    its default. ``options``: those of a user's own kind.
    ``initial``: where the training begins; None for what the kind begins at.
    """

    num_features: int
    num_classes: int = 0
    kind: str = "softmax"
    dtype: DType = DType.FLOAT32
    scale: float = 1.0
    zero_point: int = 0
    standardize_by: str = ""
    classes: tuple[str, ...] = ()
    initial: InitialSpec | None = None
    version: int = 1
    hidden: int | None = None
    options: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.num_classes and not self.classes:
            raise ConfigError("num_classes is 0 and there are no classes; expected num_classes, or the classes' names")
        if not self.num_classes:
            object.__setattr__(self, "num_classes", len(self.classes))
        self.build()
        if "hidden" in self.options:
            raise ConfigError("options has 'hidden', which is a key of [model] itself; write it there")
        if self.standardize_by:
            check_name("standardize_by", self.standardize_by)

    def build(self, standardization: Standardization | None = None) -> Model:
        """The model of this shape. Raises ``ConfigError`` for a standardization of another width."""
        meaning = Quantization(self.scale, self.zero_point)
        return build_model(
            self.kind,
            self.version,
            self.options if self.hidden is None else {"hidden": self.hidden} | self.options,
            num_features=self.num_features,
            num_classes=self.num_classes,
            dtype=self.dtype,
            quantization=meaning,
            standardization=standardization,
            classes=self.classes,
        )


@dataclass(frozen=True)
class ClientSpec(SgdOptions):
    """The optimizer on the device, whether each epoch has a new order, and how the rate changes."""

    shuffle: bool = True
    schedule: Schedule = CONSTANT


@dataclass(frozen=True)
class AggregatorSpec:
    """``name``: of ``edgefl.aggregators``; '' for the one of the process, as a rule ``weighted_mean``.

    ``norm_bound``: an update of a larger L2 norm is refused. ``clip_norm``: a larger one is scaled down (0: never).

    ``max_weight`` bounds a client's example weight; (goal) x (max_weight) may not exceed 2**32 (design §4.4).
    ``options``: further options of the named aggregator.
    """

    name: str = ""
    norm_bound: float = 64.0
    clip_norm: float = 0.0
    max_weight: int = 100_000
    options: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 2.0**-20 <= self.norm_bound <= 2.0**30:
            raise ConfigError(f"norm_bound is {self.norm_bound!r}; expected 2**-20 to 2**30")
        if not 0 <= self.clip_norm <= self.norm_bound:
            raise ConfigError(f"clip_norm is {self.clip_norm!r}; expected 0 to norm_bound ({self.norm_bound})")
        if not 1 <= self.max_weight <= MAX_WEIGHT:
            raise ConfigError(f"max_weight is {self.max_weight}; expected 1 to 2**32")


@dataclass(frozen=True)
class ServerOptimizerSpec:
    """How the aggregated delta is applied: a name of ``edgefl.optimizers`` and that optimizer's own options.

    An option that is None has the optimizer's default; one that the optimizer does not have is refused. ``options``
    holds those that none of the optimizers above has, of a user's own.
    """

    name: str = "sgd"
    learning_rate: float | None = None
    momentum: float | None = None
    beta_1: float | None = None
    beta_2: float | None = None
    epsilon: float | None = None
    options: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.build()

    @classmethod
    def of(cls, optimizer: ServerOptimizer) -> ServerOptimizerSpec:
        """The table from which ``build`` makes ``optimizer`` again."""
        values = asdict(optimizer)
        usual = {key: values.pop(key) for key in cls.__dataclass_fields__.keys() & values.keys() - {"options"}}
        return cls(optimizer.name, **usual, options=values)

    def build(self) -> ServerOptimizer:
        """Raises ``ConfigError`` for what the optimizer refuses."""
        from edgefl import optimizers  # the server's need alone; the agent reads names by this module

        usual = {k: v for k, v in vars(self).items() if k not in ("name", "options") and v is not None}
        twice = [key for key in self.options if key in self.__dataclass_fields__]
        if twice:
            raise ConfigError(f"options has {twice[0]!r}, which is a key of [server_optimizer] itself; write it there")
        return optimizers.server_optimizer(self.name, usual | self.options)


@dataclass(frozen=True)
class StatisticsSpec:
    """``feature_bound``: no feature may be larger in magnitude; it fixes the grid of the exact sums.

    ``bins``: a histogram of every feature over so many equal bins of [-feature_bound, feature_bound]; 0 for none.
    ``extremes``: the least and the largest value too, each of which is the value of one device.
    """

    feature_bound: float
    bins: int = 0
    extremes: bool = False

    def __post_init__(self) -> None:
        if not 2.0**-20 <= self.feature_bound <= 2.0**20:
            raise ConfigError(f"feature_bound is {self.feature_bound!r}; expected 2**-20 to 2**20")
        if not 0 <= self.bins <= MAX_BINS:
            raise ConfigError(f"bins is {self.bins}; expected 0 to {MAX_BINS}")


@dataclass(frozen=True)
class TaskSpec:
    """A whole definition. Which tables a kind needs is checked here; ``rounds`` counts committed rounds.

    ``process`` is a name of ``edgefl.learning.processes``; '' for the usual one of the kind.
    ``evaluate_every``: only every so many versions of the evaluated task are read, and its last one.
    """

    name: str
    kind: TaskKind
    population: str
    round: RoundSpec
    seed: int = 0
    process: str = ""
    rounds: int = 1
    encoding: str = "float32"
    evaluates: str = ""
    evaluate_every: int = 1
    model: ModelSpec | None = None
    client: ClientSpec | None = None
    statistics: StatisticsSpec | None = None
    aggregator: AggregatorSpec = field(default_factory=AggregatorSpec)
    server_optimizer: ServerOptimizerSpec = field(default_factory=ServerOptimizerSpec)

    def __post_init__(self) -> None:
        check_name("name", self.name)
        check_name("population", self.population)
        if not 0 <= self.seed < 2**63:
            raise ConfigError(f"seed is {self.seed}; expected 0 to 2**63 - 1")
        if not 1 <= self.rounds <= 1_000_000:
            raise ConfigError(f"rounds is {self.rounds}; expected 1 to 1000000")
        if not 1 <= self.evaluate_every <= 1_000_000:
            raise ConfigError(f"evaluate_every is {self.evaluate_every}; expected 1 to 1000000")
        if self.evaluate_every > 1 and not self.evaluates:
            raise ConfigError(f"evaluate_every in a task of kind {self.kind.value!r}; expected one that 'evaluates'")
        if self.round.goal * self.aggregator.max_weight > MAX_WEIGHT:
            raise ConfigError(
                f"goal {self.round.goal} x max_weight {self.aggregator.max_weight} exceeds 2**32; lower max_weight"
            )
        if self.round.sampling == "by_size" and self.kind is not TaskKind.TRAINING:
            raise ConfigError(
                f"sampling is 'by_size' in a task of kind {self.kind.value!r}; expected 'uniform' or 'cyclic': its "
                "sums would count the examples of large devices too often"
            )
        getattr(self, f"_check_{self.kind.value}")()

    @property
    def process_name(self) -> str:
        return self.process or USUAL_PROCESS[self.kind]

    def reads(self, version: int, last: int) -> int:
        """Which version of the evaluated task the round after ``version`` committed ones reads; 0 when none is left.

        ``last``: the last version that the evaluated task will have; it is read, whatever its number.
        """
        wanted = (version + 1) * self.evaluate_every
        if wanted <= last:
            return wanted
        return last if version * self.evaluate_every < last else 0

    def num_evaluations(self, last: int) -> int:
        """How many rounds read all that there is to read of an evaluated task with ``last`` versions."""
        return -(-last // self.evaluate_every)

    def _check_training(self) -> None:
        # Whether it needs a table [client] is its process's to say.
        self._need(model=True, statistics=False, evaluates=False)
        assert self.model is not None  # noqa: S101  _need has checked it
        if self.client is not None:
            self.client.schedule.check(self.client.learning_rate, self.rounds)
        size = self.model.build().update_bytes
        if size > MAX_UPLOAD_BYTES:
            raise ConfigError(
                f"an update of {self.model.num_classes} x {self.model.num_features} weights has {size} bytes; "
                f"expected at most {MAX_UPLOAD_BYTES}"
            )

    def _check_evaluation(self) -> None:
        self._need(model=False, client=False, statistics=False, evaluates=True)
        check_name("evaluates", self.evaluates)

    def _check_personalization(self) -> None:
        self._need(model=False, client=True, statistics=False, evaluates=True)
        check_name("evaluates", self.evaluates)
        assert self.client is not None  # noqa: S101  _need has checked it
        if self.client.schedule != CONSTANT:
            raise ConfigError("client.schedule in a personalization task; expected none: each round starts afresh")

    def _check_statistics(self) -> None:
        self._need(model=True, client=False, statistics=True, evaluates=False)
        if self.rounds != 2:
            raise ConfigError(f"rounds is {self.rounds}; expected 2 for statistics: sums, then squares about the mean")
        assert self.model is not None  # noqa: S101  _need has checked it
        assert self.statistics is not None  # noqa: S101  _need has checked it
        size = description_bytes(self.model.num_features, self.statistics.bins, self.statistics.extremes)
        if size > MAX_UPLOAD_BYTES:
            raise ConfigError(f"an update of {size} bytes; expected at most {MAX_UPLOAD_BYTES}: lower statistics.bins")
        if self.model.initial is not None:
            raise ConfigError("model.initial in a statistics task; expected none: it has no weights")
        if self.model.standardize_by:
            raise ConfigError("standardize_by in a statistics task; expected none: it reads raw features")

    def _need(self, **wanted: bool) -> None:
        for key, needed in wanted.items():
            if bool(getattr(self, key)) != needed:
                verb = "needs" if needed else "takes no"
                raise ConfigError(f"a task of kind {self.kind.value!r} {verb} {key!r}")


def parse_task(text: str, source: str) -> TaskSpec:
    """Read a task definition from TOML text; ``source`` names it in errors. Raises ``ConfigError``."""
    return parse_toml(text, TaskSpec, source)
