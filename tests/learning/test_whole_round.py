"""Aggregators that need all updates of a round: what they get, in which order, and how much memory they may ask for."""

from __future__ import annotations

import random
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest

import edgefl
from edgefl import learning, optimizers
from edgefl.aggregators import MAX_RECORDED_BYTES, Contribution, Sums, WholeRound
from edgefl.errors import ConfigError, LocalProtocolError
from edgefl.types import ClientDataset, Examples, RoundKey

MODEL = edgefl.SoftmaxModel(num_features=2, num_classes=2)
NUM_VALUES = MODEL.num_parameters


@dataclass(frozen=True)
class First(WholeRound):
    """The delta of the device whose name comes first. ``seen``: what ``combine`` got, for the test."""

    seen: list[Sequence[Contribution]]

    def combine(self, contributions: Sequence[Contribution]) -> bytes:
        self.seen.append(contributions)
        return array("d", memoryview(contributions[0].values).cast("f")).tobytes()


@dataclass(frozen=True)
class Short(WholeRound):
    def combine(self, contributions: Sequence[Contribution]) -> bytes:
        return contributions[0].values


def contribution(name: str) -> Contribution:
    values = array("f", [random.Random(name).uniform(-1, 1) for _ in range(NUM_VALUES)])
    return Contribution(values.tobytes(), len(name), 1, 1, 2, device=name, key=RoundKey(3, 1))


def client(name: str, size: int) -> ClientDataset:
    chance = random.Random(name)
    features = array("f", [chance.randrange(-8, 9) / 8 for _ in range(2 * size)])
    return ClientDataset(name, Examples(2, features.tobytes(), array("i", [n % 2 for n in range(size)]).tobytes()))


def training(aggregator: WholeRound, goal: int = 4) -> learning.TrainingProcess:
    usual = learning.build_weighted_fed_avg(MODEL, optimizers.sgd(0.3), seed=3)
    spec = replace(usual.spec, round=replace(usual.spec.round, goal=goal, minimum=1))
    return replace(usual, spec=spec, aggregator=aggregator)


def test_every_contribution_is_combined_once_in_the_order_of_the_devices() -> None:
    first = First(NUM_VALUES, 64.0, 0.0, 1000, [])
    names = ["pi-2", "pi-10", "a", "pi-1"]
    for order in (names, names[::-1]):
        sums, other = first.new(), first.new()
        for name in order[:2]:
            first.fold(sums, contribution(name))
        for name in order[2:]:
            first.fold(other, contribution(name))
        first.merge(sums, other)
        assert (sums.num_reports, sums.total_weight, sums.loss_grid) == (4, sum(map(len, names)), 8)
        assert first.finalize(sums) == array("d", memoryview(contribution("a").values).cast("f")).tobytes()
    assert first.seen == [[contribution(name) for name in sorted(names)]] * 2


def test_it_trains_and_is_told_of_which_device_and_round_each_delta_is() -> None:
    first = First(NUM_VALUES, 64.0, 0.0, 1000, [])
    train = training(first)
    clients = [client(f"pi-{n}", n + 2) for n in (3, 1, 2)]
    state, _ = train.next(train.initialize(), clients)
    state, metrics = train.next(state, clients[::-1])
    (_, second) = first.seen
    assert [(one.device, one.key, one.weight) for one in second] == [
        (f"pi-{n}", RoundKey(3, 2), n + 2) for n in (1, 2, 3)
    ]
    assert (state.version, metrics.num_reports, metrics.total_weight) == (2, 3, 12)


def test_a_task_whose_round_does_not_fit_into_memory_is_refused_when_it_is_created() -> None:
    most = MAX_RECORDED_BYTES // (4 * 10_000)
    first = First(10_000, 64.0, 0.0, 1000, [])
    training(first, most).initialize()
    message = (
        rf"round.goal is {most + 1}, and First keeps every update of a round: .* expected at most 268435456: "
        rf"lower round.goal to {most}, or choose one that only adds"
    )
    with pytest.raises(ConfigError, match=message):
        training(first, most + 1).initialize()


def test_what_it_cannot_do_is_said() -> None:
    with pytest.raises(ConfigError, match=r"clip_norm is 1.0, and First does not clip; expected 0"):
        First(NUM_VALUES, 64.0, 1.0, 1000, [])
    first = First(NUM_VALUES, 64.0, 0.0, 1000, [])
    with pytest.raises(LocalProtocolError, match="no updates to combine"):
        first.finalize(first.new())
    with pytest.raises(LocalProtocolError, match="sums of type Sums; expected RecordedSums"):
        first.fold(Sums.zeros(NUM_VALUES), contribution("a"))
    short = Short(NUM_VALUES, 64.0, 0.0, 1000)
    sums = short.new()
    short.fold(sums, contribution("a"))
    with pytest.raises(LocalProtocolError, match=rf"returned {4 * NUM_VALUES} bytes; expected {8 * NUM_VALUES}"):
        short.finalize(sums)
