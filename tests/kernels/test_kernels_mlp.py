"""The mlp against float64 NumPy, and what its Python functions refuse (design §4.2, docs/adr/0004-mlp.md).

The order of operations, bit by bit, is compared in ``csrc/tests/test_mlp.c``. Here the mathematics is: the gradient is
that of the mean cross-entropy, found a second time by central differences of the loss in binary64.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from edgefl import kernels
from edgefl.errors import ConfigError, DataError, EdgeFLError, KernelError
from edgefl.kernels import MAX_HIDDEN, MlpWeights
from edgefl.types import Quantization, Standardization, TrainConfig

F64 = npt.NDArray[np.float64]
KEY = bytes(range(16))

TOLERANCE = 1e-5
"""Of a weight of about 1 after a few steps: binary32 rounds at 6e-8, and a value passes some 100 roundings."""

SHAPES = [(1, 1, 2), (3, 1, 2), (5, 7, 3), (17, 16, 2), (20, 33, 4), (4, MAX_HIDDEN, 2)]
PATHS: list[dict[str, Any]] = [{}, {"l2": 0.01, "momentum": 0.5, "proximal": 0.1}, {"clip_norm": 0.05}]


@dataclass(frozen=True)
class Case:
    weights: MlpWeights
    x: npt.NDArray[np.float32]
    y: npt.NDArray[np.int32]


def make_case(num_features: int, num_hidden: int, num_classes: int, rows: int = 23) -> Case:
    random = np.random.default_rng(num_features * 1000 + num_hidden)
    count = MlpWeights.count(num_features, num_hidden, num_classes)
    parameters = random.uniform(-0.7, 0.7, count).astype(np.float32)
    x = random.uniform(-1, 1, (rows, num_features)).astype(np.float32)
    y = random.integers(0, num_classes, rows).astype(np.int32)
    return Case(MlpWeights(num_features, num_hidden, num_classes, parameters.tobytes()), x, y)


def floats(weights: MlpWeights) -> F64:
    return np.asarray(weights.view).astype(np.float64)


def parts(shape: MlpWeights, w: F64) -> tuple[F64, F64, F64, F64]:
    f, h, c = shape.num_features, shape.num_hidden, shape.num_classes
    w1, b1, w2, b2 = np.split(w, np.cumsum([h * f, h, c * h]))
    return w1.reshape(h, f), b1, w2.reshape(c, h), b2


def probabilities(shape: MlpWeights, w: F64, x: F64) -> tuple[F64, F64]:
    """Of (n, F) features: hidden activations (n, H) and probabilities (n, C)."""
    w1, b1, w2, b2 = parts(shape, w)
    hidden = np.maximum(x @ w1.T + b1, 0)
    logits = hidden @ w2.T + b2
    exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
    return hidden, exponentials / exponentials.sum(axis=1, keepdims=True)


def mean_loss(shape: MlpWeights, w: F64, x: F64, y: npt.NDArray[np.int32], s: F64) -> float:
    _, p = probabilities(shape, w, x)
    return float((-np.log(p[np.arange(len(y)), y]) * s).mean())


def gradient(shape: MlpWeights, w: F64, x: F64, y: npt.NDArray[np.int32], s: F64) -> F64:
    hidden, p = probabilities(shape, w, x)
    p[np.arange(len(y)), y] -= 1
    g = p * s[:, None] / len(y)
    back = (g @ parts(shape, w)[2]) * (hidden > 0)
    return np.concatenate([(back.T @ x).ravel(), back.sum(0), (g.T @ hidden).ravel(), g.sum(0)])


def expected_after(case: Case, config: TrainConfig, s: F64, correction: F64 | float = 0.0) -> F64:
    w = start = floats(case.weights)
    x = case.x.astype(np.float64)
    kernels_only = np.concatenate([np.full(part.size, part.ndim == 2) for part in parts(case.weights, w)])
    velocity = np.zeros_like(w)
    for epoch in range(config.local_epochs):
        order = np.arange(len(x))
        if config.shuffle_key is not None:
            order = np.asarray(kernels.permutation(config.shuffle_key, epoch, len(x)))
        for first in range(0, len(x), config.batch_size):
            chosen = order[first : first + config.batch_size]
            g = gradient(case.weights, w, x[chosen], case.y[chosen], s[chosen])
            g = g + config.l2 * w * kernels_only + config.proximal * (w - start) + correction
            norm = float(np.sqrt((g * g).sum()))
            if config.clip_norm and norm > config.clip_norm:
                g = g * (config.clip_norm / norm)
            velocity = config.momentum * velocity + g
            w = w - config.learning_rate * velocity
    return w


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("batch_size", [1, 8, 100])
def test_training_is_sgd_of_the_stated_loss(shape: tuple[int, int, int], path: dict[str, Any], batch_size: int) -> None:
    case = make_case(*shape)
    config = TrainConfig(0.1, batch_size=batch_size, local_epochs=2, shuffle_key=KEY, **path)
    s = np.random.default_rng(1).integers(0, 3, len(case.y)).astype(np.float32)
    for name in kernels.available_variants():
        kernels.select_variant(name)
        got, stats = kernels.train_mlp(case.weights, case.x, case.y, config, example_weights=s)
        assert np.abs(floats(got) - expected_after(case, config, s.astype(np.float64))).max() < TOLERANCE
        assert stats.examples_seen == 2 * len(case.y)
    kernels.select_variant(None)


def test_a_correction_joins_the_gradient() -> None:
    case = make_case(5, 7, 3)
    correction = make_case(5, 7, 3, rows=1).weights
    config = TrainConfig(0.1, batch_size=8, momentum=0.5)
    got, _ = kernels.train_mlp(case.weights, case.x, case.y, config, correction=correction)
    expected = expected_after(case, config, np.ones(len(case.y)), floats(correction))
    assert np.abs(floats(got) - expected).max() < TOLERANCE


@pytest.mark.parametrize("shape", SHAPES[:-1])
def test_the_oracles_gradient_is_the_derivative_of_its_loss(shape: tuple[int, int, int]) -> None:
    """Central differences of step 1e-6: an error of 1e-12 of the third derivative and 1e-10 of rounding."""
    case = make_case(*shape)
    w, x, s = floats(case.weights), case.x.astype(np.float64), np.linspace(0, 2, len(case.y))
    analytic = gradient(case.weights, w, x, case.y, s)
    for j, step in enumerate(np.eye(len(w)) * 1e-6):
        ends = [mean_loss(case.weights, w + sign * step, x, case.y, s) for sign in (1, -1)]
        assert abs((ends[0] - ends[1]) / 2e-6 - analytic[j]) < 1e-7


@pytest.mark.parametrize("shape", SHAPES)
def test_evaluation_and_prediction(shape: tuple[int, int, int]) -> None:
    case = make_case(*shape, rows=150)
    _, p = probabilities(case.weights, floats(case.weights), case.x.astype(np.float64))
    got = np.frombuffer(kernels.predict_mlp(case.weights, case.x), np.float32).reshape(p.shape)
    assert np.abs(got - p).max() < TOLERANCE
    stats = kernels.evaluate_mlp(case.weights, case.x, case.y)
    confusion = np.zeros(p.shape[1] ** 2, np.int64)
    np.add.at(confusion, case.y * p.shape[1] + got.argmax(axis=1), 1)
    assert np.array_equal(np.asarray(stats.confusion), confusion)
    assert stats.num_correct == (got.argmax(axis=1) == case.y).sum()
    assert stats.loss_sum == pytest.approx(-np.log(p[np.arange(len(p)), case.y]).sum(), rel=1e-6)


@pytest.mark.parametrize(("dtype", "zero_point"), [(np.uint8, 7), (np.int8, -11)])
def test_stored_bytes_give_the_bits_of_their_values(dtype: type, zero_point: int) -> None:
    case = make_case(20, 33, 4)
    info = np.iinfo(dtype)
    stored = np.random.default_rng(3).integers(info.min, info.max + 1, case.x.shape).astype(dtype)
    scale = 2.0**-8
    values = (stored.astype(np.float32) - np.float32(zero_point)) * np.float32(scale)
    quantization = Quantization(scale, zero_point)
    config = TrainConfig(0.1, batch_size=8)
    got, _ = kernels.train_mlp(case.weights, stored, case.y, config, quantization=quantization)
    assert got == kernels.train_mlp(case.weights, values, case.y, config)[0]
    assert kernels.predict_mlp(got, stored, quantization=quantization) == kernels.predict_mlp(got, values)
    shift = Standardization(np.full(20, 0.5, np.float32).tobytes(), np.full(20, 2, np.float32).tobytes())
    one = kernels.evaluate_mlp(got, stored, case.y, quantization=quantization, standardization=shift)
    assert one.loss_sum == kernels.evaluate_mlp(got, (values - 0.5) * 2, case.y).loss_sum


def test_dead_units_stay_and_weights_of_zeros_move_only_the_output_bias() -> None:
    case = make_case(5, 7, 3)
    zeros = MlpWeights(5, 7, 3, bytes(len(case.weights.parameters)))
    got, _ = kernels.train_mlp(zeros, case.x, case.y, TrainConfig(0.5, local_epochs=3))
    moved = np.flatnonzero(floats(got))
    assert moved.min() >= len(floats(got)) - 3


def test_a_stop_flag_ends_before_the_first_batch() -> None:
    case = make_case(5, 7, 3)
    stop = kernels.StopFlag()
    stop.set()
    got, stats = kernels.train_mlp(case.weights, case.x, case.y, TrainConfig(0.5), stop=stop)
    assert got == case.weights
    assert (stats.stopped, stats.examples_seen) == (True, 0)


def spoilt(weights: MlpWeights, index: int, value: float) -> MlpWeights:
    parameters = np.asarray(weights.view).copy()
    parameters[index] = value
    return replace(weights, parameters=parameters.tobytes())


# Of 5 features, 7 hidden units and 3 classes: the hidden kernel ends at 35, its bias at 42, the output kernel at 63.
PLACES = [
    (0, "hidden unit 0, place 0 of its features and bias"),
    (34, "hidden unit 6, place 4 of its features and bias"),
    (41, "hidden unit 6, place 5 of its features and bias"),
    (42, "class 0, place 0 of its hidden units and bias"),
    (65, "class 2, place 7 of its hidden units and bias"),
]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize(("index", "place"), PLACES)
def test_a_parameter_that_is_not_finite_is_named(index: int, place: str, value: float) -> None:
    case = make_case(5, 7, 3)
    bad = spoilt(case.weights, index, value)
    for call in (
        lambda: kernels.train_mlp(bad, case.x, case.y, TrainConfig(0.1)),
        lambda: kernels.train_mlp(case.weights, case.x, case.y, TrainConfig(0.1), correction=bad),
        lambda: kernels.evaluate_mlp(bad, case.x, case.y),
        lambda: kernels.predict_mlp(bad, case.x),
    ):
        with pytest.raises(KernelError, match=place):
            call()


def test_inputs_that_are_not_so_are_refused() -> None:
    case = make_case(5, 7, 3)
    bad = case.x.copy()
    bad[4, 2] = np.nan
    config = TrainConfig(0.1)
    refused: list[tuple[type[EdgeFLError], str, Any]] = [
        (DataError, "row 4, column 2 is nan", lambda: kernels.train_mlp(case.weights, bad, case.y, config)),
        (DataError, "label of row 0 is 3", lambda: kernels.evaluate_mlp(case.weights, case.x, case.y * 0 + 3)),
        (DataError, "4 columns; the weights take 5", lambda: kernels.predict_mlp(case.weights, case.x[:, :4].copy())),
        (
            DataError,
            "labels has 22 values; expected 23",
            lambda: kernels.evaluate_mlp(case.weights, case.x, case.y[1:]),
        ),
        (
            DataError,
            r"a correction of shape \(5, 8, 3\); expected \(5, 7, 3\)",
            lambda: kernels.train_mlp(case.weights, case.x, case.y, config, correction=make_case(5, 8, 3).weights),
        ),
        (KernelError, "row 0 has a non-finite", lambda: kernels.predict_mlp(spoilt(case.weights, 0, 3e38), case.x * 9)),
        (DataError, "parameters of 8 bytes; expected 264", lambda: MlpWeights(5, 7, 3, bytes(8))),
        (ConfigError, "num_hidden is 0; expected 1 to 512", lambda: MlpWeights(5, 0, 3, b"")),
        (ConfigError, "num_hidden is 513; expected 1 to 512", lambda: MlpWeights(5, MAX_HIDDEN + 1, 3, b"")),
        (ConfigError, "num_hidden is 2.0; expected a whole number", lambda: MlpWeights.count(5, 2.0, 3)),  # type: ignore[arg-type]
        (ConfigError, "num_classes is 0", lambda: MlpWeights(5, 7, 0, b"")),
    ]
    for kind, message, call in refused:
        with pytest.raises(kind, match=message):
            call()
