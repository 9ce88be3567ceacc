"""Histograms and extremes of features: exact against NumPy and rational arithmetic, in any order, gate and wire."""

from __future__ import annotations

import math
import random
from array import array
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_fleet import client, features_of, fleet, pooled
from wire_kit import PROPERTY

from edgefl import learning
from edgefl.aggregators import Contribution, ExtremeSums, IntegerSum, SumsAndExtremes
from edgefl.errors import ConfigError, InvalidUpdateError, LocalProtocolError, UpdateRefusal
from edgefl.learning.description import as_ordered, bin_edges, describe, from_ordered
from edgefl.protocol.messages import KINDS, Assignment, ClientUpdate, DescriptionWork
from edgefl.protocol.process import ProcessState
from edgefl.protocol.task import StatisticsSpec
from edgefl.types import DType, Examples, Quantization
from edgefl.wire.plan import plan_from_proto, plan_to_proto

BOUND = 8.0
FLOATS = st.floats(-BOUND, BOUND, width=32).filter(lambda x: x == 0 or abs(x) >= 2.0**-30)


def process(bins: int = 6, *, extremes: bool = True) -> learning.StatisticsProcess:
    return learning.build_fed_statistics(5, BOUND, bins=bins, extremes=extremes)


def test_it_is_that_of_all_examples_together() -> None:
    clients = fleet(6)
    everything = features_of(pooled(clients)).astype(np.float64)
    for feature, found in enumerate(process().describe(clients)):
        column = everything[:, feature]
        assert (found.count, found.minimum, found.maximum) == (len(column), column.min(), column.max())
        counts, edges = np.histogram(column, bins=6, range=(-BOUND, BOUND))
        assert found.histogram == tuple(counts.tolist())
        assert found.edges == pytest.approx(edges, rel=1e-15)
        assert found.mean == pytest.approx(column.mean(), abs=1e-9)
        assert found.spread == pytest.approx(column.std(), rel=1e-7)


def test_the_standardization_has_the_same_bits_whether_or_not_more_is_asked_for() -> None:
    clients = fleet(4)
    plain = learning.build_fed_statistics(5, BOUND)
    assert process()(clients) == plain(clients) == process(0)(clients) == process(3, extremes=False)(clients)
    with pytest.raises(LocalProtocolError, match="neither bins nor extremes"):
        plain.describe(clients)


def test_only_what_is_asked_for_is_told() -> None:
    (found, *_) = process(4, extremes=False).describe(fleet(2))
    assert (found.minimum, found.maximum, len(found.histogram)) == (None, None, 4)
    (found, *_) = process(0).describe(fleet(2))
    assert (found.edges, found.histogram) == ((), ())
    assert found.minimum is not None


def test_the_order_of_the_clients_changes_nothing() -> None:
    assert process().describe(fleet(6)) == process().describe(fleet(6)[::-1])


def column(*values: float) -> Examples:
    return client("a", np.array(values, np.float32)[:, None], np.zeros(len(values), np.int32)).examples


@PROPERTY
@given(st.lists(FLOATS | st.sampled_from(bin_edges(BOUND, 6)), min_size=1, max_size=30), st.sampled_from([1, 2, 6, 7]))
def test_every_value_lies_between_the_edges_of_its_bin(values: list[float], bins: int) -> None:
    stored = [float(v) for v in np.array(values, np.float32)]
    told = array("q", describe(column(*values), BOUND, bins, extremes=True))
    edges = [Fraction(edge) for edge in bin_edges(BOUND, bins)]
    expected = [0] * bins
    for value in stored:
        expected[min(bins - 1, sum(edge <= Fraction(value) for edge in edges[1:]))] += 1
    assert list(told[:-2]) == expected
    assert [from_ordered(order) for order in told[-2:]] == [min(stored), max(stored)]


@pytest.mark.parametrize(("dtype", "stored"), [(np.uint8, [0, 200, 255, 7]), (np.int8, [-128, 127, 5, 0])])
def test_quantized_features_are_counted_as_what_they_mean(dtype: type, stored: list[int]) -> None:
    meaning = Quantization(scale=0.1, zero_point=3)
    one = client("a", np.array(stored, dtype)[:, None], np.zeros(4), meaning)
    statistics = learning.build_fed_statistics(
        1, 32.0, dtype=one.examples.dtype, quantization=meaning, bins=5, extremes=True
    )
    values = (np.float32(0.1) * (np.array(stored, np.float32) - np.float32(3))).astype(np.float32)
    (found,) = statistics.describe([one])
    assert one.examples.dtype is (DType.UINT8 if dtype is np.uint8 else DType.INT8)
    assert (found.minimum, found.maximum) == (float(values.min()), float(values.max()))
    assert found.histogram == tuple(np.histogram(values.astype(np.float64), 5, (-32, 32))[0].tolist())


