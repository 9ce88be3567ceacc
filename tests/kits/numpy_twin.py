"""A second implementation of ``edgefl.kernels`` in NumPy and plain Python, equal to it bit for bit.

It is written from the text of the arithmetic (design §4.2 to §4.5), not from the C code, so that an error in either
shows as a difference. It is slow and takes NumPy arrays alone. Two rules keep its bits certain:

- only element-wise ``+ - * /``, ``sqrt``, ``rint``, ``frexp`` and ``ldexp`` of NumPy, which IEEE 754 fixes; never
  ``np.sum`` or ``np.dot``, whose order of addition is not specified;
- the fused multiply-add is made here: exact product in binary64, TwoSum, round to odd, then one rounding to binary32
  (Boldo and Melquiond, "Emulation of a FMA and correctly rounded sums", 2008).

The functions do not check what they are given: what the kernels refuse is tested on the kernels alone. They do raise
``KernelError`` where the arithmetic leaves its domain on the way.
"""

from __future__ import annotations

import functools
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar

import numpy as np
import numpy.typing as npt
from philox_twin import permutation

from edgefl.errors import KernelError
from edgefl.types import EvalStats, Quantization, Standardization, TrainConfig, TrainStats, Weights

Array = npt.NDArray[Any]
F32 = npt.NDArray[np.float32]
F64 = npt.NDArray[np.float64]
I64 = npt.NDArray[np.int64]
P = ParamSpec("P")
R = TypeVar("R")

LANES = 16
ONE = np.float32(1)

# Cephes' single-precision polynomials for exp and log, highest power first, and the splitting of log 2 in two parts.
EXP_FIRST = np.float32(1.9875691500e-4)
EXP_REST = [1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1]
LOG_FIRST = np.float32(7.0376836292e-2)
LOG_REST = [-1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1]
LOG_REST += [2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1]
LOG2_E = np.float32(1.44269504)
LOG_2_HIGH = np.float32(0.693359375)
LOG_2_LOW = np.float32(-2.12194440e-4)
SQRT_HALF = np.float32(0.707106781186547524)
ROUND_TO_INTEGER = np.float32(12582912.0)
EXP_IS_ZERO_BELOW = np.float32(-40)


def quiet(function: Callable[P, R]) -> Callable[P, R]:
    """On its way to a ``KernelError`` a training may overflow; a warning of NumPy must not come first."""

    @functools.wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        with np.errstate(over="ignore", invalid="ignore"):
            return function(*args, **kwargs)

    return run


def fma(a: Any, b: Any, c: Any) -> F32:
    """``a * b + c`` of float32 values, rounded once; arrays broadcast."""
    product = np.multiply(a, b, dtype=np.float64)  # exact: 24 + 24 bits fit 53
    addend = np.asarray(c, dtype=np.float64)
    total = np.asarray(product + addend)
    virtual = total - product
    error = (product - (total - virtual)) + (addend - virtual)  # TwoSum: total + error is the exact value
    bits = total.view(np.int64)
    # Round to odd: an inexact result whose last bit is 0 moves one place towards the error.
    move = (error != 0) & np.isfinite(error) & (bits & 1 == 0)
    outwards = (error > 0) == (total > 0)
    odd = np.asarray(bits + np.where(move, np.where(outwards, 1, -1), 0))
    return odd.view(np.float64).astype(np.float32)


def flush(values: Any, limit: float = 2.0**-50) -> F32:
    """Values below the limit in magnitude become +0, and so does -0."""
    return np.where(np.abs(values) < limit, np.float32(0), values).astype(np.float32)


