"""Training, evaluation and prediction of a softmax layer: checked calls into libedgefl.

Features are any C-contiguous buffer of shape (n, F), n >= 1: float32, or uint8/int8 with a ``Quantization`` (by
default the stored value itself). No input is changed or copied; the GIL is released while C runs, so inputs must not be
changed by other threads meanwhile. Source: design §4.2, §4.3.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from edgefl.errors import DataError, EdgeFLError
from edgefl.kernels import _kernels
from edgefl.kernels._buffers import feature_matrix, label_vector, shape_of, value_at, vector
from edgefl.kernels._kernels import StopFlag
from edgefl.kernels._status import StatusError, layer_place, softmax_error
from edgefl.types import MAX_FEATURES, EvalStats, Quantization, Standardization, TrainConfig, TrainStats, Weights

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAX_ROWS = 2**31 - 1
"""Rows are permuted by 32-bit indices."""

_STORED_VALUE = Quantization()


class Inputs:
    """The checked features of one call, and the error that a status of that call becomes."""

    def __init__(
        self, features: Buffer, quantization: Quantization | None, standardization: Standardization | None
    ) -> None:
        self.view, kind = feature_matrix(features)
        self.num_rows, self.num_features = shape_of(self.view)
        if self.num_rows > MAX_ROWS or self.num_features > MAX_FEATURES:
            raise DataError(f"features has shape {self.view.shape}; expected at most ({MAX_ROWS}, {MAX_FEATURES})")
        meaning = _STORED_VALUE if quantization is None else quantization
        if kind == "f" and meaning != _STORED_VALUE:
            raise DataError(f"features is float32 and was given {meaning}; a quantization is only for uint8 and int8")
        mean = spread = None
        if standardization is not None:
            if standardization.num_features != self.num_features:
                raise DataError(
                    f"standardization of {standardization.num_features} features; "
                    f"expected {self.num_features}, as many as a row has"
                )
            mean = vector("mean", standardization.mean, "float32")
            spread = vector("inverse_spread", standardization.inverse_spread, "float32")
        self.features = _kernels.Features(self.view, kind, meaning.scale, meaning.zero_point, mean, spread)

    def model(self, weights: Weights) -> _kernels.Model:
        if weights.num_features != self.num_features:
            raise DataError(f"features of {self.num_features} columns; the weights take {weights.num_features}")
        return _model(weights)

    def explain(self, error: StatusError, weight: Callable[[int, int], str] = layer_place) -> EdgeFLError:
        """The error of a call on these inputs; ``weight`` names the place of a weight of the model."""
        return softmax_error(error, self._feature, self._label, self._example_weight, weight)

    def _feature(self, row: int, column: int) -> object:
        return value_at(self.view, row * self.num_features + column)

    def _label(self, _row: int, _column: int) -> object:
        return None

    def _example_weight(self, _row: int, _column: int) -> object:
        return None


class LabelledInputs(Inputs):
    """The same with one label per row and, if given, one example weight per row."""

    def __init__(
        self,
        features: Buffer,
        labels: Buffer,
        example_weights: Buffer | None,
        quantization: Quantization | None,
        standardization: Standardization | None,
    ) -> None:
        super().__init__(features, quantization, standardization)
        self.labels = label_vector(labels, self.num_rows)
        self.example_weights = (
            None if example_weights is None else vector("example_weights", example_weights, "float32", self.num_rows)
        )

    def _label(self, row: int, _column: int) -> object:
        return value_at(self.labels, row)

    def _example_weight(self, row: int, _column: int) -> object:
        return None if self.example_weights is None else value_at(self.example_weights, row)


def correction_model(weights: Weights, correction: Weights) -> _kernels.Model:
    """Raises ``DataError`` for another shape than the weights'; the values are checked by C."""
    given, expected = ((w.num_classes, w.num_features) for w in (correction, weights))
    if given != expected:
        raise DataError(f"a correction of shape {given}; expected {expected}, the shape of the weights")
    return _model(correction)


def train_softmax(
    weights: Weights,
    features: Buffer,
    labels: Buffer,
    config: TrainConfig,
    *,
    example_weights: Buffer | None = None,
    standardization: Standardization | None = None,
    quantization: Quantization | None = None,
    correction: Weights | None = None,
    stop: StopFlag | None = None,
) -> tuple[Weights, TrainStats]:
    """Mini-batch SGD from ``weights``; returns new weights and what was done.

    ``features``         (n, F) float32, uint8 or int8; each float32 finite, and 0 or at least 2**-30 in magnitude.
    ``labels``           (n,) int32 in [0, num_classes).
    ``example_weights``  (n,) float32, each 0 or at least 2**-30: the factor of an example's gradient; default 1.
    ``correction``       of the shape of ``weights``: added to the gradient of each step, after L2 and the proximal term
                         and before clipping and momentum; below 2**-50 in magnitude read as 0. ``c - c_i`` for SCAFFOLD
                         (Karimireddy et al., 2020, algorithm 1). With one, as with L2, momentum, a proximal term or
                         clipping, the gradient of a batch is summed before the step; one of zeros thus has the bits of
                         none together with one of those, and rounds differently from plain SGD.
    ``stop``             read before each batch, the first too: the result is then that of the batches before.

    Raises ``DataError`` for buffers and values that are not so, naming the row, before the first step;
    ``KernelError`` when a logit, a weight or a value of the correction is not finite, or when a gradient exceeds
    ``clip_norm`` more than 2**30 times.
    """
    added = None if correction is None else correction_model(weights, correction)
    inputs = LabelledInputs(features, labels, example_weights, quantization, standardization)
    try:
        kernel, bias, counts = _kernels.train(
            inputs.features,
            inputs.labels,
            inputs.example_weights,
            inputs.model(weights),
            config,
            added,
            stop,
        )
    except StatusError as error:
        raise inputs.explain(error) from None
    return Weights(weights.num_classes, weights.num_features, kernel, bias), TrainStats(*counts)


def evaluate_softmax(
    weights: Weights,
    features: Buffer,
    labels: Buffer,
    *,
    standardization: Standardization | None = None,
    quantization: Quantization | None = None,
) -> EvalStats:
    """Counts and loss of ``weights`` on (n, F) features and (n,) int32 labels. Errors as in ``train_softmax``."""
    inputs = LabelledInputs(features, labels, None, quantization, standardization)
    try:
        raw, loss_sum = _kernels.evaluate(inputs.features, inputs.labels, inputs.model(weights))
    except StatusError as error:
        raise inputs.explain(error) from None
    confusion = memoryview(raw).cast("q")
    return EvalStats(inputs.num_rows, loss_sum, sum(confusion[:: weights.num_classes + 1]), confusion)


def predict_softmax(
    weights: Weights,
    features: Buffer,
    *,
    standardization: Standardization | None = None,
    quantization: Quantization | None = None,
) -> bytes:
    """The probabilities of (n, F) features: (n, num_classes) float32 as bytes. Errors as in ``train_softmax``."""
    inputs = Inputs(features, quantization, standardization)
    try:
        return _kernels.predict(inputs.features, inputs.model(weights))
    except StatusError as error:
        raise inputs.explain(error) from None


def _model(weights: Weights) -> _kernels.Model:
    return _kernels.Model(weights.array("kernel"), weights.array("bias"))
