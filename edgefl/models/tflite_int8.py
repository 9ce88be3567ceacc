"""A softmax layer's kernel as int8 columns: what a ``.tflite`` file with int8 weights holds.

Invariants:

- Pure Python binary64, exactly rounded sums (``math.fsum``), no libm: the same weights give the same bytes anywhere.
- ``weight[c, f] ≈ scale * sum(multiple[j] / limit * value[c, j]) + shift[f]``, over the columns j that read feature
  f. The shift is never stored: softmax does not change when one number is added to every class's logit.
- ``-127 <= value <= 127`` and ``1 <= multiple < limit``.
- Column j reads feature j; behind these come the residual columns, which read a feature once more and hold what its
  first 8 bits left over. A model whose weights are small enough for 8 bits has none.

Why columns, why many steps are tried, and why the error has this bound: docs/adr/0001-int8-weights.md.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgefl.types import Standardization, Weights, to_float32

MAX_LOGIT_ERROR_RMS = 0.003
"""Bound on the rms error of a difference of two logits, for features that are independent and of rms 1.

Real features are neither, and a release is held to 5e-3 in probability on every row: the largest error on the rows of
a data set was at most 1.66 times this rms, over 3,000 files of trained models."""

_FINEST_STEPS = 253
"""Steps of the finest rounding tried between a column's extremes. Rounding may add one; -127 to 127 spans 254."""

_COARSEST = 1.4
"""No step of more than this many finest ones is tried: a lucky rounding can hardly make good for it."""

_TRIALS_PER_COLUMN = 1024
"""Work for one column, in values rounded: about 0.4 ms. With 10 classes 102 steps are tried, from 1,024 on one."""

_BYTE_LIMIT, _FREE_LIMIT = 2**8, 2**16
"""Limit of the multiples. Without a standardization the file stores them, as bytes; with one they vanish in the
factors of its MUL, which are float32 anyway, and more of them give more steps to try."""


@dataclass(frozen=True)
class Int8Kernel:
    """``values`` (num_classes, num_columns) int8 row-major, as bytes; ``scale`` is a float32, ``limit`` a power of 2.

    ``features[j]`` is the feature that column j reads.
    """

    num_classes: int
    num_features: int
    features: tuple[int, ...]
    scale: float
    limit: int
    multiples: tuple[int, ...] = field(repr=False)
    values: bytes = field(repr=False)

    @property
    def num_columns(self) -> int:
        return len(self.features)

    @property
    def residual_features(self) -> tuple[int, ...]:
        """The features, rising, that have a second column."""
        return self.features[self.num_features :]

    def dequantized(self, bias: bytes) -> Weights:
        """The float32 layer that these values stand for: the same probabilities as the file's, up to rounding."""
        kernel = array("f", bytes(4 * self.num_classes * self.num_features))
        values = memoryview(self.values).cast("b")
        for column in reversed(range(self.num_columns)):  # the residual first, so that no large sum is rounded twice
            feature, step = self.features[column], self.scale / self.limit * self.multiples[column]
            for row in range(self.num_classes):
                kernel[row * self.num_features + feature] += step * values[row * self.num_columns + column]
        return Weights(self.num_classes, self.num_features, kernel.tobytes(), bias)


@dataclass(frozen=True)
class _Column:
    """``weight[c] ≈ unit * multiple * values[c]`` but for a shift."""

    multiple: int
    values: list[int]


