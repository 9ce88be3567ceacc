"""The int8 columns of a kernel: hand-computed roundings, the promises of the format, and the bound on its error."""

from __future__ import annotations

import math
from array import array
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefl.models.tflite_int8 import MAX_LOGIT_ERROR_RMS, Int8Kernel, _best_threshold, quantize_kernel
from edgefl.types import Standardization, Weights


def layer(kernel: np.ndarray) -> Weights:
    return Weights(*kernel.shape, kernel.astype(np.float32).tobytes(), bytes(4 * len(kernel)))


def random_layer(num_classes: int, num_features: int, size: float, seed: int = 0) -> Weights:
    return layer(np.random.default_rng(seed).normal(size=(num_classes, num_features)) * size)


def identity(num_features: int) -> Standardization:
    return Standardization(bytes(4 * num_features), array("f", [1.0] * num_features).tobytes())


def values_of(kernel: Int8Kernel) -> np.ndarray:
    return np.frombuffer(kernel.values, np.int8).reshape(kernel.num_classes, -1).astype(int)


def errors(weights: Weights, kernel: Int8Kernel) -> np.ndarray:
    """(num_classes, num_features): what the stored kernel is off by, but for a shift of each feature."""
    stored = np.asarray(kernel.dequantized(weights.bias).kernel_view).astype(np.float64)
    off = stored - np.asarray(weights.kernel_view)
    return off - off.mean(axis=0)


def logit_error_rms(off: np.ndarray) -> float:
    """Of the worst pair of classes, for independent features of rms 1."""
    return max(math.sqrt(((one - other) ** 2).sum()) for one, other in product(off, off))


@pytest.mark.parametrize("standardization", [None, identity(3)])
def test_what_two_classes_differ_by_is_all_that_is_stored(standardization: Standardization | None) -> None:
    # Differences of 253, 126.5 and 0 steps; 100 and -7 are shifts, which softmax does not see.
    weights = layer(np.array([[253.0, 226.5, -7.0], [0.0, 100.0, -7.0]]))
    kernel = quantize_kernel(weights, standardization)
    assert kernel.scale == 2.0
    assert kernel.features == (0, 1, 2)
    steps = np.array(kernel.multiples) / kernel.limit * kernel.scale
    differences = (values_of(kernel)[0] - values_of(kernel)[1]) * steps
    assert differences == pytest.approx([253.0, 126.5, 0.0], abs=1e-12)
    assert steps[0] == 1.0
    # Columns are centered: the byte is used on both sides of 0.
    assert sorted(values_of(kernel)[:, 0]) == [-126, 127]


def test_a_kernel_of_zeros_or_of_one_class_stores_zeros() -> None:
    for weights in (Weights.zeros(2, 3), layer(np.array([[1.0, -2.0, 3.0]]))):
        kernel = quantize_kernel(weights)
        assert (kernel.scale, kernel.multiples, kernel.residual_features) == (1.0, (1, 1, 1), ())
        assert not any(kernel.values)


@pytest.mark.parametrize("size", [2.0**-50, 2.0**127])
def test_the_smallest_and_the_largest_weights_have_a_scale_of_their_own(size: float) -> None:
    weights = layer(np.array([[size, size / 2], [-size, 0.0]]))
    kernel = quantize_kernel(weights)
    assert kernel.dequantized(weights.bias).kernel_view.tolist()[0][0] == pytest.approx(size, rel=0.01)
    assert np.abs(errors(weights, kernel)).max() < size / 250


@given(st.lists(st.floats(0.0, 1.0, exclude_max=True), min_size=1, max_size=6))
def test_the_best_threshold_is_the_best_of_all_roundings(fractions: list[float]) -> None:
    def about_mean(ups: tuple[int, ...]) -> float:
        return float(np.var([f - up for f, up in zip(fractions, ups, strict=True)])) * len(fractions)

    squares, threshold = _best_threshold(list(fractions))
    assert squares == pytest.approx(min(map(about_mean, product((0, 1), repeat=len(fractions)))), abs=1e-12)
    assert squares == pytest.approx(about_mean(tuple(int(f >= threshold) for f in fractions)), abs=1e-12)