def exp32(x: F32) -> F32:
    """The exponential for x <= 0; exactly 0 below -40."""
    safe = np.maximum(x, EXP_IS_ZERO_BELOW)
    n = fma(safe, LOG2_E, ROUND_TO_INTEGER) - ROUND_TO_INTEGER
    r = fma(n, -LOG_2_HIGH, safe)
    r = fma(n, -LOG_2_LOW, r)
    p = np.full_like(r, EXP_FIRST)
    for coefficient in EXP_REST:
        p = fma(p, r, np.float32(coefficient))
    value = np.ldexp(fma(p, r * r, r) + ONE, n.astype(np.int32))
    return np.where(x >= EXP_IS_ZERO_BELOW, value, np.float32(0)).astype(np.float32)


def log32(s: F32) -> F32:
    """The natural logarithm for s in [1, 4096]."""
    mant, k = np.frexp(s)
    small = mant < SQRT_HALF
    k = np.where(small, k - 1, k).astype(np.float32)
    mant = np.where(small, mant + mant - ONE, mant - ONE).astype(np.float32)
    z = mant * mant
    y = np.full_like(mant, LOG_FIRST)
    for coefficient in LOG_REST:
        y = fma(y, mant, np.float32(coefficient))
    y = (y * mant) * z
    y = fma(k, LOG_2_LOW, y)
    y = fma(np.float32(-0.5), z, y)
    return flush(fma(k, LOG_2_HIGH, mant + y))


def tree(lanes: Array) -> Array:
    """Add the 16 lanes of the last axis: l and l+8, then l+4, l+2, l+1."""
    for half in (8, 4, 2, 1):
        lanes = lanes[..., :half] + lanes[..., half : 2 * half]
    return lanes[..., 0]


def squared_norm(values: F32) -> float:
    """The sum of squares in binary64: 16 lanes by index, then the tree."""
    lanes = np.zeros(LANES)
    for start in range(0, len(values), LANES):
        block = values[start : start + LANES].astype(np.float64)
        lanes[: len(block)] += block * block
    return float(tree(lanes))


def load_features(features: Array, standardization: Standardization | None, quantization: Quantization | None) -> F32:
    """What the arithmetic sees of stored features: float32 (n, num_features)."""
    x = dequantize(features, quantization)
    if standardization is not None:
        mean = np.frombuffer(standardization.mean, dtype=np.float32)
        inverse_spread = np.frombuffer(standardization.inverse_spread, dtype=np.float32)
        x = flush((x - mean) * inverse_spread, 2.0**-30)
    return x


def dequantize(features: Array, quantization: Quantization | None) -> F32:
    if features.dtype == np.float32:
        return features
    meaning = quantization or Quantization()
    return np.float32(meaning.scale) * (features.astype(np.int32) - meaning.zero_point).astype(np.float32)


def logits(kernel: F32, bias: F32, x: F32) -> F32:
    """(n, num_classes): 16 lanes over the features, the tree, then the bias."""
    lanes = np.zeros((len(x), len(kernel), LANES), dtype=np.float32)
    for start in range(0, x.shape[1], LANES):
        w_block = kernel[None, :, start : start + LANES]
        x_block = x[:, None, start : start + LANES]
        width = x_block.shape[2]
        lanes[..., :width] = fma(w_block, x_block, lanes[..., :width])
    return np.asarray(tree(lanes) + bias, dtype=np.float32)


@dataclass(frozen=True)
class Forward:
    probabilities: F32
    losses: list[float]
    predicted: list[int]


def check_finite(name: str, values: F32) -> None:
    if not np.isfinite(values).all():
        raise KernelError(f"a {name} is not finite")


def forward(kernel: F32, bias: F32, x: F32, labels: Array | None = None) -> Forward:
    z = logits(kernel, bias, x)
    check_finite("logit", z)
    largest = z[:, 0].copy()
    predicted = np.zeros(len(z), dtype=np.int64)
    for c in range(1, z.shape[1]):
        better = z[:, c] > largest
        largest[better] = z[better, c]
        predicted[better] = c
    e = exp32(z - largest[:, None])
    total = np.zeros(len(z), dtype=np.float32)
    for c in range(z.shape[1]):
        total = total + e[:, c]
    losses: list[float] = []
    if labels is not None:
        z_true = z[np.arange(len(z)), labels]
        losses = [float(loss) for loss in log32(total) - (z_true - largest)]
    return Forward(e / total[:, None], losses, [int(c) for c in predicted])


