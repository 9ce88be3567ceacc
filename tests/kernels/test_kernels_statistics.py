"""Counting and adding: evaluation, the exact accumulator (design §4.4), norms, deltas and feature sums."""

from __future__ import annotations

import array
import itertools
import random
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
import numpy_twin as twin
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefl import kernels
from edgefl.errors import ConfigError, DataError, KernelError
from edgefl.types import Quantization, Weights

F32 = npt.NDArray[np.float32]

# --- Evaluation ------------------------------------------------------------------------------------------------------


def small_integers(num_features: int, num_classes: int, count: int) -> tuple[F32, F32, F32, npt.NDArray[np.int32]]:
    """Kernel, bias, features and labels so small that logits are exact, and tie often."""
    rng = np.random.default_rng([num_features, num_classes])
    parts = [(num_classes, num_features), (num_classes,), (count, num_features)]
    kernel, bias, features = (rng.integers(-2, 3, size=shape).astype(np.float32) for shape in parts)
    return kernel, bias, features, rng.integers(0, num_classes, size=count, dtype=np.int32)


@pytest.mark.parametrize(("num_features", "num_classes"), [(1, 1), (3, 2), (5, 7), (40, 10)])
def test_evaluation_counts_as_numpy_counts(num_features: int, num_classes: int) -> None:
    kernel, bias, features, labels = small_integers(num_features, num_classes, 203)
    stats = kernels.evaluate_softmax(
        Weights(num_classes, num_features, kernel.tobytes(), bias.tobytes()), features, labels
    )
    z = features.astype(np.float64) @ kernel.T.astype(np.float64) + bias
    confusion = np.zeros((num_classes, num_classes), dtype=np.int64)
    np.add.at(confusion, (labels, np.argmax(z, axis=1)), 1)  # argmax: the lowest of equals
    assert list(stats.confusion) == confusion.ravel().tolist()
    assert stats.num_correct == int(np.trace(confusion))
    assert stats.num_examples == 203
    shifted = z - z.max(axis=1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(axis=1)) - shifted[np.arange(203), labels]
    np.testing.assert_allclose(stats.loss_sum, losses.sum(), rtol=1e-6, atol=1e-12)


def test_a_tie_goes_to_the_lowest_class() -> None:
    kernel = np.zeros((4, 1), dtype=np.float32)
    weights = Weights(4, 1, kernel.tobytes(), np.array([0, 1, 1, 1], dtype=np.float32).tobytes())
    stats = kernels.evaluate_softmax(weights, np.ones((2, 1), dtype=np.float32), np.array([2, 1], dtype=np.int32))
    assert tuple(stats.confusion) == (0, 0, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)
    assert stats.num_correct == 1


def test_predicted_probabilities_are_close_to_the_softmax_and_sum_to_one() -> None:
    kernel, bias, features, _ = small_integers(20, 10, 50)
    raw = kernels.predict_softmax(Weights(10, 20, kernel.tobytes(), bias.tobytes()), features)
    got = np.frombuffer(raw, dtype=np.float32).reshape(50, 10)
    z = features.astype(np.float64) @ kernel.T + bias
    e = np.exp(z - z.max(axis=1, keepdims=True))
    want = e / e.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(got, np.where(want < np.exp(-40), 0, want), rtol=1e-6, atol=1e-17)
    np.testing.assert_allclose(got.sum(axis=1, dtype=np.float64), 1, rtol=1e-6)


# --- The accumulator -------------------------------------------------------------------------------------------------

SHIFT = 28  # a norm bound of 4: 30 - 2
SIZE = 101


def updates(count: int) -> list[tuple[F32, int]]:
    rng = np.random.default_rng(count)
    return [(rng.normal(size=SIZE).astype(np.float32) / 4, int(rng.integers(1, 1000))) for _ in range(count)]


def fold(pairs: list[tuple[F32, int]]) -> array.array[int]:
    sums = array.array("q", bytes(8 * SIZE))
    for delta, weight in pairs:
        kernels.accumulate(sums, delta, weight, SHIFT)
    return sums


def test_the_sums_do_not_depend_on_order_or_on_where_they_are_split() -> None:
    pairs = updates(24)
    want = [0] * SIZE
    for delta, weight in pairs:
        want = [s + q * weight for s, q in zip(want, twin.grid_values(delta, SHIFT), strict=True)]
    shuffler = random.Random(1)
    for cut in (0, 1, 7, 24):
        shuffler.shuffle(pairs)
        first, second = fold(pairs[:cut]), fold(pairs[cut:])
        kernels.add_sums(first, second)
        assert first.tolist() == want


