"""What the kernels take and refuse: the edges of the numeric domain (design §4.2) and the kinds of buffers (§9)."""

from __future__ import annotations

import array
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from kernel_cases import DTYPES, KEY, NUM_EXAMPLES, PATHS, Case, assert_same_bits, data, layer, make_case

from edgefl import kernels
from edgefl.errors import ConfigError, DataError, KernelError
from edgefl.types import Standardization, TrainConfig, Weights

CONFIG = TrainConfig(0.5)


def calls_with(features: npt.NDArray[Any], labels: npt.NDArray[Any], weights: Weights) -> list[Any]:
    return [
        lambda: kernels.train_softmax(weights, features, labels, CONFIG),
        lambda: kernels.evaluate_softmax(weights, features, labels),
        lambda: kernels.predict_softmax(weights, features),
    ]


@pytest.mark.parametrize(
    "value", [np.nan, np.inf, -np.inf, np.nextafter(np.float32(2**-30), np.float32(0)), -(2.0**-31)]
)
def test_a_feature_outside_the_domain_is_refused_with_its_place(value: float) -> None:
    features = np.ones((29, 23), dtype=np.float32)
    features[17, 21] = value
    for call in calls_with(features, np.zeros(29, dtype=np.int32), Weights.zeros(2, 23)):
        with pytest.raises(DataError, match=r"\b17\b.*\b21\b"):
            call()


def test_features_at_the_smallest_magnitude_and_negative_zero_are_taken() -> None:
    features = np.array([[2.0**-30, -(2.0**-30), 0.0, -0.0]], dtype=np.float32)
    case = Case(Weights.zeros(2, 4), features, np.zeros(1, dtype=np.int32), None, None)
    for options in PATHS:
        assert_same_bits(case, TrainConfig(0.5, local_epochs=2, **options))
    for call in calls_with(features, case.labels, case.weights):
        call()


@pytest.mark.parametrize("label", [-1, 3, 2**31 - 1, -(2**31)])
def test_a_label_out_of_range_is_refused(label: int) -> None:
    labels = np.zeros(19, dtype=np.int32)
    labels[13] = label
    calls = calls_with(np.ones((19, 2), dtype=np.float32), labels, Weights.zeros(3, 2))
    for call in calls[:2]:
        with pytest.raises(DataError, match=r"\b13\b"):
            call()


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 2.0**-31])
def test_an_example_weight_outside_the_domain_is_refused(value: float) -> None:
    example_weights = np.ones(19, dtype=np.float32)
    example_weights[13] = value
    data = np.ones((19, 2), dtype=np.float32), np.zeros(19, dtype=np.int32)
    with pytest.raises(DataError, match=r"\b13\b"):
        kernels.train_softmax(Weights.zeros(3, 2), *data, CONFIG, example_weights=example_weights)


@pytest.mark.parametrize("where", ["kernel", "bias"])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_start_weights_that_are_not_finite_are_refused(value: float, where: str) -> None:
    arrays = {"kernel": np.zeros((3, 2), dtype=np.float32), "bias": np.zeros(3, dtype=np.float32)}
    arrays[where].flat[2] = value
    weights = Weights(3, 2, arrays["kernel"].tobytes(), arrays["bias"].tobytes())
    for call in calls_with(np.ones((4, 2), dtype=np.float32), np.zeros(4, dtype=np.int32), weights):
        with pytest.raises((DataError, KernelError)):
            call()


@pytest.mark.parametrize(("where", "place"), [("kernel", "class 1, place 0"), ("bias", "class 2, place 2")])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_correction_that_is_not_finite_is_refused_before_the_first_step(value: float, where: str, place: str) -> None:
    arrays = {"kernel": np.zeros((3, 2), dtype=np.float32), "bias": np.zeros(3, dtype=np.float32)}
    arrays[where].flat[2] = value
    correction = Weights(3, 2, arrays["kernel"].tobytes(), arrays["bias"].tobytes())
    rows = np.ones((4, 2), dtype=np.float32), np.zeros(4, dtype=np.int32)
    for local_epochs in (0, 1):
        with pytest.raises(KernelError, match=f"correction holds a non-finite value .{place}"):
            kernels.train_softmax(
                Weights.zeros(3, 2), *rows, TrainConfig(0.5, local_epochs=local_epochs), correction=correction
            )


