"""What a kind of model is: what a plan names and what both ends must agree on. It holds no weights.

One file of ``edgefl.models.kinds`` per kind derives from ``Model``. All that the rest of the house asks of a model
stands here: its arrays, where a training begins, and the kernel that trains, evaluates and predicts.

Source: design §4.1.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, ClassVar

from edgefl.classes import check_classes
from edgefl.errors import ConfigError
from edgefl.types import (
    DType,
    EvalStats,
    Examples,
    Quantization,
    Shapes,
    Standardization,
    TrainConfig,
    TrainStats,
    Weights,
    check_kind,
    check_shape,
    num_values,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from edgefl.kernels import StopFlag

_AS_STORED = Quantization()


@dataclass(frozen=True)
class Model(abc.ABC):
    """A classifier into ``num_classes`` of ``num_features`` stored as ``dtype``.

    ``quantization`` says what 8-bit features mean and must stay at its default for float32 ones. ``standardization``
    is applied to the features (after ``quantization``) before the first layer, on devices and in a release alike.
    ``classes`` are the names of the classes in index order, () where they have none; they change no arithmetic.
    Fields that a kind adds are whole numbers, the options of its table ``[model]``.
    Raises ``ConfigError`` for a shape outside the kernels' range or parts that do not fit each other.
    """

    kind: ClassVar[str]
    """The registered name by which a plan asks for this model: that of its file."""

    version: ClassVar[int]
    """Grows when the same name comes to mean other arithmetic."""

    trains_cohorts: ClassVar[bool] = False
    """Whether ``kernels.train_cohort`` trains it: many clients in one call."""

    num_features: int
    num_classes: int
    dtype: DType = DType.FLOAT32
    quantization: Quantization = _AS_STORED
    standardization: Standardization | None = None
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_shape(self.num_classes, self.num_features)
        check_classes(self.classes, self.num_classes)
        check_kind("dtype", self.dtype, DType, "a DType, as edgefl.types.DType.UINT8")
        check_kind("quantization", self.quantization, Quantization, "an edgefl.types.Quantization")
        if self.standardization is not None:
            check_kind("standardization", self.standardization, Standardization, "what a statistics process returned")
        if self.dtype is DType.FLOAT32 and self.quantization != _AS_STORED:
            raise ConfigError(f"{self.quantization} with float32 features; expected none (it is for uint8 and int8)")
        if self.standardization is not None and self.standardization.num_features != self.num_features:
            raise ConfigError(
                f"a standardization of {self.standardization.num_features} features; "
                f"expected the model's {self.num_features}"
            )

    @property
    @abc.abstractmethod
    def shapes(self) -> Shapes:
        """The arrays of its weights in canonical order: of each layer a kernel (outputs, inputs), then its bias."""

    @abc.abstractmethod
    def initial_weights(self, seed: int = 0) -> Weights:
        """The model before the first round: a pure function of the task's ``seed``."""

    @abc.abstractmethod
    def train(
        self,
        start: Weights,
        examples: Examples,
        config: TrainConfig,
        *,
        correction: Weights | None = None,
        stop: StopFlag | None = None,
    ) -> tuple[Weights, TrainStats]:
        """Mini-batch SGD from ``start`` on ``examples``; arguments and errors as in ``kernels.train_softmax``."""

    @abc.abstractmethod
    def evaluate(self, weights: Weights, examples: Examples) -> EvalStats:
        """Counts and loss of ``weights`` on ``examples``. Errors as in ``kernels.evaluate_softmax``."""

    @abc.abstractmethod
    def predict(self, weights: Weights, features: Buffer) -> bytes:
        """The probabilities of (n, num_features) float32 values: (n, num_classes) float32 as bytes.

        The values are standardized here; they are those of a released file's input. Errors as in
        ``kernels.predict_softmax``.
        """

    @property
    def num_parameters(self) -> int:
        """Weights and biases together."""
        return num_values(self.shapes)

    @property
    def update_bytes(self) -> int:
        """Size of a model, or of an unencoded delta, in its canonical float32 form."""
        return 4 * self.num_parameters

    @property
    def options(self) -> dict[str, int]:
        """The values of the fields that this kind adds, by name."""
        usual = {field.name for field in fields(Model)}
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name not in usual}

    def weights(self, raw: Buffer) -> Weights:
        """Read weights from their canonical form. Raises ``DataError`` when the size does not fit."""
        return Weights.of(self.shapes, raw)