def test_the_mean_is_within_a_grid_step_of_the_exact_mean() -> None:
    pairs = updates(50)
    total = sum(weight for _, weight in pairs)
    raw = kernels.finalize_mean(fold(pairs), total, SHIFT)
    for j, mean in enumerate(np.frombuffer(raw, dtype=np.float64)):
        exact = sum((Fraction(float(delta[j])) * weight for delta, weight in pairs), Fraction()) / total
        assert abs(Fraction(float(mean)) - exact) <= Fraction(1, 2**SHIFT)


def test_a_weight_equals_a_repetition() -> None:
    [(delta, _)] = updates(1)
    assert fold([(delta, 3)]) == fold([(delta, 1)] * 3)


def test_the_grid_rounds_halves_to_even_and_takes_the_clip_factor_first() -> None:
    step = 2.0**-SHIFT
    delta = np.array([0.5, 1.5, -0.5, -2.5, 3, 0.75, -0.0], dtype=np.float32) * np.float32(step)
    sums = array.array("q", bytes(8 * len(delta)))
    kernels.accumulate(sums, delta, 1, SHIFT)
    assert sums.tolist() == [0, 2, 0, -2, 3, 1, 0]
    kernels.accumulate(sums, delta, 10, SHIFT, 0.5)
    assert sums.tolist() == [0 + 0, 2 + 10, 0, -2 - 10, 3 + 20, 1 + 0, 0]


@settings(max_examples=80, deadline=None, derandomize=True)
@given(
    st.lists(st.floats(-0.25, 0.25, width=32), min_size=1, max_size=40),
    st.integers(0, 32),
    st.floats(0, 1),
    st.integers(1, 2**32),
)
def test_any_update_equals_the_twin(values: list[float], shift: int, factor: float, weight: int) -> None:
    delta = np.array(values, dtype=np.float32)
    sums = array.array("q", bytes(8 * len(values)))
    kernels.accumulate(sums, delta, weight, shift, factor)
    assert sums.tolist() == [q * weight for q in twin.grid_values(delta, shift, factor)]
    got = kernels.finalize_mean(sums, weight, shift)
    assert got == twin.finalize_mean(sums.tolist(), weight, shift)


def filled(value: int) -> array.array[int]:
    return array.array("q", [value] * 7)


def test_the_largest_grid_value_and_weight_are_taken() -> None:
    for sign in (1, -1):
        sums = filled(0)
        kernels.accumulate(sums, np.full(7, sign * 4.0, dtype=np.float32), 2**32, SHIFT)
        assert sums.tolist() == [sign * 2**62] * 7
        raw = kernels.finalize_mean(sums, 2**32, SHIFT)
        assert np.frombuffer(raw, dtype=np.float64).tolist() == [sign * 4.0] * 7


@pytest.mark.parametrize(
    ("value", "factor"),
    [
        (np.nextafter(np.float32(4), np.float32(5)), 1.0),
        (-4.0, 1 + 2.0**-30),
        (3e38, 1.0),
        (np.nan, 1.0),
        (np.inf, 1.0),
    ],
)
def test_a_value_off_the_grid_is_refused_with_its_index_and_changes_nothing(value: float, factor: float) -> None:
    delta = np.full(7, 0.5, dtype=np.float32)
    delta[5] = value
    sums = filled(9)
    with pytest.raises(DataError, match=r"\b5\b"):
        kernels.accumulate(sums, delta, 1, SHIFT, factor)
    assert sums == filled(9)


@pytest.mark.parametrize("sign", [1, -1])
def test_sums_that_would_overflow_are_refused(sign: int) -> None:
    """From 2**62 + 1 one more step of 2**62 passes 2**63 on either side."""
    step = np.full(7, sign * 4.0, dtype=np.float32)
    sums = filled(sign * (2**62 + 1))
    with pytest.raises((DataError, KernelError)):
        kernels.accumulate(sums, step, 2**32, SHIFT)
    with pytest.raises((DataError, KernelError)):
        kernels.add_sums(sums, filled(sign * 2**62))
    assert sums == filled(sign * (2**62 + 1))


@pytest.mark.parametrize("weight", [0, -1, 2**32 + 1, 2**70])
def test_a_weight_out_of_range_is_refused(weight: int) -> None:
    sums = filled(9)
    with pytest.raises((DataError, ConfigError)):
        kernels.accumulate(sums, np.zeros(7, dtype=np.float32), weight, SHIFT)
    assert sums == filled(9)