@pytest.mark.parametrize(("num_classes", "num_features"), [(2, 2), (3, 1), (4, 2), (3, 3)])
def test_a_correction_of_another_shape_is_refused(num_classes: int, num_features: int) -> None:
    rows = np.ones((4, 2), dtype=np.float32), np.zeros(4, dtype=np.int32)
    correction = Weights.zeros(num_classes, num_features)
    with pytest.raises(DataError, match=rf"shape \({num_classes}, {num_features}\); expected \(3, 2\)"):
        kernels.train_softmax(Weights.zeros(3, 2), *rows, CONFIG, correction=correction)


def test_a_correction_below_the_limit_counts_as_zero() -> None:
    """It is so before it meets the gradient, here 2**-50: their sum would be kept."""
    below = float(np.nextafter(np.float32(2.0**-50), np.float32(0)))
    x, y = data([[0, 0, 0]], [0])
    start, correction = layer([[2.0**-20] * 3], [0]), layer([[below, -below, 2.0**-50]], [1e-40])
    got, _ = kernels.train_softmax(start, x, y, TrainConfig(2.0**20, l2=2.0**-30), correction=correction)
    once, twice = 2.0**-20 - 2.0**-30, 2.0**-20 - 2.0**-29
    assert got == layer([[once, once, twice]], [0])


@pytest.mark.parametrize("local_epochs", [0, 1])
@pytest.mark.parametrize("options", PATHS, ids=["direct", "gradient"])
def test_tiny_start_weights_and_negative_zeros_become_zero(options: dict[str, Any], local_epochs: int) -> None:
    """A learning rate of 0 shows the start weights as they are held."""
    below = np.nextafter(np.float32(2.0**-50), np.float32(0))
    kernel = np.array([[2.0**-50, -(2.0**-50), below], [-below, -0.0, 1e-40]], dtype=np.float32)
    bias = np.array([-0.0, -below], dtype=np.float32)
    weights = Weights(2, 3, kernel.tobytes(), bias.tobytes())
    data = np.ones((2, 3), dtype=np.float32), np.zeros(2, dtype=np.int32)
    got, _ = kernels.train_softmax(weights, *data, TrainConfig(0.0, local_epochs=local_epochs, **options))
    assert got.kernel == np.array([2.0**-50, -(2.0**-50), 0, 0, 0, 0], dtype=np.float32).tobytes()
    assert got.bias == bytes(8)


def test_the_proximal_term_pulls_to_the_start_weights_as_they_are_held() -> None:
    """A start weight of 2**-51 is held as 0; a factor of 2**10 would make the difference a gradient of 2**-41."""
    config = TrainConfig(1.0, proximal=2.0**10, local_epochs=2)
    got, _ = kernels.train_softmax(layer([[2.0**-51]], [-(2.0**-51)]), *data([[0]], [0]), config)
    assert got == layer([[0]], [0])


# --- Where values become 0 -------------------------------------------------------------------------------------------

BELOW_ONE = float(np.nextafter(np.float32(1), np.float32(0)))


@pytest.mark.parametrize("num_classes", [1, 2])
def test_tiny_weights_count_as_zero_in_evaluation_too(num_classes: int) -> None:
    """At a feature of 2**60 a weight of 2**-51 would move the logit by 512."""
    tiny = layer([[0.0]] * (num_classes - 1) + [[2.0**-51]], [0.0] * num_classes)
    x, y = data([[2.0**60]], [0])
    assert kernels.predict_softmax(tiny, x) == kernels.predict_softmax(Weights.zeros(num_classes, 1), x)
    assert kernels.evaluate_softmax(tiny, x, y) == kernels.evaluate_softmax(Weights.zeros(num_classes, 1), x, y)


