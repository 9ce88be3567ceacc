"""Aggregation is exact, and no order of folding or merging changes a bit. Source: design §4.4."""

from __future__ import annotations

import math
from array import array
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefl.aggregators import MAX_TOTAL_WEIGHT, Contribution, IntegerSum, Sums, training_aggregator
from edgefl.aggregators.weighted_mean import WeightedMean
from edgefl.errors import ConfigError, InvalidUpdateError, LocalProtocolError, UpdateRefusal
from edgefl.sums.grid import ceil_log2

NUM_VALUES = 21  # more than one block of 16 lanes, and a tail


def deltas(count: int, seed: int, scale: float = 0.5) -> list[Contribution]:
    rng = np.random.default_rng(seed)
    values = (rng.normal(size=(count, NUM_VALUES)) * scale).astype(np.float32)
    weights = rng.integers(1, 1000, count)
    return [Contribution(v.tobytes(), int(w), int(w), int(w) // 2, 3) for v, w in zip(values, weights, strict=True)]


def folded(aggregator: WeightedMean | IntegerSum, contributions: list[Contribution]) -> Sums:
    sums = aggregator.new()
    for contribution in contributions:
        aggregator.check(contribution)
        aggregator.fold(sums, contribution)
    return sums


def refusal(aggregator: WeightedMean | IntegerSum, contribution: Contribution) -> UpdateRefusal:
    with pytest.raises(InvalidUpdateError) as caught:
        aggregator.check(contribution)
    return caught.value.reason


def grid_integer(value: float, shift: int, factor: float) -> int:
    """Round half to even of the binary64 product: ``round`` of a Fraction is exact and rounds half to even."""
    return round(Fraction(math.ldexp(value, shift) * factor))


def oracle(contributions: list[Contribution], shift: int, clip_norm: float = 0.0) -> list[float]:
    """The definition in exact arithmetic, but for the two roundings that it states."""
    total = [0] * NUM_VALUES
    for contribution in contributions:
        values = memoryview(contribution.values).cast("f")
        norm = math.sqrt(math.fsum(v * v for v in values))
        factor = clip_norm / norm if clip_norm and norm > clip_norm else 1.0
        for j, value in enumerate(values):
            total[j] += contribution.weight * grid_integer(value, shift, factor)
    weight = sum(c.weight for c in contributions)
    return [float(Fraction(float(t) / float(weight)) / Fraction(2) ** shift) for t in total]


@pytest.mark.parametrize(("bound", "shift"), [(64.0, 24), (64.00001, 23), (1.0, 30), (2.0**-20, 50), (2.0**30, 0)])
def test_the_grid_follows_from_the_norm_bound_rounded_up(bound: float, shift: int) -> None:
    assert WeightedMean(1, bound, 0.0, 1).grid_shift == shift


@given(st.floats(2.0**-40, 2.0**40))
def test_ceil_log2_is_the_least_power_that_holds_the_value(value: float) -> None:
    exponent = ceil_log2(value)
    assert 2.0 ** (exponent - 1) < value <= 2.0**exponent


def test_the_unweighted_mean_counts_every_client_once() -> None:
    contributions = deltas(7, seed=2)
    aggregator = training_aggregator(
        "unweighted_mean", num_values=NUM_VALUES, norm_bound=16.0, clip_norm=1.5, max_weight=1000
    )
    once = [replace(c, weight=1) for c in contributions]
    sums = aggregator.new()
    for contribution in contributions:
        aggregator.check(contribution)
        aggregator.fold(sums, contribution)
    assert list(memoryview(aggregator.finalize(sums)).cast("d")) == oracle(once, 26, clip_norm=1.5)
    assert (sums.total_weight, sums.num_reports) == (7, 7)
    assert sums.num_examples == sum(c.weight for c in contributions)
    with pytest.raises(InvalidUpdateError, match="example weight is 1001"):  # what it reports is still checked
        aggregator.check(replace(contributions[0], weight=1001))


@pytest.mark.parametrize("bound", [16.0, 5.0, 2.0**30])
def test_the_weighted_mean_is_the_exact_one(bound: float) -> None:
    aggregator = WeightedMean(NUM_VALUES, bound, 0.0, 1000)
    contributions = deltas(9, seed=1)
    mean = memoryview(aggregator.finalize(folded(aggregator, contributions))).cast("d")
    assert list(mean) == oracle(contributions, aggregator.grid_shift)


def test_the_grid_costs_less_than_a_float64_mean_would_show() -> None:
    aggregator = WeightedMean(NUM_VALUES, 16.0, 0.0, 1000)
    contributions = deltas(9, seed=2)
    mean = np.frombuffer(aggregator.finalize(folded(aggregator, contributions)))
    values = np.array([np.frombuffer(c.values, np.float32) for c in contributions], np.float64)
    expected = np.average(values, axis=0, weights=[c.weight for c in contributions])
    assert np.abs(mean - expected).max() <= 2.0 ** -(aggregator.grid_shift + 1)


def test_a_longer_delta_is_scaled_down_to_the_clip_norm_and_a_shorter_one_is_not() -> None:
    aggregator = WeightedMean(NUM_VALUES, 16.0, 1.0, 1000)
    contributions = [*deltas(3, seed=3, scale=2.0), *deltas(3, seed=4, scale=0.01)]
    mean = aggregator.finalize(folded(aggregator, contributions))
    np.testing.assert_allclose(
        np.frombuffer(mean), oracle(contributions, aggregator.grid_shift, 1.0), rtol=0, atol=2**-27
    )
    single = np.frombuffer(aggregator.finalize(folded(aggregator, contributions[:1])))
    assert np.linalg.norm(single) == pytest.approx(1.0, abs=1e-7)


@settings(max_examples=30, deadline=None)
@given(order=st.permutations(range(8)), cut=st.integers(0, 8))
def test_no_order_of_folding_or_merging_changes_a_bit(order: list[int], cut: int) -> None:
    aggregator = WeightedMean(NUM_VALUES, 16.0, 1.0, 1000)
    contributions = deltas(8, seed=5)
    shuffled = [contributions[i] for i in order]
    left, right = folded(aggregator, shuffled[:cut]), folded(aggregator, shuffled[cut:])
    aggregator.merge(right, left)
    assert right == folded(aggregator, contributions)


def test_a_weight_equals_a_repetition() -> None:
    aggregator = WeightedMean(NUM_VALUES, 16.0, 0.0, 1000)
    one, other = deltas(2, seed=6)
    weighted = [Contribution(one.values, 3), Contribution(other.values, 1)]
    repeated = [Contribution(one.values, 1)] * 3 + [Contribution(other.values, 1)]
    assert aggregator.finalize(folded(aggregator, weighted)) == aggregator.finalize(folded(aggregator, repeated))


def test_the_largest_coordinate_times_the_largest_weight_does_not_overflow() -> None:
    aggregator = WeightedMean(1, 64.0, 0.0, MAX_TOTAL_WEIGHT)
    largest = Contribution(array("f", [-64.0]).tobytes(), MAX_TOTAL_WEIGHT)
    sums = folded(aggregator, [largest])
    assert list(sums.values) == [-(2**62)]
    assert aggregator.finalize(sums) == array("d", [-64.0]).tobytes()
    before = list(sums.values)
    with pytest.raises(LocalProtocolError, match="at most 4294967296"):
        aggregator.fold(sums, Contribution(array("f", [1.0]).tobytes(), 1))
    assert list(sums.values) == before
    assert sums.num_reports == 1


@pytest.mark.parametrize("weight", [0, -1, 1001, 2**40, True, 1.0, None])
def test_a_weight_that_is_no_integer_in_range_is_refused(weight: object) -> None:
    contribution = Contribution(bytes(4 * NUM_VALUES), weight)  # type: ignore[arg-type]
    assert refusal(WeightedMean(NUM_VALUES, 1.0, 0.0, 1000), contribution) is UpdateRefusal.WEIGHT
    contribution = Contribution(bytes(8 * NUM_VALUES), weight)  # type: ignore[arg-type]
    assert refusal(IntegerSum(NUM_VALUES, 0, 1, 1000, 1000), contribution) is UpdateRefusal.WEIGHT


def test_the_norm_bound_itself_is_taken_and_the_next_float_is_refused() -> None:
    aggregator = WeightedMean(2, 5.0, 0.0, 10)
    aggregator.check(Contribution(array("f", [3.0, 4.0]).tobytes(), 1))
    above = float(np.nextafter(np.float32(4.0), np.float32(5.0)))
    assert refusal(aggregator, Contribution(array("f", [3.0, above]).tobytes(), 1)) is UpdateRefusal.NORM
    assert refusal(aggregator, Contribution(array("f", [3.0e38, 0.0]).tobytes(), 1)) is UpdateRefusal.NORM


@pytest.mark.parametrize("place", [0, NUM_VALUES - 1])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["weighted_mean", "unweighted_mean"])
def test_a_delta_that_is_not_finite_is_refused(name: str, value: float, place: int) -> None:
    """The gate finds it before; an aggregator that is called from Python has only this check."""
    mean = training_aggregator(name, num_values=NUM_VALUES, norm_bound=2.0, clip_norm=0.0, max_weight=10, options={})
    values = array("f", [0.0]) * NUM_VALUES
    values[place] = value
    with pytest.raises(InvalidUpdateError, match=r"the L2 norm is (nan|inf) .*; expected at most 2.0 ") as caught:
        mean.check(Contribution(values.tobytes(), 1))
    assert caught.value.reason is UpdateRefusal.NORM


ONE_AND_AN_ULP = float(np.nextafter(np.float32(1.0), np.float32(2.0)))


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([ONE_AND_AN_ULP], "1.0000001192092896 (squared: 1.0000002384185933)"),
        ([1.0, 2.0**-26], "1.0 (squared: 1.0000000000000002)"),  # the root is the bound itself
    ],
)
def test_a_refused_norm_is_told_in_enough_digits(values: list[float], found: str) -> None:
    """What is found and what is expected must not read alike."""
    with pytest.raises(InvalidUpdateError) as caught:
        WeightedMean(len(values), 1.0, 0.0, 10).check(Contribution(array("f", values).tobytes(), 1))
    assert str(caught.value) == f"the L2 norm is {found}; expected at most 1.0 (squared: 1.0)"