def test_sizes_and_kinds_that_do_not_fit_are_refused() -> None:
    bad: list[Any] = [
        lambda: kernels.accumulate(filled(0), np.zeros(6, dtype=np.float32), 1, SHIFT),
        lambda: kernels.accumulate(filled(0), np.zeros(7, dtype=np.float64), 1, SHIFT),
        lambda: kernels.accumulate(array.array("i", [0] * 7), np.zeros(7, dtype=np.float32), 1, SHIFT),
        lambda: kernels.add_sums(filled(0), array.array("q", [0] * 6)),
        lambda: kernels.finalize_mean(filled(0), 0, SHIFT),
        lambda: kernels.subtract(np.zeros(7, dtype=np.float32), np.zeros(6, dtype=np.float32)),
        lambda: kernels.apply_update(np.zeros(7, dtype=np.float32), np.zeros(6), 1.0),
        lambda: kernels.apply_update(np.zeros(7, dtype=np.float32), np.zeros(7, dtype=np.float32), 1.0),
    ]
    for call in bad:
        with pytest.raises((DataError, ConfigError)):
            call()


def test_sums_must_be_writable_and_the_other_operand_stays() -> None:
    with pytest.raises((DataError, ConfigError)):
        kernels.accumulate(memoryview(bytes(56)).cast("q"), np.zeros(7, dtype=np.float32), 1, SHIFT)
    delta, other = np.ones(7, dtype=np.float32), filled(3)
    delta.flags.writeable = False
    sums = np.zeros(7, dtype=np.int64)
    kernels.accumulate(sums, delta, 2, SHIFT)
    kernels.add_sums(sums, other)
    assert sums.tolist() == [2 * 2**28 + 3] * 7
    assert other == filled(3)


# --- Vectors ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 7, 8, 15, 16, 17, 31, 33, 1000, 7850])
def test_squared_norms_equal_the_twin_in_any_buffer(size: int) -> None:
    values = (np.random.default_rng(size).normal(size=size) * 1e10).astype(np.float32)
    want = twin.squared_norm(values)
    for form in (values, array.array("f", values.tobytes()), memoryview(values.tobytes()).cast("f")):
        assert kernels.squared_norm(form) == want
    exact = sum(Fraction(float(v)) ** 2 for v in values)
    assert abs(Fraction(want) - exact) <= exact * size * Fraction(1, 2**53)


def test_the_first_value_that_is_not_finite_is_found() -> None:
    for size, at, value in itertools.product([1, 16, 33, 100], [0, 5, 32, 99], [np.nan, np.inf, -np.inf]):
        values = np.full(size, 3e38, dtype=np.float32)
        assert kernels.first_non_finite(values) == -1
        if at < size:
            values[at:] = value
            assert kernels.first_non_finite(values) == at


def test_a_difference_is_that_of_float32() -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.normal(size=103).astype(np.float32) for _ in range(2))
    b[:5] = a[:5]
    assert kernels.subtract(a, b) == (a - b).tobytes()
    assert kernels.subtract(memoryview(a.tobytes()).cast("f"), array.array("f", b.tobytes())) == (a - b).tobytes()


def test_an_update_is_added_in_binary64_and_rounded_once() -> None:
    rng = np.random.default_rng(1)
    model, update = rng.normal(size=103).astype(np.float32), rng.normal(size=103)
    for rate in (1.0, 0.1, -3.7):
        assert kernels.apply_update(model, update, rate) == twin.apply_update(model, update, rate)
    # 1 + 2**-24 is a tie of float32; what lies beyond it only binary64 sees.
    ties = kernels.apply_update(np.ones(2, dtype=np.float32), np.array([2.0**-24, 2.0**-24 + 2.0**-50]), 1.0)
    assert ties == np.array([1, 1 + 2.0**-23], dtype=np.float32).tobytes()
    # rate * update is rounded before the sum: to 3 + 4 * 2**-52. Fused, 3 * 2**-52 would be left, and be flushed.
    product = kernels.apply_update(np.array([-3], dtype=np.float32), np.array([1 + 2.0**-52]), 3.0)
    assert product == np.array([2.0**-50], dtype=np.float32).tobytes()


def test_an_updated_model_is_flushed_and_finite() -> None:
    model = np.array([1, 1, -0.0, 2.0**-50], dtype=np.float32)
    update = np.array([-1 + 2.0**-50, -1 + 2.0**-51, 0, 0])
    assert kernels.apply_update(model, update, 1.0) == np.array([2.0**-50, 0, 0, 2.0**-50], dtype=np.float32).tobytes()
    for bad in (1e39, -1e300, np.nan, np.inf):
        with pytest.raises(KernelError):
            kernels.apply_update(model, np.array([0, 0, bad, 0]), 1.0)


# --- Feature sums ----------------------------------------------------------------------------------------------------

QUANTIZED = [("float32", None), ("uint8", Quantization(0.0123, 3)), ("int8", Quantization(0.5, -7)), ("int8", None)]


