"""Accuracy from client to client: exact against rational arithmetic, and the same in every order and split."""

from __future__ import annotations

import math
import random
from array import array
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_fleet import fleet
from wire_kit import PROPERTY

import edgefl
from edgefl import kernels, learning, optimizers
from edgefl.aggregators import Contribution, IntegerSum
from edgefl.cli.rounds import as_dict, print_line
from edgefl.learning.counts import client_accuracies
from edgefl.protocol.events import Phase, RoundSummary
from edgefl.protocol.process import ClientAccuracies, RoundMetrics
from edgefl.sums.grid import share_on_grid
from edgefl.types import Weights
from edgefl_server.metrics_text import is_text_of, read_metrics, write_metrics

STEP = 2**30
COUNTS = IntegerSum(1, 0, 1, 1000, 2**32)
MODEL = edgefl.SoftmaxModel(num_features=5, num_classes=3)
START = Weights.from_bytes(np.linspace(-1, 1, 18).astype(np.float32).tobytes(), 3, 5)


def answers(correct: int, examples: int) -> Contribution:
    return Contribution(array("q", [correct]).tobytes(), max(examples, 1), examples, correct)


def of(*eighths: int) -> ClientAccuracies:
    """Of clients with so many of 8 examples right each."""
    found = client_accuracies(sorted(share_on_grid(n, 8) for n in eighths))
    assert found is not None
    return found


def test_hand_computed() -> None:
    assert of(6) == ClientAccuracies(0.75, 0.0, 0.75, 0.75, 0.75)
    assert of(8, 4) == ClientAccuracies(0.75, 0.25, 0.5, 1.0, 0.5)
    assert of(4, 0, 8, 4) == ClientAccuracies(0.5, math.sqrt(0.125), 0.0, 1.0, 0.0)


@pytest.mark.parametrize(("clients", "worst"), [(1, 1), (9, 1), (10, 1), (11, 2), (20, 2), (21, 3)])
def test_the_worst_decile_is_rounded_up_to_whole_clients(clients: int, worst: int) -> None:
    found = of(*[0] * worst, *[8] * (clients - worst))
    assert found.worst_decile == 0
    assert of(*[0] * (worst - 1), *[8] * (clients - worst + 1)).worst_decile == pytest.approx(1 / worst)


PAIRS = st.integers(0, 1000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@PROPERTY
@given(st.lists(PAIRS, min_size=1, max_size=40), st.randoms(use_true_random=False), st.integers(1, 4))
def test_exact_whatever_the_order_and_the_split(pairs: list[tuple[int, int]], order: random.Random, parts: int) -> None:
    shuffled = order.sample(pairs, len(pairs))
    folders = [COUNTS.new() for _ in range(parts)]
    for pair in shuffled:
        COUNTS.fold(order.choice(folders), answers(*pair))
    merged = folders[0]
    for other in folders[1:]:
        COUNTS.merge(merged, other)
    found = client_accuracies(merged.accuracies)

    shares = sorted(Fraction(share_on_grid(c, n), STEP) for c, n in pairs if n)
    if not shares:
        assert found is None
        return
    mean = sum(shares) / len(shares)
    worst = shares[: math.ceil(len(shares) / 10)]
    assert found == ClientAccuracies(
        mean=float(mean),
        spread=math.sqrt(float(sum((share - mean) ** 2 for share in shares) / len(shares))),
        minimum=float(shares[0]),
        maximum=float(shares[-1]),
        worst_decile=float(sum(worst) / len(worst)),
    )
    assert all(abs(share_on_grid(c, n) - Fraction(c, n) * STEP) <= Fraction(1, 2) for c, n in pairs if n)


def test_ten_thousand_clients_take_forty_kilobytes() -> None:
    sums = COUNTS.new()
    for _ in range(10_000):
        COUNTS.fold(sums, answers(1, 3))
    assert sums.accuracies.itemsize * len(sums.accuracies) == 40_000


def test_evaluations_have_them_and_trainings_and_statistics_have_none() -> None:
    clients = fleet(12)
    by_client = [
        kernels.evaluate_softmax(START, one.examples.features_view, one.examples.labels_view).accuracy
        for one in clients
    ]
    accuracies = learning.build_fed_eval(MODEL)(START, clients).accuracies
    assert accuracies is not None
    assert accuracies.mean == pytest.approx(np.mean(by_client), abs=2**-30)
    assert accuracies.spread == pytest.approx(np.std(by_client), abs=2**-29)
    assert accuracies.worst_decile == pytest.approx(np.mean(sorted(by_client)[:2]), abs=2**-30)
    fine_tuned = learning.build_personalization_eval(MODEL, optimizers.sgd(2.0**-30))  # as good as none
    assert fine_tuned(START, clients, clients).accuracies == accuracies
    train = learning.build_weighted_fed_avg(MODEL, client_optimizer=optimizers.sgd(0.1))
    assert train.next(train.initialize(), clients)[1].accuracies is None
    statistics = learning.build_fed_statistics(5, 8.0)
    assert statistics.next(statistics.initialize(), clients)[1].accuracies is None


def test_the_stored_text_of_rounds_without_them_is_what_it_was() -> None:
    old = RoundMetrics(2, 20, 20, 13, 1.5, (1, 2, 3, 4))
    text = (
        '{"num_reports": 2, "total_weight": 20, "num_examples": 20, "num_correct": 13, "loss_sum": 1.5, '
        '"confusion": [1, 2, 3, 4]}'
    )
    assert write_metrics(old) == text
    assert read_metrics(text) == old
    now = RoundMetrics(2, 20, 20, 13, 1.5, (1, 2, 3, 4), accuracies=of(8, 4))
    assert read_metrics(write_metrics(now)) == now
    assert is_text_of(text, now)  # a round of an older server, computed again
    assert is_text_of(write_metrics(now), now)
    assert not is_text_of(write_metrics(now), RoundMetrics(2, 20, 20, 13, 1.5, (1, 2, 3, 4), accuracies=of(8, 5)))
    assert not is_text_of(text, RoundMetrics(2, 20, 20, 12, 1.5, (1, 2, 3, 4), accuracies=of(8, 4)))


def test_rounds_show_them(capsys: pytest.CaptureFixture[str]) -> None:
    metrics = RoundMetrics(2, 16, 16, 12, 7.5, accuracies=of(8, 4))
    summary = RoundSummary("accuracy", 1, Phase.COMMITTED, 2, 2, 2, 0, 1, metrics)
    print_line(summary)
    assert "by device spread 0.2500, worst decile 0.5000" in capsys.readouterr().out
    row = as_dict(summary)
    assert (row["accuracy_spread"], row["accuracy_worst_decile"]) == (0.25, 0.5)
    assert (row["accuracy_minimum"], row["accuracy_maximum"], row["accuracy_mean"]) == (0.5, 1.0, 0.75)
    assert "by client spread 0.2500, worst decile 0.5000" in str(metrics)