@PROPERTY
@given(st.floats(width=32, allow_nan=False), st.floats(width=32, allow_nan=False))
def test_ordered_integers_compare_as_their_values_do(a: float, b: float) -> None:
    assert (as_ordered(a) < as_ordered(b)) == (a < b)
    assert from_ordered(as_ordered(a)) == a
    assert as_ordered(-0.0) == as_ordered(0.0) == 0


@PROPERTY
@given(st.lists(st.tuples(*[st.integers(-9, 9)] * 3), min_size=1), st.randoms(use_true_random=False))
def test_merging_and_folding_in_any_order_give_the_same(rows: list[tuple[int, ...]], order: random.Random) -> None:
    aggregator = SumsAndExtremes(IntegerSum(1, -9, 9, 1, 1000), 1)
    folders: list[ExtremeSums] = [aggregator.new() for _ in range(3)]
    for row in order.sample(rows, len(rows)):
        aggregator.fold(order.choice(folders), Contribution(array("q", row).tobytes(), 1))
    for other in folders[1:]:
        aggregator.merge(folders[0], other)
    sums, minima, maxima = zip(*rows, strict=True)
    assert aggregator.finalize(folders[0]) == (sum(sums), min(minima), max(maxima))


# --------------------------------------------------------------------------------------------- gate and wire


def honest(statistics: learning.StatisticsProcess) -> ClientUpdate:
    one = fleet(1)[0]
    plan = plan_from_proto(plan_to_proto(statistics.plan(statistics.initialize())))
    update = learning.run_plan(Assignment("s", 1, 0, plan, "", 0, 1.0), b"", one.examples, one.examples, "client-0")
    assert isinstance(update, ClientUpdate)
    return update


NAN = int(np.array([np.nan], np.float32).view(np.int32)[0])


@pytest.mark.parametrize(
    ("index", "change", "reason"),
    [
        (5, 1, UpdateRefusal.MALFORMED),  # one more in a bin
        (5, -(2**40), UpdateRefusal.MALFORMED),
        (4, 2**62, UpdateRefusal.NORM),  # a sum
        (-10, 2**31, UpdateRefusal.NORM),  # a minimum above its maximum
        (-10, -(2**40), UpdateRefusal.NORM),
        (-1, as_ordered(BOUND), UpdateRefusal.NORM),  # a maximum beyond the bound
        (-1, NAN, UpdateRefusal.NORM),
        (-1, 2**62, UpdateRefusal.NORM),
    ],
)
def test_the_gate_refuses_what_no_honest_device_sends(index: int, change: int, reason: UpdateRefusal) -> None:
    statistics = process()
    good = honest(statistics)
    statistics.take("pi-1", good)
    values = array("q", good.payload)
    values[index] += change
    bad = replace(good, payload=values.tobytes())
    with pytest.raises(InvalidUpdateError) as caught:
        statistics.take("pi-1", bad)
    assert caught.value.reason is reason


def test_an_update_without_what_was_asked_for_is_refused() -> None:
    statistics = process()
    with pytest.raises(InvalidUpdateError) as caught:
        statistics.take("pi-1", honest(learning.build_fed_statistics(5, BOUND)))
    assert caught.value.reason is UpdateRefusal.SHAPE


def test_it_is_a_kind_of_its_own_that_agents_without_it_refuse() -> None:
    assert KINDS[DescriptionWork] == "description"
    message = plan_to_proto(process().plan(ProcessState(0, b"")))
    assert message.WhichOneof("work") == "description"
    assert not message.HasField("statistics")


@pytest.mark.parametrize("bins", [-1, 1025])
def test_bins_out_of_range(bins: int) -> None:
    with pytest.raises(ConfigError, match="bins is"):
        StatisticsSpec(1.0, bins)


def test_a_constant_feature_has_no_spread() -> None:
    statistics = learning.build_fed_statistics(1, BOUND, bins=2)
    (found,) = statistics.describe([client("a", np.full((3, 1), 2.5, np.float32), np.zeros(3, np.int32))])
    assert (found.mean, found.spread, found.histogram) == (2.5, 0.0, (0, 3))
    assert not math.isnan(found.spread)
