"""Federated statistics against exact rational arithmetic and NumPy."""

from __future__ import annotations

import math
from array import array
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from small_fleet import Array, client, features_of, fleet, pooled

from edgefl import learning
from edgefl.errors import DataError, InvalidUpdateError, LocalProtocolError, UpdateRefusal
from edgefl.learning.statistics import exact_quotient
from edgefl.protocol.messages import Assignment, ClientUpdate, StatisticsWork
from edgefl.types import ClientDataset, DType, Quantization, Standardization

BOUND = 8.0


def mean_of(result: Standardization) -> Array:
    return np.frombuffer(result.mean, np.float32)


def spread_of(result: Standardization) -> Array:
    return 1 / np.frombuffer(result.inverse_spread, np.float32).astype(np.float64)


def one_feature(*clients: list[float]) -> list[ClientDataset]:
    return [
        client(f"client-{i}", np.array(values, np.float32)[:, None], np.zeros(len(values), np.int32))
        for i, values in enumerate(clients)
    ]


def test_mean_and_spread_are_those_of_all_examples_together() -> None:
    clients = fleet(5)
    result = learning.build_fed_statistics(5, BOUND)(clients)
    everything = features_of(pooled(clients)).astype(np.float64)
    np.testing.assert_allclose(mean_of(result), everything.mean(axis=0), atol=3e-8)
    np.testing.assert_allclose(spread_of(result), everything.std(axis=0), rtol=3e-7)


def test_the_sums_are_exact() -> None:
    """Values that the grid holds exactly: the result is the rounded exact one, bit for bit."""
    clients = one_feature([0.25, 0.5, -3.0], [1.0, 2.0], [0.125] * 7)
    values = [Fraction(float(v)) for one in clients for v in features_of(one).ravel()]
    mean = np.float32(float(sum(values) / len(values)))
    result = learning.build_fed_statistics(1, BOUND, max_clients=3, max_weight=10)(clients)
    assert result.mean == mean.tobytes()
    squares = [(v - Fraction(float(mean))) ** 2 for v in values]
    spread = math.sqrt(float(sum(squares) / len(squares)))
    assert np.frombuffer(result.inverse_spread, np.float32)[0] == np.float32(1 / spread)


def test_the_order_of_the_clients_changes_nothing() -> None:
    statistics, clients = learning.build_fed_statistics(5, BOUND), fleet(5)
    assert statistics(clients) == statistics(clients[::-1])


def test_a_small_spread_about_a_large_mean_is_found() -> None:
    values = [100.0 + 2.0**-10 * i for i in range(8)]
    result = learning.build_fed_statistics(1, 128.0, max_clients=2, max_weight=100)(one_feature(values[:3], values[3:]))
    assert mean_of(result)[0] == np.float32(np.mean(values))
    assert spread_of(result)[0] == pytest.approx(np.std(values), rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 5.0, 0.1, -8.0, 2.0**-30])
def test_a_constant_feature_has_spread_one(value: float) -> None:
    result = learning.build_fed_statistics(1, BOUND)(one_feature([value] * 5, [value] * 3))
    assert mean_of(result)[0] == np.float32(value)
    assert spread_of(result)[0] == 1.0


@pytest.mark.parametrize(("distance", "spread"), [(0.5e-6, 1.0), (0.99e-6, 1.0), (1.01e-6, 1.01e-6), (2e-6, 2e-6)])
def test_a_spread_below_a_millionth_counts_as_one(distance: float, spread: float) -> None:
    clients = one_feature([distance] * 4, [-distance] * 4)
    result = learning.build_fed_statistics(1, 2.0**-10, max_clients=2, max_weight=10)(clients)
    assert spread_of(result)[0] == pytest.approx(spread, rel=1e-4)


