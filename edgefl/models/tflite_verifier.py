"""Runs a ``.tflite`` file and compares what it computes with the kernel, before anyone publishes it.

The rule (design §8): a float32 file differs by at most 1e-5 in any probability and names the same class, unless the
two best are closer than that. An int8 file differs by at most 5e-3 from the kernel on the float32 weights; and by the
float32 rule from the kernel on the weights that its int8 values stand for, which ``quantize_kernel`` gives. So the
first comparison judges the rounding, and the second one the file: a single wrong int8 value breaks it.

The inputs are made here, the same ones for the same model:

- Rows are independent and uniform with the data's spread (rms 1 after standardization; without one, rows in [0, 1] and
  in [-1, 1], as pixels and embeddings are), at several distances from the mean. Near the mean no class wins outright,
  and there a wrong weight shows most: far out the softmax saturates and hides it.
- For the float32 rule the first row is the mean itself, and a row is moved towards the mean until ``sum |w x|`` is at
  most 64 for every class. Beyond that the rounding of a binary32 sum alone can reach 1e-5, in any order of summation:
  such a row would judge the format, not the file.
- The rows that judge the rounding are as far from the mean as real rows are, none is moved, and there are more: what
  counts is the worst row of a data set (docs/adr/0001-int8-weights.md compares them with real ones).
"""

from __future__ import annotations

import math
import operator
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from edgefl import kernels
from edgefl.classes import listed
from edgefl.errors import ConfigError, VerificationError
from edgefl.models.tflite_int8 import quantize_kernel
from edgefl.models.tflite_metadata import read_classes
from edgefl.models.tflite_runner import predict_tflite
from edgefl.randomness import derive_key
from edgefl.types import MIN_MAGNITUDE, Standardization, Weights

if TYPE_CHECKING:
    from edgefl.models.tflite_writer import WeightType

Predict = Callable[[Weights, "memoryview[float]"], bytes]
"""The kernel: weights and (n, num_features) float32 values to (n, num_classes) float32 as bytes."""

FLOAT32_MAX_DIFF = 1e-5
INT8_MAX_DIFF = 5e-3

NUM_RANDOM_INPUTS = 63
"""With the mean 64 rows: each weight takes part in all of them, and the runtime needs microseconds for each."""

MAX_ROW_CONDITION = 64.0
"""Bound on ``sum |w x|`` of a float32 row: about 64 · 2⁻²⁴ · a few in a logit, a third of the tolerance."""

NUM_DATA_LIKE_VALUES = 2**18
"""Bound on the values of all rows that judge an int8 rounding: 0.2 s of Python at most, up to 4,096 features."""

MAX_DATA_LIKE_INPUTS, MIN_DATA_LIKE_INPUTS = 1024, 64

_DISTANCES = (0.25, 1.0, 4.0)
_DATA_LIKE_DISTANCES = (0.5, 1.0, 2.0)
"""A row of real data is rarely closer to the mean or farther from it, in the rms of its features."""

_UNIFORM_RMS_1 = math.sqrt(3.0)
_PURPOSE = "tflite-verifier"
_DATA_LIKE_PURPOSE = "tflite-verifier-int8"


@dataclass(frozen=True)
class Verification:
    """The largest difference of any probability from the kernel's on the float32 weights, over ``num_inputs`` rows."""

    max_abs_diff: float
    num_inputs: int
    runtime: str


