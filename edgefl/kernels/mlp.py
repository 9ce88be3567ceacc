"""Training, evaluation and prediction of an mlp, a hidden layer before a softmax layer: checked calls into libedgefl.

Buffers are those of ``softmax.py``. Source: design §4.2, docs/adr/0004-mlp.md.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from edgefl.errors import ConfigError, DataError
from edgefl.kernels import _kernels
from edgefl.kernels._kernels import StopFlag
from edgefl.kernels._status import StatusError
from edgefl.kernels.softmax import Inputs, LabelledInputs
from edgefl.types import EvalStats, Quantization, Standardization, TrainConfig, TrainStats, check_shape, check_whole

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAX_HIDDEN = _kernels.MAX_HIDDEN
"""The most hidden units of an mlp."""


@dataclass(frozen=True)
class MlpWeights:
    """The parameters of an mlp, and of a change of one: one float32 vector, held as ``bytes``.

    In this order: hidden kernel (num_hidden, num_features) row-major, hidden bias (num_hidden,), output kernel
    (num_classes, num_hidden) row-major, output bias (num_classes,). Raises ``ConfigError`` for a shape outside the
    limits, ``DataError`` for another number of bytes.
    """

    num_features: int
    num_hidden: int
    num_classes: int
    parameters: bytes = field(repr=False)

    def __post_init__(self) -> None:
        size = 4 * self.count(self.num_features, self.num_hidden, self.num_classes)
        if len(self.parameters) != size:
            raise DataError(
                f"parameters of {len(self.parameters)} bytes; expected {size} for {self.num_features} features, "
                f"{self.num_hidden} hidden units and {self.num_classes} classes"
            )

    @staticmethod
    def count(num_features: int, num_hidden: int, num_classes: int) -> int:
        """How many parameters an mlp of this shape has."""
        check_shape(num_classes, num_features)
        check_whole("num_hidden", num_hidden)
        if not 1 <= num_hidden <= MAX_HIDDEN:
            raise ConfigError(f"num_hidden is {num_hidden}; expected 1 to {MAX_HIDDEN}")
        return num_hidden * (num_features + 1) + num_classes * (num_hidden + 1)

    @property
    def digest(self) -> str:
        """SHA-256 of the parameters, 64 hexadecimal digits."""
        return hashlib.sha256(self.parameters).hexdigest()

    @property
    def view(self) -> memoryview[float]:
        """The parameters as a float32 buffer of one dimension; ``numpy.asarray`` takes it uncopied."""
        return memoryview(self.parameters).cast("f")


def train_mlp(
    weights: MlpWeights,
    features: Buffer,
    labels: Buffer,
    config: TrainConfig,
    *,
    example_weights: Buffer | None = None,
    standardization: Standardization | None = None,
    quantization: Quantization | None = None,
    correction: MlpWeights | None = None,
    stop: StopFlag | None = None,
) -> tuple[MlpWeights, TrainStats]:
    """Mini-batch SGD from ``weights``; returns new weights and what was done.

    Arguments, options and errors are those of ``train_softmax``. The options apply to all parameters as one vector; L2
    leaves both biases out. Weights of zeros do not learn: all hidden units would stay equal, or dead.
    """
    inputs = LabelledInputs(features, labels, example_weights, quantization, standardization)
    start = _model(inputs, weights)
    try:
        parameters, counts = _kernels.train_mlp(
            inputs.features,
            inputs.labels,
            inputs.example_weights,
            start,
            config,
            None if correction is None else _correction(weights, correction),
            stop,
        )
    except StatusError as error:
        raise inputs.explain(error, partial(_place, weights)) from None
    return MlpWeights(*_shape(weights), parameters), TrainStats(*counts)


def evaluate_mlp(
    weights: MlpWeights,
    features: Buffer,
    labels: Buffer,
    *,
    standardization: Standardization | None = None,
    quantization: Quantization | None = None,
) -> EvalStats:
    """Counts and loss of ``weights`` on (n, F) features and (n,) int32 labels. Errors as in ``train_mlp``."""
    inputs = LabelledInputs(features, labels, None, quantization, standardization)
    try:
        raw, loss_sum = _kernels.evaluate_mlp(inputs.features, inputs.labels, _model(inputs, weights))
    except StatusError as error:
        raise inputs.explain(error, partial(_place, weights)) from None
    confusion = memoryview(raw).cast("q")
    return EvalStats(inputs.num_rows, loss_sum, sum(confusion[:: weights.num_classes + 1]), confusion)


def predict_mlp(
    weights: MlpWeights,
    features: Buffer,
    *,
    standardization: Standardization | None = None,
    quantization: Quantization | None = None,
) -> bytes:
    """The probabilities of (n, F) features: (n, num_classes) float32 as bytes. Errors as in ``train_mlp``."""
    inputs = Inputs(features, quantization, standardization)
    try:
        return _kernels.predict_mlp(inputs.features, _model(inputs, weights))
    except StatusError as error:
        raise inputs.explain(error, partial(_place, weights)) from None


def _shape(weights: MlpWeights) -> tuple[int, int, int]:
    return weights.num_features, weights.num_hidden, weights.num_classes


def _model(inputs: Inputs, weights: MlpWeights) -> _kernels.Mlp:
    if weights.num_features != inputs.num_features:
        raise DataError(f"features of {inputs.num_features} columns; the weights take {weights.num_features}")
    return _kernels.Mlp(weights.view, weights.num_hidden, weights.num_classes)


def _correction(weights: MlpWeights, correction: MlpWeights) -> memoryview[float]:
    given, expected = _shape(correction), _shape(weights)
    if given != expected:
        raise DataError(f"a correction of shape {given}; expected {expected}, the shape of the weights")
    return correction.view


def _place(weights: MlpWeights, row: int, column: int) -> str:
    """Where a weight is; C counts the outputs of both layers, the hidden units first."""
    if row < weights.num_hidden:
        return f"hidden unit {row}, place {column} of its features and bias"
    return f"class {row - weights.num_hidden}, place {column} of its hidden units and bias"
