"""What is told of a feature beyond its sums: a histogram over fixed bins and, where asked for, least and largest value.

Integers in fixed layout, exact, the same on every machine, whatever the order of examples and devices:

    histogram   num_bins counts a feature; bin i holds edges[i] <= x < edges[i+1], the last one its upper edge too
    extremes    float32 values as integers of the same order (``as_ordered``): they are compared, never added

The kernel counts, by comparisons alone: nothing is divided there, so every machine puts a value in the same bin.
The edges come from the task's bound, not from the data, so a histogram shows no device's extreme value.
"""

from __future__ import annotations

import struct
from array import array

from edgefl import kernels
from edgefl.errors import InvalidUpdateError, UpdateRefusal
from edgefl.types import DType, Examples


def bin_edges(bound: float, num_bins: int) -> tuple[float, ...]:
    """``num_bins`` equal bins of ``[-bound, bound]``: ``num_bins + 1`` edges, each as binary64; none for 0 bins."""
    if not num_bins:
        return ()
    return tuple(bound * (2 * i - num_bins) / num_bins for i in range(num_bins + 1))


def as_ordered(value: float) -> int:
    """A float32 value as an integer that compares as the value does; 0 for both zeros."""
    (bits,) = struct.unpack("<I", struct.pack("<f", value))
    magnitude = bits & 0x7FFFFFFF
    return -magnitude if bits >> 31 else int(magnitude)


def from_ordered(order: int) -> float:
    """The value of ``as_ordered``; of integers of at most 31 bits, NaN among them."""
    (magnitude,) = struct.unpack("<f", struct.pack("<I", abs(order)))
    return -float(magnitude) if order < 0 else float(magnitude)


def describe(examples: Examples, bound: float, num_bins: int, *, extremes: bool) -> bytes:
    """Histogram counts by feature, then minima, then maxima, int64. The features are checked: finite, within bound."""
    features = examples.features_view
    quantization = None if examples.dtype is DType.FLOAT32 else examples.quantization
    told = b""
    if num_bins:
        edges = array("d", bin_edges(bound, num_bins)[1:-1])
        told += kernels.feature_counts(features, edges=edges, quantization=quantization)
    if extremes:
        for values in kernels.feature_extremes(features, quantization=quantization):
            told += array("q", map(as_ordered, memoryview(values).cast("f"))).tobytes()
    return told


def check_description(values: memoryview[int], weight: int, bound: float, num_features: int, num_bins: int) -> None:
    """``values``: what ``describe`` makes. Raises ``InvalidUpdateError``: MALFORMED, NORM."""
    counts = values[: num_features * num_bins]
    for feature in range(num_features if num_bins else 0):
        own = counts[feature * num_bins : (feature + 1) * num_bins]
        if min(own) < 0 or sum(own) != weight:
            raise InvalidUpdateError(
                UpdateRefusal.MALFORMED,
                f"the histogram of feature {feature} counts {sum(own)}, the least {min(own)}; expected {weight} in all",
            )
    extremes = values[num_features * num_bins :].tolist()
    minima, maxima = extremes[: len(extremes) // 2], extremes[len(extremes) // 2 :]
    largest = as_ordered(bound) + 1  # bound may lie between two float32 values
    for feature, (low, high) in enumerate(zip(minima, maxima, strict=True)):
        if not -largest <= low <= high <= largest or max(abs(from_ordered(low)), abs(from_ordered(high))) > bound:
            raise InvalidUpdateError(
                UpdateRefusal.NORM,
                f"the extremes of feature {feature} are {low} and {high}, as integers; expected within {bound}",
            )