@dataclass
class Layer:
    """One value for each weight: the weights themselves, a gradient, a velocity."""

    kernel: F32
    bias: F32

    @classmethod
    def of(cls, weights: Weights) -> Layer:
        shape = (weights.num_classes, weights.num_features)
        kernel = np.frombuffer(weights.kernel, dtype=np.float32).reshape(shape)
        return cls(flush(kernel), flush(np.frombuffer(weights.bias, dtype=np.float32)))

    def to_weights(self) -> Weights:
        num_classes, num_features = self.kernel.shape
        return Weights(num_classes, num_features, self.kernel.tobytes(), self.bias.tobytes())


def direct_step(w: Layer, x: F32, g: F32) -> Layer:
    """Each example moves the weights by itself, in batch order; the weights are flushed once."""
    kernel, bias = w.kernel, w.bias
    for i in range(len(x)):
        bias = bias - g[i]
        kernel = fma(-g[i][:, None], x[i][None, :], kernel)
    return Layer(flush(kernel), flush(bias))


def batch_gradient(w: Layer, start: Layer, x: F32, g: F32, config: TrainConfig, correction: Layer | None) -> Layer:
    kernel, bias = np.zeros_like(w.kernel), np.zeros_like(w.bias)
    for i in range(len(x)):
        kernel = fma(g[i][:, None], x[i][None, :], kernel)
        bias = bias + g[i]
    if config.l2 > 0:
        kernel = fma(np.float32(config.l2), w.kernel, kernel)
    if config.proximal > 0:
        kernel = fma(np.float32(config.proximal), w.kernel - start.kernel, kernel)
        bias = fma(np.float32(config.proximal), w.bias - start.bias, bias)
    if correction is not None:
        kernel, bias = kernel + correction.kernel, bias + correction.bias
    kernel, bias = flush(kernel), flush(bias)
    if config.clip_norm > 0:
        clip_norm = np.float64(np.float32(config.clip_norm))
        norm = np.sqrt(np.float64(squared_norm(np.concatenate([kernel.ravel(), bias]))))
        if norm > clip_norm:
            factor = np.float32(clip_norm / norm)
            if factor < 2.0**-30:
                raise KernelError(f"a clip factor of {factor}")
            kernel, bias = flush(kernel * factor), flush(bias * factor)
    return Layer(kernel, bias)


@quiet
def train_softmax(
    weights: Weights,
    features: Array,
    labels: Array,
    config: TrainConfig,
    *,
    example_weights: F32 | None = None,
    standardization: Standardization | None = None,
    quantization: Quantization | None = None,
    correction: Weights | None = None,
) -> tuple[Weights, TrainStats]:
    x_all = load_features(features, standardization, quantization)
    w = start = Layer.of(weights)
    velocity = Layer(np.zeros_like(w.kernel), np.zeros_like(w.bias))
    rate, momentum = np.float32(config.learning_rate), np.float32(config.momentum)
    added = None if correction is None else Layer.of(correction)
    direct = added is None and config.l2 == config.momentum == config.proximal == config.clip_norm == 0
    loss_sum, num_correct, num_steps, count = 0.0, 0, 0, len(labels)
    for epoch in range(config.local_epochs):
        order = list(range(count)) if config.shuffle_key is None else permutation(config.shuffle_key, epoch, count)
        for begin in range(0, count, config.batch_size):
            rows = order[begin : begin + config.batch_size]
            x, y = x_all[rows], labels[rows]
            result = forward(w.kernel, w.bias, x, y)
            for loss in result.losses:
                loss_sum += loss
            num_correct += sum(p == t for p, t in zip(result.predicted, y, strict=True))
            one_hot = (np.arange(weights.num_classes) == y[:, None]).astype(np.float32)
            k = (rate if direct else ONE) / np.float32(len(rows))
            g = flush((result.probabilities - one_hot) * k)
            if example_weights is not None:
                g = flush(g * example_weights[rows][:, None])
            if direct:
                w = direct_step(w, x, g)
            else:
                gradient = batch_gradient(w, start, x, g, config, added)
                if momentum > 0:
                    kernel = flush(fma(momentum, velocity.kernel, gradient.kernel))
                    velocity = Layer(kernel, flush(fma(momentum, velocity.bias, gradient.bias)))
                else:
                    velocity = gradient
                w = Layer(flush(fma(-rate, velocity.kernel, w.kernel)), flush(fma(-rate, velocity.bias, w.bias)))
            num_steps += 1
    check_finite("weight", np.concatenate([w.kernel.ravel(), w.bias]))
    seen = count * config.local_epochs
    return w.to_weights(), TrainStats(seen, num_steps, loss_sum, int(num_correct), False)


