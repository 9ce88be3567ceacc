"""The dataclasses of numbers: what they refuse, with the value, and what they give."""

from __future__ import annotations

import copy
import hashlib
import math
import pickle
import struct
from array import array
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefl.errors import ConfigError, DataError
from edgefl.types import (
    KEY_BYTES,
    MAX_CLASSES,
    MAX_FEATURES,
    MAX_FLOAT32,
    MAX_SCALE,
    MIN_MAGNITUDE,
    DType,
    EvalStats,
    Examples,
    Quantization,
    Standardization,
    TrainConfig,
    Weights,
    check_multiplier,
    check_shape,
    to_float32,
)

PROPERTY = settings(deadline=None, derandomize=True)
NOT_NUMBERS = [math.nan, math.inf, -math.inf]


def floats(*values: float) -> bytes:
    return array("f", values).tobytes()


# ------------------------------------------------------------------------------------------------ weights


def test_weights_are_the_kernel_row_by_row_and_then_the_bias() -> None:
    raw = floats(1, 2, 3, 4, 5, 6, 7, 8)
    weights = Weights.from_bytes(raw, 2, 3)
    assert weights.kernel_view.tolist() == [[1, 2, 3], [4, 5, 6]]
    assert weights.bias_view.tolist() == [7, 8]
    assert weights.to_bytes() == raw
    assert weights.digest == hashlib.sha256(raw).hexdigest()
    assert weights == Weights(2, 3, raw[:24], raw[24:])
    assert hash(weights) == hash(Weights.from_bytes(raw, 2, 3))


@pytest.mark.parametrize(
    "raw", [array("f", range(8)), memoryview(array("f", range(8))), np.arange(8, dtype=np.float32).reshape(2, 4)]
)
def test_weights_are_read_from_any_contiguous_buffer(raw: array[float]) -> None:
    assert Weights.from_bytes(raw, 2, 3).to_bytes() == floats(*range(8))


def test_zeros_are_positive_zeros() -> None:
    assert Weights.zeros(2, 3).to_bytes() == bytes(32)


def test_weights_do_not_change_and_do_not_flood_a_log() -> None:
    weights = Weights.zeros(100, 100)
    with pytest.raises(FrozenInstanceError):
        weights.kernel = b""  # type: ignore[misc]
    assert repr(weights) == "Weights(num_classes=100, num_features=100)"


@pytest.mark.parametrize("size", [0, 31, 33, 36])
def test_weights_of_another_size_are_refused(size: int) -> None:
    with pytest.raises(DataError, match=f"a model of {size} bytes; expected 32"):
        Weights.from_bytes(bytes(size), 2, 3)


@pytest.mark.parametrize(("kernel", "bias"), [(23, 8), (24, 7), (28, 4), (8, 24)])
def test_parts_of_weights_that_do_not_fit_are_refused(kernel: int, bias: int) -> None:
    with pytest.raises(DataError, match=rf"{kernel} \+ {bias} bytes; expected 24 \+ 8 for 2 classes of 3 features"):
        Weights(2, 3, bytes(kernel), bytes(bias))


@pytest.mark.parametrize(
    ("num_classes", "num_features"), [(0, 1), (1, 0), (-1, 1), (MAX_CLASSES + 1, 1), (1, MAX_FEATURES + 1)]
)
def test_a_shape_outside_the_kernels_range_is_refused_before_memory_is_taken(
    num_classes: int, num_features: int
) -> None:
    for make in (check_shape, Weights.zeros, lambda c, f: Weights.from_bytes(b"", c, f)):
        with pytest.raises(ConfigError, match=r"num_classes is|num_features is"):
            make(num_classes, num_features)
    check_shape(MAX_CLASSES, MAX_FEATURES)


# ------------------------------------------------------------------------------------------------ examples


@pytest.mark.parametrize(("dtype", "size"), [(DType.FLOAT32, 4), (DType.UINT8, 1), (DType.INT8, 1)])
def test_examples_are_rows_of_their_dtype(dtype: DType, size: int) -> None:
    assert dtype.size_bytes == size
    stored = np.array([[1, 2, 3], [4, 5, 100]]).astype(dtype.value)
    examples = Examples(3, stored.tobytes(), array("i", [0, 1]).tobytes(), dtype)
    assert len(examples) == 2
    assert examples.features_view.tolist() == stored.tolist()
    assert examples.labels_view.tolist() == [0, 1]


def test_int8_features_have_a_sign_and_uint8_have_none() -> None:
    for dtype, value in ((DType.INT8, -1), (DType.UINT8, 255)):
        assert Examples(1, b"\xff", bytes(4), dtype).features_view.tolist() == [[value]]


def test_examples_are_copied_and_pickled_without_their_views() -> None:
    examples = Examples(2, bytes(range(4)), bytes(8), DType.UINT8, Quantization(0.5, 3))
    view = examples.features_view
    assert examples.features_view is view
    for other in (pickle.loads(pickle.dumps(examples)), copy.deepcopy(examples)):
        assert other == examples
        assert hash(other) == hash(examples)
        assert other.features_view is not view
        assert other.features_view.tolist() == view.tolist()


def test_no_examples_are_examples() -> None:
    assert len(Examples(3, b"", b"")) == 0


@pytest.mark.parametrize(
    ("num_features", "features", "labels"),
    [(3, 24, 4), (3, 12, 8), (3, 11, 4), (3, 12, 3), (3, 0, 4), (0, 0, 4), (-1, 0, 0)],
)
def test_examples_that_do_not_fit_their_shape_are_refused(num_features: int, features: int, labels: int) -> None:
    with pytest.raises(DataError, match=f"{features} bytes of features and {labels} of labels"):
        Examples(num_features, bytes(features), bytes(labels))