def verify_tflite(
    model: bytes,
    weights: Weights,
    standardization: Standardization | None,
    *,
    weight_type: WeightType = "float32",
    classes: tuple[str, ...] = (),
    runtime: str | None = None,
    predict: Predict | None = None,
) -> Verification:
    """Compare the file ``model`` with the kernel on ``weights``, and its names with ``classes``.

    ``predict``: the kernel of the model (``Model.predict``); None for that of a softmax layer.

    Raises ``VerificationError``, saying by how much, when the difference is above the limit of ``weight_type``, or when
    the file has other names or the runtime refuses it; and what ``predict_tflite`` raises.
    """
    if weight_type not in ("float32", "int8"):
        raise ConfigError(f"weight_type is {weight_type!r}; expected 'float32' or 'int8'")
    if (named := read_classes(model)) != classes:
        raise VerificationError(
            f"the file names the classes {listed(named) or 'by numbers'}; expected {listed(classes) or 'numbers'}"
        )
    if weight_type == "int8":
        stored = quantize_kernel(weights, standardization).dequantized(weights.bias)
        groups = [
            (stored, verification_inputs(stored, standardization)),
            (weights, data_like_inputs(weights.num_features, standardization)),
        ]
    else:
        groups = [(weights, verification_inputs(weights, standardization))]
    rows = b"".join(inputs.tobytes() for _, inputs in groups)
    prediction = predict_tflite(model, rows, weights.num_features, runtime=runtime)
    if prediction.num_classes != weights.num_classes:
        raise VerificationError(f"the file gives {prediction.num_classes} classes; expected {weights.num_classes}")
    found = memoryview(prediction.probabilities).cast("f")
    by_kernel = predict or partial(kernels.predict_softmax, standardization=standardization)
    expected = [_kernel_probabilities(by_kernel, reference, inputs) for reference, inputs in groups]
    exact = found[: len(expected[0])]
    largest = _largest_difference(expected[0], exact)
    if largest > FLOAT32_MAX_DIFF:
        of = "" if weight_type == "float32" else " on its int8 weights"
        raise VerificationError(
            f"the {weight_type} file differs from the kernel{of} by {largest!r} in probability on "
            f"{prediction.runtime}; expected at most {FLOAT32_MAX_DIFF!r}; do not publish it"
        )
    _check_classes(expected[0], exact, weights.num_classes)
    if weight_type == "float32":
        return Verification(largest, prediction.num_rows, prediction.runtime)
    largest = _largest_difference(expected[1], found[len(exact) :])
    if largest > INT8_MAX_DIFF:
        raise VerificationError(
            f"the int8 file differs from the kernel by {largest!r} in probability on {prediction.runtime}; "
            f"expected at most {INT8_MAX_DIFF!r}; release this model as float32"
        )
    return Verification(largest, len(expected[1]) // weights.num_classes, prediction.runtime)


def verification_inputs(weights: Weights, standardization: Standardization | None) -> array[float]:
    """The rows (n, num_features) float32 for the float32 rule: a pure function of the arguments."""
    place = _Place(weights.num_features, standardization, _PURPOSE)
    largest_weights = _largest_by_feature(weights)
    rows = place.row([0.0] * weights.num_features, 0.0)
    for index in range(NUM_RANDOM_INPUTS):
        offsets = place.offsets(index)
        condition = math.fsum(w * abs(z) for w, z in zip(largest_weights, offsets, strict=True))
        distance = _DISTANCES[index % len(_DISTANCES)]
        rows.extend(place.row(offsets, min(distance, MAX_ROW_CONDITION / condition if condition else distance)))
    return rows


def data_like_inputs(num_features: int, standardization: Standardization | None) -> array[float]:
    """The rows (n, num_features) float32 that judge an int8 rounding: a pure function of the arguments."""
    place = _Place(num_features, standardization, _DATA_LIKE_PURPOSE)
    num_rows = min(max(NUM_DATA_LIKE_VALUES // num_features, MIN_DATA_LIKE_INPUTS), MAX_DATA_LIKE_INPUTS)
    rows = array("f")
    for index in range(num_rows):
        rows.extend(place.row(place.offsets(index), _DATA_LIKE_DISTANCES[index % len(_DATA_LIKE_DISTANCES)]))
    return rows


class _Place:
    """Where the data lie, by what the standardization says; rows are drawn about there."""

    def __init__(self, num_features: int, standardization: Standardization | None, purpose: str) -> None:
        self._key = derive_key(0, 0, "", purpose)
        self._standardized = standardization is not None
        if standardization is None:
            self._mean, self._spread = [0.0] * num_features, [1.0] * num_features
        else:
            self._mean = list(memoryview(standardization.mean).cast("f"))
            # A feature of factor 0 is switched off, whatever its value.
            self._spread = [1.0 / v if v else 0.0 for v in memoryview(standardization.inverse_spread).cast("f")]

    def offsets(self, index: int) -> list[float]:
        """The row ``index`` about the mean, in units of the spread."""
        uniform = [word / 2**32 for word in kernels.random_words(self._key, index, len(self._mean))]
        if self._standardized:
            return [_UNIFORM_RMS_1 * (2.0 * u - 1.0) for u in uniform]
        return uniform if index % 2 else [2.0 * u - 1.0 for u in uniform]

    def row(self, offsets: list[float], distance: float) -> array[float]:
        place = zip(self._mean, offsets, self._spread, strict=True)
        return array("f", (_storable(m + distance * z * s) for m, z, s in place))


def _kernel_probabilities(by_kernel: Predict, weights: Weights, rows: array[float]) -> memoryview[float]:
    view = memoryview(rows).cast("B").cast("f", shape=[len(rows) // weights.num_features, weights.num_features])
    return memoryview(by_kernel(weights, view)).cast("f")


def _largest_by_feature(weights: Weights) -> list[float]:
    """For each feature the largest weight in magnitude over the classes, by way of the hidden units where there are."""
    name, (_, width) = weights.shapes[-2]
    kernel = [abs(value) for value in weights.array(name)]
    rows = [kernel[start : start + width] for start in range(0, len(kernel), width)]
    for name, (_, width) in weights.shapes[-4::-2]:
        before = [abs(value) for value in weights.array(name)]
        columns = [before[feature::width] for feature in range(width)]
        rows = [[math.fsum(map(operator.mul, row, column)) for column in columns] for row in rows]
    return list(map(max, zip(*rows, strict=True)))


def _storable(value: float) -> float:
    """The kernel takes no feature between 0 and 2**-30 in magnitude (design §4.2)."""
    return value if abs(value) >= MIN_MAGNITUDE else 0.0


def _largest_difference(expected: memoryview[float], found: memoryview[float]) -> float:
    """Infinity when the file gives a value that is not finite (a comparison with NaN would let it pass)."""
    if not all(map(math.isfinite, found)):
        return math.inf
    return max(abs(e - f) for e, f in zip(expected, found, strict=True))


def _check_classes(expected: memoryview[float], found: memoryview[float], num_classes: int) -> None:
    """Refuse another winner, unless the kernel's two best are closer than the tolerance."""
    for start in range(0, len(expected), num_classes):
        row, other = expected[start : start + num_classes].tolist(), found[start : start + num_classes].tolist()
        winner, other_winner = row.index(max(row)), other.index(max(other))
        if winner != other_winner and row[winner] - row[other_winner] > FLOAT32_MAX_DIFF:
            raise VerificationError(
                f"row {start // num_classes}: the file names class {other_winner}, the kernel {winner}, "
                f"by {row[winner]!r} to {row[other_winner]!r}, more than {FLOAT32_MAX_DIFF!r}; do not publish it"
            )
