"""Extremes of features and their counts in bins: the kernel, its twin, and what is refused."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import numpy.typing as npt
import numpy_twin as twin
import pytest

from edgefl import kernels
from edgefl.errors import ConfigError, DataError
from edgefl.protocol.messages import MAX_BINS
from edgefl.types import Quantization

QUANTIZED = [("float32", None), ("uint8", Quantization(0.0123, 3)), ("int8", Quantization(0.5, -7)), ("int8", None)]


def _drawn(dtype: str, num_features: int) -> npt.NDArray[Any]:
    """With both zeros, and values that are edges."""
    rng = np.random.default_rng([3, num_features])
    features = (rng.normal(size=(57, num_features)) * 20).astype(dtype)
    if dtype == "float32":
        features[rng.random(features.shape) < 0.1] = 0.0
        features[rng.random(features.shape) < 0.1] = -0.0
        features[rng.random(features.shape) < 0.2] = 12.5
    return features


@pytest.mark.parametrize("num_features", [1, 13, 75, 784])
@pytest.mark.parametrize(("dtype", "quantization"), QUANTIZED)
def test_extremes_and_counts_equal_the_twin(dtype: str, quantization: Quantization | None, num_features: int) -> None:
    features = _drawn(dtype, num_features)
    smallest, largest = kernels.feature_extremes(features, quantization=quantization)
    low, high = twin.feature_extremes(features, quantization=quantization)
    assert (smallest, largest) == (low.tobytes(), high.tobytes())
    for num_bins in (1, 2, 3, 16, 1024):
        edges = np.arange(1, num_bins) * (50.0 / num_bins) - 25.0  # with three bins or more, some value is one of them
        edges = np.sort(np.append(edges[:-1], 12.5)) if num_bins > 2 else edges
        raw = kernels.feature_counts(features, edges=edges, quantization=quantization)
        want = twin.feature_counts(features, edges, quantization=quantization)
        assert np.frombuffer(raw, dtype="<i8").reshape(num_features, num_bins).tolist() == want.tolist()


def test_the_order_of_rows_shows_in_no_extreme_and_no_count() -> None:
    features = np.array([[0.0, 1.0], [-0.0, -3.0], [0.0, 2.0]], dtype=np.float32)
    expected = np.array([0, -3], dtype=np.float32).tobytes(), np.array([0, 2], dtype=np.float32).tobytes()
    for order in itertools.permutations(range(3)):
        rows = features[list(order)]
        assert kernels.feature_extremes(rows) == expected
        assert kernels.feature_counts(rows, edges=np.zeros(1)) == np.array([0, 3, 1, 2]).tobytes()


def test_an_edge_that_no_float32_is_lies_where_it_is() -> None:
    features = np.array([[1.0], [1.0 - 2.0**-24]], dtype=np.float32)
    edges = np.array([1.0 - 2.0**-25, 1.0 + 2.0**-52])
    assert kernels.feature_counts(features, edges=edges) == np.array([1, 1, 0]).tobytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, -1.5])
def test_a_bad_edge_is_refused_with_its_place_and_value(bad: float) -> None:
    edges, features = np.array([-1.0, 0.0, 0.0]), np.ones((2, 3), dtype=np.float32)
    kernels.feature_counts(features, edges=edges)
    edges[2] = bad
    with pytest.raises(DataError, match=rf"edge 2 is {bad}; expected"):
        kernels.feature_counts(features, edges=edges)


def test_more_bins_than_a_device_counts_are_refused() -> None:
    features = np.ones((1, 1), dtype=np.float32)
    kernels.feature_counts(features, edges=np.zeros(1023))
    with pytest.raises(ConfigError, match="1024 edges; expected fewer than 1024"):
        kernels.feature_counts(features, edges=np.zeros(1024))


def test_the_most_bins_are_those_of_a_task() -> None:
    assert kernels.MAX_BINS == MAX_BINS


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0**-31])
def test_a_bad_feature_has_no_extreme_and_no_bin(value: float) -> None:
    features = np.ones((5, 3), dtype=np.float32)
    features[4, 2] = value
    with pytest.raises(DataError, match=r"row 4, column 2"):
        kernels.feature_extremes(features)
    with pytest.raises(DataError, match=r"row 4, column 2"):
        kernels.feature_counts(features, edges=np.zeros(1))