def quantize_kernel(weights: Weights, standardization: Standardization | None = None) -> Int8Kernel:
    """Round a finite kernel to int8 columns, with as many residual columns as ``MAX_LOGIT_ERROR_RMS`` asks for.

    ``standardization`` tells which features are switched off (a factor of 0): no bits are spent on those.
    """
    width = weights.num_features
    kernel = memoryview(weights.kernel).cast("f").tolist()
    spreads = [1.0] * width if standardization is None else memoryview(standardization.inverse_spread).cast("f")
    originals = [kernel[f::width] if spreads[f] else [0.0] * weights.num_classes for f in range(width)]
    widest = max(max(original) - min(original) for original in originals)
    # At its finest step the widest column has half the limit as its multiple; the rest is room for coarser ones.
    scale = to_float32(2.0 * widest / _FINEST_STEPS) or 1.0
    limit = _BYTE_LIMIT if standardization is None else _FREE_LIMIT
    unit = scale / limit
    columns = [_round_column(original, unit, limit) for original in originals]
    errors = [_error(original, column, unit) for original, column in zip(originals, columns, strict=True)]
    residual_of = _features_to_refine(errors)
    columns += [_round_column(errors[feature], unit, limit) for feature in residual_of]
    values = array("b", (column.values[row] for row in range(weights.num_classes) for column in columns))
    features = (*range(width), *residual_of)
    multiples = tuple(column.multiple for column in columns)
    return Int8Kernel(weights.num_classes, width, features, scale, limit, multiples, values.tobytes())


def _round_column(column: Sequence[float], unit: float, limit: int) -> _Column:
    """Of all the multiples tried the one with the smallest sum of squared errors, and its integers."""
    smallest = min(column)
    offsets = [value - smallest for value in column]
    finest = max(math.ceil(max(offsets) / (_FINEST_STEPS * unit)), 1)
    multiples = range(finest, min(int(_COARSEST * finest), limit - 1) + 1)
    trials = max(_TRIALS_PER_COLUMN // len(column), 1)
    least, multiple, threshold = math.inf, finest, 0.0
    for tried in multiples[:: -(-len(multiples) // trials)]:
        step = unit * tried
        squares, at = _best_threshold([offset / step % 1.0 for offset in offsets])
        if squares * step * step < least:
            least, multiple, threshold = squares * step * step, tried, at
    integers = []
    for offset in offsets:
        steps = offset / (unit * multiple)
        integers.append(int(steps) + (steps % 1.0 >= threshold))
    middle = (min(integers) + max(integers)) // 2
    return _Column(multiple, [integer - middle for integer in integers])


def _best_threshold(fractions: list[float]) -> tuple[float, float]:
    """From which fraction on to round up: the sum of squared errors about their mean, in steps, and the answer.

    The mean is free, because a shift is. So the threshold may be anywhere, and each fraction is a candidate.
    """
    fractions.sort()
    count = len(fractions)
    # All rounded up: errors of fraction - 1. Then one after the other is rounded down instead.
    total = math.fsum(fractions) - count
    squares = math.fsum([(fraction - 1.0) * (fraction - 1.0) for fraction in fractions])
    least, threshold = math.inf, 0.0
    for fraction in fractions:
        about_mean = squares - total * total / count
        if about_mean < least:
            least, threshold = about_mean, fraction
        total += 1.0
        squares += 2.0 * fraction - 1.0
    return least, threshold


def _error(original: Sequence[float], column: _Column, unit: float) -> list[float]:
    """What ``column`` leaves over of each class's weight, about the mean."""
    step = unit * column.multiple
    errors = [weight - step * value for weight, value in zip(original, column.values, strict=True)]
    mean = math.fsum(errors) / len(errors)
    return [error - mean for error in errors]


def _features_to_refine(errors: Sequence[Sequence[float]]) -> list[int]:
    """The features, rising, that need a residual column: as few as bring the error below the bound."""
    squares = [[error * error for error in feature_errors] for feature_errors in errors]
    # A difference has the variances of two classes, at most twice the worst one's. They are about the mean of all
    # classes, which takes 1 / C of each.
    count = len(errors[0])
    share = 2.0 * count / max(count - 1, 1)
    remaining = [share * math.fsum(of_class) for of_class in zip(*squares, strict=True)]
    by_size = sorted(range(len(errors)), key=lambda feature: -math.fsum(squares[feature]))
    chosen: list[int] = []
    for feature in by_size:
        if max(remaining) <= MAX_LOGIT_ERROR_RMS * MAX_LOGIT_ERROR_RMS:
            break
        chosen.append(feature)
        remaining = [total - share * square for total, square in zip(remaining, squares[feature], strict=True)]
    return sorted(chosen)