@pytest.mark.parametrize(("last", "kept"), [(1.0, 1.0), (BELOW_ONE, 0.0)])
def test_the_output_gradient_is_flushed_after_the_example_weight(last: float, kept: float) -> None:
    """1/2 * 2**-30 * 2**-19 is 2**-50, which is kept; anything less is not."""
    x, y = data([[2.0**20]], [0])
    example_weights = np.array([2.0**-19 * last], dtype=np.float32)
    got, _ = kernels.train_softmax(Weights.zeros(2, 1), x, y, TrainConfig(2.0**-30), example_weights=example_weights)
    assert got == layer([[kept * 2.0**-30], [-kept * 2.0**-30]], [kept * 2.0**-50, -kept * 2.0**-50])


@pytest.mark.parametrize(
    ("rate", "weight", "options"), [(2.0**-30, None, {}), (2.0**-30, 2.0**10, {}), (1.0, 2.0**-30, {"l2": 0.5})]
)
def test_a_tiny_output_gradient_counts_as_zero(rate: float, weight: float | None, options: dict[str, Any]) -> None:
    """p of class 1 is about 2**-22, times 2**-30; at a feature of 2**20 it would move the kernel by 2**-32.

    It is flushed before an example weight of 2**10 could save it.
    """
    start = layer([[0], [0]], [0, -15.25])
    example_weights = None if weight is None else np.array([weight], dtype=np.float32)
    x, y = data([[2.0**20]], [0])
    config = TrainConfig(rate, **options)
    got, _ = kernels.train_softmax(start, x, y, config, example_weights=example_weights)
    assert got == start


@pytest.mark.parametrize(("feature", "moved"), [(2.0**-29, 2.0**-40), (2.0**-30, 0.0)])
def test_the_gradient_of_a_batch_is_flushed(feature: float, moved: float) -> None:
    """1/2 * 2**-20 times the feature is 2**-50 or less; the rate of 2**10 makes it visible."""
    example_weights = np.array([2.0**-20], dtype=np.float32)
    x, y = data([[feature]], [0])
    for clip_norm in (1.0, 1000.0):
        config = TrainConfig(2.0**10, clip_norm=clip_norm)
        got, _ = kernels.train_softmax(Weights.zeros(2, 1), x, y, config, example_weights=example_weights)
        assert got.kernel == layer([[moved], [-moved]], [0, 0]).kernel


def test_a_clipped_gradient_is_flushed() -> None:
    """(2**-22, 1) clipped to 2**-29 leaves 2**-51 of the first, which a rate of 2**20 would make visible."""
    config = TrainConfig(2.0**20, l2=1.0, clip_norm=2.0**-29)
    got, _ = kernels.train_softmax(layer([[2.0**-22, 1]], [0]), *data([[0, 0]], [0]), config)
    assert got == layer([[2.0**-22, 1 - 2.0**-9]], [0])


def test_the_velocity_is_flushed() -> None:
    """The first step brings the weight to 0 with a velocity of 2**-50; a quarter of it is not kept."""
    config = TrainConfig(2.0**10, l2=2.0**-10, momentum=0.25, local_epochs=2)
    got, _ = kernels.train_softmax(layer([[2.0**-40]], [0]), *data([[0]], [0]), config)
    assert got == layer([[0]], [0])


@pytest.mark.parametrize(("feature", "moved"), [(1.0, 2.0**-50), (0.5, 0.0)])
def test_trained_weights_are_flushed(feature: float, moved: float) -> None:
    example_weights = np.array([2.0**-19], dtype=np.float32)
    x, y = data([[feature]], [0])
    got, _ = kernels.train_softmax(Weights.zeros(2, 1), x, y, TrainConfig(2.0**-30), example_weights=example_weights)
    assert got.kernel == layer([[moved], [-moved]], [0, 0]).kernel