def test_the_largest_norm_that_passes_the_gate_can_always_be_folded() -> None:
    for bound in (1.0, 3.0, 64.0, 2.0**-20):
        aggregator = WeightedMean(1, bound, 0.0, 10)
        folded(aggregator, [Contribution(array("f", [bound]).tobytes(), 10)])


def test_integer_sums_are_plain_sums_with_their_counts() -> None:
    aggregator = IntegerSum(3, 0, 1, 100, 1000)
    parts = [Contribution(array("q", [i, 2, 0]).tobytes(), 10, 10, i, 5) for i in (1, 2, 3)]
    sums = folded(aggregator, parts)
    assert aggregator.finalize(sums) == (6, 6, 0)
    counts = (sums.total_weight, sums.num_reports, sums.num_examples, sums.num_correct, sums.loss_grid)
    assert counts == (30, 3, 30, 6, 15)


@pytest.mark.parametrize("value", [11, -1, 2**63 - 1, -(2**63)])
def test_a_sum_out_of_reach_of_its_examples_is_refused(value: int) -> None:
    contribution = Contribution(array("q", [0, value, 0]).tobytes(), 10)
    assert refusal(IntegerSum(3, 0, 1, 100, 1000), contribution) is UpdateRefusal.NORM


def test_integer_sums_refuse_bounds_that_could_overflow_and_folds_past_them() -> None:
    with pytest.raises(ConfigError, match="at most 2\\*\\*62"):
        IntegerSum(1, -(2**31), 2**31, 100, 2**31 + 1)
    aggregator = IntegerSum(1, -(2**31), 2**31, 2**31, 2**31)
    sums = folded(aggregator, [Contribution(array("q", [-(2**62)]).tobytes(), 2**31)])
    with pytest.raises(LocalProtocolError, match="expected at most 2147483648"):
        aggregator.merge(sums, folded(aggregator, [Contribution(bytes(8), 1)]))
    assert list(sums.values) == [-(2**62)]


def test_nothing_folded_gives_no_mean() -> None:
    with pytest.raises(LocalProtocolError, match="at least one"):
        WeightedMean(1, 1.0, 0.0, 1).finalize(Sums.zeros(1))
    with pytest.raises(LocalProtocolError, match="at least one"):
        IntegerSum(1, 0, 1, 1, 1).finalize(Sums.zeros(1))


def test_an_unknown_aggregator_says_what_there_is() -> None:
    with pytest.raises(ConfigError, match="'median'; expected one of unweighted_mean, weighted_mean"):
        training_aggregator("median", num_values=1, norm_bound=1.0, clip_norm=0.0, max_weight=1)
