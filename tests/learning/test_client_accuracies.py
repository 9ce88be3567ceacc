"""Accuracy from client to client: exact against rational arithmetic, and the same in every order and split."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import sqlite3
from array import array
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from server_kit import Caller, definition, run, update_for
from small_fleet import fleet
from wire_kit import PROPERTY

import edgefl
from edgefl import kernels, learning, optimizers
from edgefl.aggregators import Contribution, IntegerSum
from edgefl.cli.rounds import as_dict, print_line
from edgefl.learning.counts import client_accuracies
from edgefl.protocol.events import Phase, RoundSummary
from edgefl.protocol.messages import Assignment
from edgefl.protocol.process import ClientAccuracies, RoundMetrics
from edgefl.sums.grid import share_on_grid
from edgefl.types import Weights
from edgefl.wire.control import round_from_proto
from edgefl_server.check import check
from edgefl_server.metrics_text import is_text_of, read_metrics, write_metrics
from edgefl_server.rounds_feed import describe

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
    assert describe(summary).endswith(", accuracy 0.7500, loss 0.4688, by device spread 0.2500, worst decile 0.5000")


# ------------------------------------------------------------------------------------------------ from a server

EVALUATION = """
name = "eval"
kind = "evaluation"
population = "lab"
evaluates = "train"
rounds = 1

[round]
goal = 3
minimum = 3
deadline_s = 600.0
"""
RIGHT_OF = {"a": (1, 4), "b": (8, 8), "c": (1, 2)}


async def report(caller: Caller, device: str, assignment: Assignment) -> None:
    right, size = RIGHT_OF[device]
    payload = array("q", [right, size - right, 0, 0]).tobytes()
    counts = {"weight": size, "num_examples": size, "num_correct": right}
    await caller.report(device, update_for(assignment, device, encoding="int64", payload=payload, **counts))


def change_stored(folder: Path, change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    """Change what the database says of the evaluation's metrics; returns what it said before."""
    with contextlib.closing(sqlite3.connect(folder / "data" / "edgefl.db")) as db, db:
        (text,) = db.execute("SELECT metrics FROM rounds WHERE task = 'eval'").fetchone()
        fields = json.loads(text)
        change(fields)
        db.execute("UPDATE rounds SET metrics = ? WHERE task = 'eval'", (json.dumps(fields),))
    before: dict[str, Any] = json.loads(text)
    return before


def test_a_server_that_restarts_counts_all_reports_and_what_older_ones_stored_is_computed_again(tmp_path: Path) -> None:
    given: dict[str, Assignment] = {}
    seen: list[RoundSummary] = []

    async def until_it_stops(caller: Caller) -> None:
        await caller.create(definition(goal=1, rounds=1))
        await caller.run_round(("a",))
        await caller.create(EVALUATION)
        given.update(zip(RIGHT_OF, await asyncio.gather(*map(caller.assignment, RIGHT_OF)), strict=True))
        await report(caller, "a", given["a"])
        await report(caller, "b", given["b"])

    async def the_rest(caller: Caller) -> None:
        if "c" in given:
            await report(caller, "c", given.pop("c"))
        seen.append(round_from_proto(await caller.ended(1, "eval")))

    def findings() -> list[str]:
        return [str(finding) for finding in check(tmp_path / "data").findings]

    run(tmp_path, until_it_stops)
    run(tmp_path, the_rest)
    expected = of(2, 8, 4)
    assert seen[0].metrics is not None
    assert (seen[0].metrics.accuracy, seen[0].metrics.accuracies) == (10 / 14, expected)
    assert findings() == []

    stored = change_stored(tmp_path, lambda fields: fields.pop("accuracies"))
    assert stored["accuracies"] == vars(expected)
    assert findings() == []  # as an older server wrote it
    run(tmp_path, the_rest)
    assert seen[1] == replace(seen[0], metrics=replace(seen[0].metrics, accuracies=None))

    change_stored(tmp_path, lambda fields: fields.update(accuracies={**vars(expected), "worst_decile": 0.5}))
    assert any("differs in the metrics" in line for line in findings())