@pytest.mark.parametrize(("rate", "weight", "options"), [(2.0**-30, 1.0, {}), (1.0, 2.0**-30, {"momentum": 0.5})])
def test_trained_biases_are_flushed(rate: float, weight: float, options: dict[str, Any]) -> None:
    """Class 1 moves down by 2**-31 and leaves 2**-51."""
    example_weights = np.array([weight], dtype=np.float32)
    start = 2.0**-31 + 2.0**-51
    x, y = data([[0]], [0])
    config = TrainConfig(rate, **options)
    got, _ = kernels.train_softmax(layer([[0], [0]], [start, start]), x, y, config, example_weights=example_weights)
    assert got.bias_view.tolist() == [2.0**-30 + 2.0**-51, 0]


def test_weights_trained_by_a_gradient_are_flushed() -> None:
    """An eighth of 2**-48, which is 2**-51, is left by the penalty."""
    got, _ = kernels.train_softmax(layer([[2.0**-48]], [0]), *data([[0]], [0]), TrainConfig(0.875, l2=1.0))
    assert got == layer([[0]], [0])


# --- Overflow --------------------------------------------------------------------------------------------------------


def test_a_logit_that_overflows_is_an_error_with_its_row() -> None:
    features = np.ones((19, 2), dtype=np.float32)
    features[13] = 3e38
    weights = Weights(2, 2, np.full((2, 2), 3.0, dtype=np.float32).tobytes(), bytes(8))
    for call in calls_with(features, np.zeros(19, dtype=np.int32), weights):
        with pytest.raises(KernelError, match=r"\b13\b"):
            call()


@pytest.mark.parametrize("options", PATHS, ids=["direct", "gradient"])
def test_weights_that_overflow_are_an_error(options: dict[str, Any]) -> None:
    features = np.full((1, 2), 1e38, dtype=np.float32)
    with pytest.raises(KernelError):
        kernels.train_softmax(Weights.zeros(2, 2), features, np.zeros(1, dtype=np.int32), TrainConfig(100.0, **options))


def test_a_clip_factor_too_small_is_an_error() -> None:
    features = np.full((1, 2), 2.0**20, dtype=np.float32)
    labels = np.zeros(1, dtype=np.int32)
    start = Weights.zeros(2, 2)
    kernels.train_softmax(start, features, labels, TrainConfig(0.5, clip_norm=2.0**-9))
    with pytest.raises(KernelError):
        kernels.train_softmax(start, features, labels, TrainConfig(0.5, clip_norm=2.0**-12))


def test_small_standardized_features_become_zero() -> None:
    mean, inverse_spread = np.ones(2, dtype=np.float32), np.full(2, 2.0**-10, dtype=np.float32)
    standardization = Standardization(mean.tobytes(), inverse_spread.tobytes())
    above = 1 + 2.0**-20  # (above - 1) * 2**-10 is exactly 2**-30
    features = np.array([[above, 1 + 2.0**-21], [1 - 2.0**-20, 1]], dtype=np.float32)
    expected = np.array([[2.0**-30, 0], [-(2.0**-30), 0]], dtype=np.float32)
    weights = Weights(2, 2, np.array([[2**30, 2**30], [0, 0]], dtype=np.float32).tobytes(), bytes(8))
    got = kernels.predict_softmax(weights, features, standardization=standardization)
    assert got == kernels.predict_softmax(weights, expected)