@pytest.mark.parametrize("num_features", [1, 13, 75, 784])
@pytest.mark.parametrize(("dtype", "quantization"), QUANTIZED)
def test_feature_sums_equal_the_twin(dtype: str, quantization: Quantization | None, num_features: int) -> None:
    rng = np.random.default_rng(num_features)
    features = (rng.normal(size=(57, num_features)) * 20).astype(dtype)
    center = rng.normal(size=num_features).astype(np.float32)
    for c, shift in itertools.product([None, center], [0, 20, 40]):
        raw = kernels.feature_sums(features, grid_shift=shift, bound=1e4, center=c, quantization=quantization)
        want = twin.feature_sums(features, grid_shift=shift, center=c, quantization=quantization)
        assert np.frombuffer(raw, dtype="<i8").tolist() == want.tolist()


def test_feature_sums_are_the_exact_sums_when_binary64_holds_them() -> None:
    """Multiples of 1/8 sum exactly; at a shift of 1 the grid then rounds a half to even, once, at the end."""
    rng = np.random.default_rng(2)
    features = (rng.integers(-800, 800, size=(41, 13)) / 8).astype(np.float32)
    center = (rng.integers(-8, 8, size=13) / 8).astype(np.float32)
    for shift in (0, 1, 20):
        plain = kernels.feature_sums(features, grid_shift=shift, bound=100)
        squares = kernels.feature_sums(features, grid_shift=shift, bound=100, center=center)
        for f in range(13):
            column = [Fraction(float(x)) for x in features[:, f]]
            distances = [(x - Fraction(float(center[f]))) ** 2 for x in column]
            assert np.frombuffer(plain, dtype="<i8")[f] == round(sum(column) * 2**shift)
            assert np.frombuffer(squares, dtype="<i8")[f] == round(sum(distances) * 2**shift)


@pytest.mark.parametrize("value", [8.5, -8.5, np.nan, np.inf])
def test_a_feature_beyond_the_bound_is_refused_with_its_place(value: float) -> None:
    features = np.full((29, 23), 8.0, dtype=np.float32)
    kernels.feature_sums(features, grid_shift=10, bound=8.0)
    features[17, 21] = value
    for center in (None, np.zeros(23, dtype=np.float32)):
        with pytest.raises(DataError, match=r"\b17\b.*\b21\b"):
            kernels.feature_sums(features, grid_shift=10, bound=8.0, center=center)


def test_the_bound_is_that_of_the_value_not_of_the_stored_integer() -> None:
    features = np.full((2, 1), 200, dtype=np.uint8)
    raw = kernels.feature_sums(features, grid_shift=0, bound=50.0, quantization=Quantization(0.25, 0))
    assert np.frombuffer(raw, dtype="<i8").tolist() == [100]
    with pytest.raises(DataError):
        kernels.feature_sums(features, grid_shift=0, bound=49.0, quantization=Quantization(0.25, 0))


def test_a_sum_beyond_the_grid_is_refused() -> None:
    features = np.full((4, 1), 2.0**20, dtype=np.float32)
    assert kernels.feature_sums(features, grid_shift=40, bound=2.0**20) == (2**62).to_bytes(8, "little")
    more = np.full((5, 1), 2.0**20, dtype=np.float32)
    with pytest.raises(DataError):
        kernels.feature_sums(more, grid_shift=40, bound=2.0**20)


@pytest.mark.parametrize("shift", [0, 1, 3])
def test_sums_that_share_memory_with_what_is_added_are_refused(shift: int) -> None:
    """The values would be read after some of them were changed, and how many, would depend on the variant."""
    whole = memoryview(bytearray(8 * 7 + 8))
    sums, before = whole[:56].cast("q"), bytes(whole)
    for call in (
        lambda: kernels.accumulate(sums, whole[4 * shift : 4 * shift + 28].cast("f"), 1, SHIFT),
        lambda: kernels.accumulate(sums, whole[28 : 28 + 28].cast("f"), 1, SHIFT),
        lambda: kernels.add_sums(whole[8:].cast("q"), whole[:56].cast("q")),
    ):
        with pytest.raises(DataError, match="share memory"):
            call()
        assert bytes(whole) == before


def test_neighbours_share_no_memory_and_sums_may_be_doubled() -> None:
    whole = memoryview(bytearray(56 + 28))
    sums = whole[:56].cast("q")
    whole[56:].cast("f")[6] = 1.0
    kernels.accumulate(sums, whole[56:].cast("f"), 1, SHIFT)
    kernels.add_sums(sums, sums)
    assert sums.tolist() == [0] * 6 + [2 << SHIFT]
    kernels.accumulate(array.array("q"), array.array("f"), 1, SHIFT)
