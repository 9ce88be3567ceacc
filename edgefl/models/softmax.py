"""The specification of the one model kind that devices train: a softmax layer over raw features or an embedding.

A specification is what a plan names and what both ends must agree on; it holds no weights. Source: design §4.1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from edgefl.classes import check_classes
from edgefl.errors import ConfigError
from edgefl.types import DType, Quantization, Standardization, Weights, check_kind, check_shape

_AS_STORED = Quantization()


@dataclass(frozen=True)
class SoftmaxModel:
    """A softmax layer of ``num_classes`` over ``num_features`` stored as ``dtype``.

    ``quantization`` says what 8-bit features mean and must stay at its default for float32 ones. ``standardization``
    is applied to the features (after ``quantization``) before the layer, on devices and in a release alike.
    ``classes`` are the names of the classes in index order, () where they have none; they change no arithmetic.
    Raises ``ConfigError`` for a shape outside the kernels' range or parts that do not fit each other.
    """

    kind: ClassVar[str] = "softmax"
    """The registered name by which a plan asks for this model."""

    version: ClassVar[int] = 1
    """Grows when the same name comes to mean other arithmetic."""

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
    def num_parameters(self) -> int:
        """Weights and biases together."""
        return self.num_classes * (self.num_features + 1)

    @property
    def update_bytes(self) -> int:
        """Size of a model, or of an unencoded delta, in its canonical float32 form."""
        return 4 * self.num_parameters

    def initial_weights(self) -> Weights:
        """The model before the first round: zeros (the loss is convex, so nothing is gained by a random start)."""
        return Weights.zeros(self.num_classes, self.num_features)