def test_a_standardized_feature_that_overflows_is_refused_with_its_row() -> None:
    features, labels = np.ones((19, 2), dtype=np.float32), np.zeros(19, dtype=np.int32)
    features[13, 1] = 3e38
    vectors = np.array([[1, 1], [1, 1e3]], dtype=np.float32)
    how: dict[str, Any] = {"standardization": Standardization(vectors[0].tobytes(), vectors[1].tobytes())}
    start = Weights.zeros(2, 2)
    with pytest.raises(DataError, match=r"\b13\b"):
        kernels.train_softmax(start, features, labels, CONFIG, **how)
    with pytest.raises(DataError, match=r"\b13\b"):
        kernels.evaluate_softmax(start, features, labels, **how)
    with pytest.raises(DataError, match=r"\b13\b"):
        kernels.predict_softmax(start, features, **how)


# --- Buffers ---------------------------------------------------------------------------------------------------------


def read_only(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    copy = values.copy()
    copy.flags.writeable = False
    return copy


@pytest.mark.parametrize("dtype", DTYPES)
def test_any_buffer_gives_the_same_bits_and_no_input_changes(dtype: str) -> None:
    case = make_case(13, 5, dtype)
    code: Any = {"float32": "f", "uint8": "B", "int8": "b"}[dtype]
    example_weights = np.linspace(0.5, 2, NUM_EXAMPLES, dtype=np.float32)

    def shaped(raw: Any) -> Any:
        return memoryview(raw).cast("B").cast(code, shape=[NUM_EXAMPLES, 13])

    forms: list[tuple[Any, Any, Any]] = [
        (case.features, case.labels, example_weights),
        (read_only(case.features), read_only(case.labels), read_only(example_weights)),
        (
            shaped(array.array(code, case.features.tobytes())),
            array.array("i", case.labels.tobytes()),
            array.array("f", example_weights.tobytes()),
        ),
        (
            shaped(case.features.tobytes()),
            memoryview(case.labels.tobytes()).cast("i"),
            memoryview(example_weights.tobytes()).cast("f"),
        ),
    ]
    before = [bytes(memoryview(part).cast("B")) for form in forms for part in form]
    config = TrainConfig(0.5, batch_size=5, local_epochs=2, l2=0.5, momentum=0.5, shuffle_key=KEY)
    how: dict[str, Any] = {"quantization": case.quantization}
    kernel, bias = bytes(bytearray(case.weights.kernel)), bytes(bytearray(case.weights.bias))
    trained = [kernels.train_softmax(case.weights, x, y, config, example_weights=ew, **how) for x, y, ew in forms]
    evaluated = [kernels.evaluate_softmax(case.weights, x, y, **how) for x, y, _ in forms]
    predicted = [kernels.predict_softmax(case.weights, x, **how) for x, _, _ in forms]
    for results in (trained, evaluated, predicted):
        assert all(result == results[0] for result in results)
    assert [bytes(memoryview(part).cast("B")) for form in forms for part in form] == before
    assert (case.weights.kernel, case.weights.bias) == (kernel, bias)


@pytest.mark.parametrize(
    ("features", "labels"),
    [
        (np.ones((4, 3)), np.zeros(4, np.int32)),
        (np.ones((4, 3), np.float32), np.zeros(4, np.int64)),
        (np.ones((4, 3), np.float32), np.zeros(5, np.int32)),
        (np.ones((4, 2), np.float32), np.zeros(4, np.int32)),
        (np.ones(12, np.float32), np.zeros(4, np.int32)),
        (np.ones((4, 6), np.float32)[:, ::2], np.zeros(4, np.int32)),
        (np.ones((4, 3), np.float32, order="F"), np.zeros(4, np.int32)),
    ],
    ids=["float64", "int64 labels", "too many labels", "width", "one dimension", "strided", "column order"],
)
def test_a_buffer_of_another_kind_is_refused(features: npt.NDArray[Any], labels: npt.NDArray[Any]) -> None:
    calls = calls_with(features, labels, Weights.zeros(2, 3))
    for call in calls[:2]:
        with pytest.raises((DataError, ConfigError)):
            call()