@pytest.mark.parametrize("standardized", [False, True])
@settings(max_examples=40, deadline=None)
@given(
    num_classes=st.integers(1, 12),
    num_features=st.integers(1, 30),
    size=st.floats(1e-6, 1e3),
    seed=st.integers(0, 2**32),
)
def test_the_promises_of_the_format(
    standardized: bool, num_classes: int, num_features: int, size: float, seed: int
) -> None:
    weights = random_layer(num_classes, num_features, size, seed)
    kernel = quantize_kernel(weights, identity(num_features) if standardized else None)
    assert kernel.features[:num_features] == tuple(range(num_features))
    assert list(kernel.residual_features) == sorted(set(kernel.residual_features))
    assert len(kernel.values) == num_classes * kernel.num_columns
    assert all(1 <= multiple < kernel.limit for multiple in kernel.multiples)
    assert values_of(kernel).min() >= -127
    # One column alone is off by at most half a step of the coarsest rounding tried; a residual only improves on it.
    columns = np.asarray(weights.kernel_view)
    widest = float((columns.max(axis=0) - columns.min(axis=0)).max())
    assert np.abs(errors(weights, kernel)).max() <= widest / 253 * 1.5


@pytest.mark.parametrize("standardization", [None, identity(75)])
def test_residual_columns_bring_the_error_below_its_bound_and_no_more_are_spent(
    standardization: Standardization | None,
) -> None:
    counts = []
    for size in (0.01, 0.2, 0.4, 1.6):
        weights = random_layer(7, 75, size)
        kernel = quantize_kernel(weights, standardization)
        counts.append(len(kernel.residual_features))
        off = errors(weights, kernel)
        # The bound takes the errors of two classes as uncorrelated; chance alone correlates them a little.
        assert logit_error_rms(off) <= 1.2 * MAX_LOGIT_ERROR_RMS
        if counts[-1]:
            assert logit_error_rms(off) > 0.8 * MAX_LOGIT_ERROR_RMS
    assert counts[0] == 0
    assert counts == sorted(counts)
    assert 0 < counts[2] < counts[3] < 75


def test_many_steps_are_tried() -> None:
    # With one step tried, the rms of a rounding is 0.29 steps for each class.
    weights = random_layer(5, 200, 0.001)
    columns = np.asarray(weights.kernel_view)
    step = (columns.max(axis=0) - columns.min(axis=0)) / 253
    for standardization, expected in ((None, 0.2), (identity(200), 0.17)):
        relative = errors(weights, quantize_kernel(weights, standardization)) / step
        assert math.sqrt((relative**2).mean()) < expected


def test_of_two_classes_the_bound_is_exact() -> None:
    weights = random_layer(2, 300, 1.0)
    kernel = quantize_kernel(weights)
    assert kernel.residual_features
    assert 0.9 * MAX_LOGIT_ERROR_RMS < logit_error_rms(errors(weights, kernel)) <= MAX_LOGIT_ERROR_RMS


def test_no_bits_are_spent_on_a_feature_that_is_switched_off() -> None:
    weights = layer(np.array([[900.0, 0.02], [-900.0, -0.01]]))
    off = Standardization(bytes(8), array("f", [0.0, 1.0]).tobytes())
    kernel = quantize_kernel(weights, off)
    assert not values_of(kernel)[:, 0].any()
    assert abs(errors(weights, kernel)[:, 1]).max() < 0.03 / 253


def test_the_same_kernel_gives_the_same_columns() -> None:
    weights = random_layer(10, 64, 0.3)
    assert quantize_kernel(weights) == quantize_kernel(weights)