def test_a_mean_below_the_least_magnitude_becomes_zero() -> None:
    result = learning.build_fed_statistics(1, BOUND)(one_feature([1.0, -1.0 + 2.0**-24], [2.0**-30] * 100))
    assert mean_of(result)[0] > 0
    result = learning.build_fed_statistics(1, 2.0**-10, max_clients=2)(one_feature([2.0**-30], [0.0]))
    assert mean_of(result)[0] == 0.0
    assert math.copysign(1.0, mean_of(result)[0]) == 1.0


def test_quantized_features_are_counted_as_what_they_mean() -> None:
    stored = np.array([[0], [255], [128]], np.uint8)
    meaning = Quantization(scale=0.5, zero_point=128)
    statistics = learning.build_fed_statistics(1, 64.0, dtype=DType.UINT8, quantization=meaning)
    result = statistics([client("a", stored, np.zeros(3), meaning)])
    expected = (stored.astype(np.float64) - 128) * 0.5
    assert mean_of(result)[0] == np.float32(expected.mean())
    assert spread_of(result)[0] == pytest.approx(expected.std(), rel=1e-6)


@pytest.mark.parametrize("bound", [2.0**-20, 1.0, 5.0, 2.0**20])
@pytest.mark.parametrize(("max_clients", "max_weight"), [(1, 1), (3, 7), (1000, 100_000), (2**16, 2**16)])
def test_the_grid_is_as_fine_as_an_int64_allows(bound: float, max_clients: int, max_weight: int) -> None:
    """With as many examples as are allowed, all at the bound, sums come within a factor of 4 of 2**62, not past it."""
    statistics = learning.build_fed_statistics(1, bound, max_clients=max_clients, max_weight=max_weight)
    state = statistics.initialize()
    for largest in (Fraction(bound), (2 * Fraction(bound)) ** 2):
        total = largest * max_clients * max_weight * Fraction(2) ** statistics.grid_shift(state)
        assert Fraction(2**62) / 16 < total <= 2**62
        unit = statistics.aggregator.maximum
        assert largest * Fraction(2) ** statistics.grid_shift(state) <= unit
        state = type(state)(1, b"", bytes(4))


@pytest.mark.parametrize("shift", [-12, 0, 37])
def test_the_quotient_is_rounded_once(shift: int) -> None:
    total, count = 3**38, 7_777_777
    assert exact_quotient(total, count, shift) == float(Fraction(total, count) / Fraction(2) ** shift)


def test_a_feature_beyond_the_bound_is_refused_on_the_device() -> None:
    with pytest.raises(DataError, match="client 'client-1'"):
        learning.build_fed_statistics(1, BOUND)(one_feature([1.0], [2.0, 8.5]))


def test_there_is_no_third_round() -> None:
    statistics, clients = learning.build_fed_statistics(5, BOUND), fleet(2)
    state = statistics.initialize()
    for version in (0, 1):
        assert statistics.standardization(state) is None
        assert state.version == version
        state, metrics = statistics.next(state, clients)
        assert metrics.num_examples == sum(len(one) for one in clients)
    assert statistics.standardization(state) is not None
    with pytest.raises(LocalProtocolError, match="done its 2 rounds"):
        statistics.next(state, clients)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_sum_beyond_its_examples_is_refused_before_it_can_overflow(sign: int) -> None:
    statistics = learning.build_fed_statistics(1, BOUND, max_clients=2**16, max_weight=2**16)
    plan = statistics.plan(statistics.initialize())
    assert isinstance(plan.work, StatisticsWork)
    one = one_feature([BOUND, BOUND])[0]
    update = learning.run_plan(Assignment("s", 1, 0, plan, "", 0, 1.0), b"", one.examples, one.examples, "client-0")
    assert isinstance(update, ClientUpdate)
    largest = array("q", statistics.take("client-0", update).values)[0]
    assert largest == 2 * 8 * 2**plan.work.grid_shift
    statistics.take("client-0", replace(update, payload=array("q", [sign * largest]).tobytes()))
    with pytest.raises(InvalidUpdateError) as caught:
        statistics.take("client-0", replace(update, payload=array("q", [sign * (largest + 1)]).tobytes()))
    assert caught.value.reason is UpdateRefusal.NORM