# ------------------------------------------------------------------------------------------------ meaning of features


@pytest.mark.parametrize("scale", [*NOT_NUMBERS, 0.0, -1.0, MIN_MAGNITUDE / 2, MAX_SCALE * 1.01, 10**400, True, "1"])
def test_a_scale_outside_its_range_is_refused(scale: float) -> None:
    with pytest.raises(ConfigError, match="scale is "):
        Quantization(scale)


@pytest.mark.parametrize("zero_point", [-129, 256])
def test_a_zero_point_that_no_byte_has_is_refused(zero_point: int) -> None:
    with pytest.raises(ConfigError, match=f"zero_point is {zero_point}; expected -128 to 255"):
        Quantization(1.0, zero_point)


@PROPERTY
@given(st.floats(MIN_MAGNITUDE, MAX_SCALE))
def test_a_scale_is_the_float32_that_the_kernel_and_the_wire_hold(scale: float) -> None:
    assert Quantization(scale).scale == float(np.float32(scale))
    assert Quantization(float(np.float32(scale))) == Quantization(scale)
    assert math.isfinite(np.float32(383) * np.float32(Quantization(scale).scale))


def test_a_standardization_knows_its_width() -> None:
    assert Standardization(floats(1, 2, 0), floats(1, -0.0, 3)).num_features == 3


@pytest.mark.parametrize(("mean", "spread"), [(0, 0), (4, 8), (8, 4), (6, 6), (0, 4)])
def test_a_standardization_of_unequal_or_no_vectors_is_refused(mean: int, spread: int) -> None:
    with pytest.raises(DataError, match=f"standardization of {mean} and {spread} bytes"):
        Standardization(bytes(mean), bytes(spread))


@pytest.mark.parametrize("value", [*NOT_NUMBERS, 2.0**-31, -(2.0**-31), 1e-45])
def test_a_standardization_that_could_make_a_subnormal_is_refused(value: float) -> None:
    with pytest.raises(DataError, match=r"mean\[1\] is "):
        Standardization(floats(0, value), floats(0, 0))
    with pytest.raises(DataError, match=r"inverse_spread\[1\] is "):
        Standardization(floats(0, 0), floats(0, value))


# ------------------------------------------------------------------------------------------------ training

RATES = ["learning_rate", "l2", "momentum", "proximal", "clip_norm"]


def config(**options: object) -> TrainConfig:
    return TrainConfig(**{"learning_rate": 0.1, **options})  # type: ignore[arg-type]


@pytest.mark.parametrize("name", RATES)
@pytest.mark.parametrize("value", [*NOT_NUMBERS, -0.5, 2.0**-31, MAX_FLOAT32 * 1.0001, 10**400, True, "0.1", None])
def test_a_rate_that_is_none_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"{name} is "):
        config(**{name: value})


@pytest.mark.parametrize("name", RATES)
def test_rates_may_be_zero_or_the_smallest(name: str) -> None:
    assert getattr(config(**{name: 0.0}), name) == 0.0
    assert getattr(config(**{name: MIN_MAGNITUDE}), name) == MIN_MAGNITUDE


@pytest.mark.parametrize("name", ["learning_rate", "l2", "proximal", "clip_norm"])
def test_rates_may_be_what_float32_holds(name: str) -> None:
    assert getattr(config(**{name: MAX_FLOAT32}), name) == MAX_FLOAT32


@pytest.mark.parametrize("momentum", [1.0, 1.5, 1 - 2.0**-26])
def test_a_momentum_that_is_one_in_float32_is_refused(momentum: float) -> None:
    with pytest.raises(ConfigError, match=r"momentum is .* expected less than 1"):
        config(momentum=momentum)
    assert config(momentum=1 - 2.0**-24).momentum < 1


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"batch_size": 2**20 + 1},
        {"local_epochs": -1},
        {"local_epochs": 10_001},
        {"shuffle_key": b""},
        {"shuffle_key": bytes(KEY_BYTES - 1)},
        {"shuffle_key": bytes(KEY_BYTES + 1)},
    ],
)
def test_a_training_outside_its_bounds_is_refused(options: dict[str, object]) -> None:
    (name,) = options
    with pytest.raises(ConfigError, match=f"{name} (is|has) .*; expected "):
        config(**options)


@pytest.mark.parametrize(
    "options", [{"batch_size": 1}, {"batch_size": 2**20}, {"local_epochs": 0}, {"local_epochs": 10_000}]
)
def test_a_training_at_its_bounds_is_taken(options: dict[str, object]) -> None:
    config(**options)


def test_an_evaluation_of_nothing_divides_by_nothing() -> None:
    nothing = EvalStats(0, 0.0, 0, memoryview(b""))
    assert (nothing.accuracy, nothing.mean_loss) == (0.0, 0.0)
    some = EvalStats(4, 2.0, 3, memoryview(array("q", (1, 0, 1, 2))))
    assert (some.accuracy, some.mean_loss) == (0.75, 0.5)


# ------------------------------------------------------------------------------------------------ numbers


@PROPERTY
@given(st.floats(-MAX_FLOAT32, MAX_FLOAT32))
def test_float32_is_rounded_as_numpy_rounds(value: float) -> None:
    assert struct.pack("<d", to_float32(value)) == struct.pack("<d", float(np.float32(value)))


@PROPERTY
@given(st.floats(MIN_MAGNITUDE, MAX_FLOAT32))
def test_what_a_multiplier_may_be_stays_so_in_float32(value: float) -> None:
    for sign in (1, -1):
        check_multiplier("x", sign * value)
        check_multiplier("x", to_float32(sign * value))