@quiet
def evaluate_softmax(
    weights: Weights,
    features: Array,
    labels: Array,
    *,
    standardization: Standardization | None = None,
    quantization: Quantization | None = None,
) -> EvalStats:
    w = Layer.of(weights)
    result = forward(w.kernel, w.bias, load_features(features, standardization, quantization), labels)
    confusion = [0] * weights.num_classes**2
    loss_sum = 0.0
    for true, predicted, loss in zip(labels, result.predicted, result.losses, strict=True):
        confusion[int(true) * weights.num_classes + predicted] += 1
        loss_sum += loss
    num_correct = sum(confusion[:: weights.num_classes + 1])
    return EvalStats(len(labels), loss_sum, num_correct, memoryview(array("q", confusion)))


@quiet
def predict_softmax(
    weights: Weights,
    features: Array,
    *,
    standardization: Standardization | None = None,
    quantization: Quantization | None = None,
) -> bytes:
    w = Layer.of(weights)
    return forward(w.kernel, w.bias, load_features(features, standardization, quantization)).probabilities.tobytes()


def grid_values(delta: F32, grid_shift: int, factor: float = 1.0) -> list[int]:
    """The integers that a delta is rounded to."""
    scaled = np.ldexp(delta.astype(np.float64), grid_shift) * factor
    return [int(q) for q in np.rint(scaled)]


def finalize_mean(sums: list[int], total_weight: int, grid_shift: int) -> bytes:
    means = [float(np.float64(s) / np.float64(total_weight) * 2.0**-grid_shift) for s in sums]
    return np.array(means, dtype=np.float64).tobytes()


def apply_update(model: F32, update: F64, rate: float) -> bytes:
    return flush((model.astype(np.float64) + rate * update).astype(np.float32)).tobytes()


def feature_sums(
    features: Array, *, grid_shift: int, center: F32 | None = None, quantization: Quantization | None = None
) -> I64:
    """Sums over the rows, in order, of the features or of their squared distances from the center."""
    total = np.zeros(features.shape[1])
    for row in dequantize(features, quantization).astype(np.float64):
        distance = row if center is None else row - center.astype(np.float64)
        total = total + (distance if center is None else distance * distance)
    return np.asarray(np.rint(np.ldexp(total, grid_shift)), dtype=np.int64)


def feature_extremes(features: Array, *, quantization: Quantization | None = None) -> tuple[F32, F32]:
    """Sorted, not compared; + 0 makes +0 of -0."""
    ordered = np.sort(dequantize(features, quantization) + np.float32(0), axis=0)
    return ordered[0], ordered[-1]


def feature_counts(features: Array, edges: F64, *, quantization: Quantization | None = None) -> I64:
    """(F, bins) counts for (bins - 1,) edges, by NumPy's search."""
    bins = np.searchsorted(edges, dequantize(features, quantization).astype(np.float64), side="right")
    return np.array([np.bincount(column, minlength=len(edges) + 1) for column in bins.T], dtype=np.int64)
