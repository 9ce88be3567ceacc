"""Trainings drawn from a seed, and the comparison of the kernels with their twin, for the tests of the kernels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import numpy_twin as twin
import pytest
from hypothesis import strategies as st

from edgefl import kernels
from edgefl.errors import KernelError
from edgefl.types import EvalStats, Quantization, Standardization, TrainConfig, TrainStats, Weights

KEY = bytes(range(7, 23))
DTYPES = ["float32", "uint8", "int8"]
QUANTIZATIONS = {"float32": None, "uint8": Quantization(1 / 255, 0), "int8": Quantization(0.0307, -11)}
PATHS: list[dict[str, Any]] = [{}, {"momentum": 0.5}]
"""Options that choose the direct and the gradient path."""

NUM_EXAMPLES = 37  # no multiple of any vector width or batch size used here


@dataclass(frozen=True)
class Case:
    """Everything that a training takes, drawn from a seed."""

    weights: Weights
    features: npt.NDArray[Any]
    labels: npt.NDArray[np.int32]
    standardization: Standardization | None
    quantization: Quantization | None


def make_case(
    num_features: int,
    num_classes: int,
    dtype: str = "float32",
    *,
    standardized: bool = False,
    count: int = NUM_EXAMPLES,
    spread: float = 1.0,
    seed: int = 0,
) -> Case:
    rng = np.random.default_rng([seed, num_features, num_classes, count])
    kernel = rng.normal(size=(num_classes, num_features)).astype(np.float32) * np.float32(0.1)
    bias = rng.normal(size=num_classes).astype(np.float32)
    features: npt.NDArray[Any]
    if dtype == "float32":
        features = (rng.normal(size=(count, num_features)) * spread).astype(np.float32)
        features[rng.random(features.shape) < 0.2] = 0
        features[np.abs(features) < 2.0**-30] = 0
    else:
        bounds = np.iinfo(dtype)
        features = rng.integers(bounds.min, bounds.max, size=(count, num_features), endpoint=True).astype(dtype)
    standardization = None
    if standardized:
        mean = rng.normal(size=num_features).astype(np.float32)
        inverse_spread = rng.uniform(0.5, 2, size=num_features).astype(np.float32)
        standardization = Standardization(mean.tobytes(), inverse_spread.tobytes())
    return Case(
        Weights(num_classes, num_features, kernel.tobytes(), bias.tobytes()),
        features,
        rng.integers(0, num_classes, size=count, dtype=np.int32),
        standardization,
        QUANTIZATIONS[dtype],
    )


def layer(kernel: list[list[float]], bias: list[float]) -> Weights:
    """Weights of these values; a -0 is written as +0, as the kernels do."""
    w, b = (np.array(values, dtype=np.float32) + np.float32(0) for values in (kernel, bias))
    return Weights(w.shape[0], w.shape[1], w.tobytes(), b.tobytes())


def data(features: list[list[float]], labels: list[int]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.int32]]:
    return np.array(features, dtype=np.float32), np.array(labels, dtype=np.int32)


def make_correction(num_features: int, num_classes: int) -> Weights:
    """Of both signs, with values around 2**-50: those below it count as 0."""
    rng = np.random.default_rng([3, num_features, num_classes])
    values = rng.normal(size=num_classes * (num_features + 1)).astype(np.float32) * np.float32(0.1)
    values[::5] *= np.float32(2.0**-47)
    values[1::7] = -0.0
    values[2::7] = 2.0**-149
    return Weights.from_bytes(values, num_classes, num_features)


def assert_same_bits(
    case: Case,
    config: TrainConfig,
    example_weights: npt.NDArray[np.float32] | None = None,
    correction: Weights | None = None,
) -> None:
    """Train, predict and evaluate both ways. Where the twin leaves its domain, the kernel must say so too."""
    how: dict[str, Any] = {"standardization": case.standardization, "quantization": case.quantization}

    def work(side: Any) -> tuple[Weights, TrainStats, bytes, EvalStats]:
        data = case.features, case.labels
        extra = {"example_weights": example_weights, "correction": correction}
        trained, stats = side.train_softmax(case.weights, *data, config, **extra, **how)
        probabilities = side.predict_softmax(trained, case.features, **how)
        return trained, stats, probabilities, side.evaluate_softmax(trained, *data, **how)

    try:
        want, *want_rest = work(twin)
    except KernelError:
        with pytest.raises(KernelError):
            work(kernels)
        return
    got, *got_rest = work(kernels)
    for name in ("kernel", "bias"):
        got_bits, want_bits = (np.frombuffer(getattr(w, name), dtype=np.uint32) for w in (got, want))
        np.testing.assert_array_equal(got_bits, want_bits, err_msg=name)
    assert got_rest == want_rest


def numbers(largest: float) -> st.SearchStrategy[float]:
    """float32 values of either sign, from 2**-30 up: what a feature may be, but for 0."""
    return st.floats(2.0**-30, largest, width=32) | st.floats(-largest, -(2.0**-30), width=32)
