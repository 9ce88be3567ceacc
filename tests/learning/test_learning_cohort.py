"""A cohort's work in one call gives the reports that each client's own work gives, its failures among them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from small_fleet import client, features_of, fleet, labels_of

import edgefl
from edgefl import learning, optimizers
from edgefl.errors import DataError, EdgeFLError
from edgefl.learning import TrainingProcess, in_process
from edgefl.learning.client import run_plan
from edgefl.learning.cohort import run_cohort
from edgefl.protocol.messages import (
    Assignment,
    ClientUpdate,
    EvaluationWork,
    PersonalizationWork,
    StatisticsWork,
    WorkFailure,
)
from edgefl.types import ClientDataset, Standardization, Weights

MODEL = edgefl.SoftmaxModel(num_features=5, num_classes=3)
START = Weights.from_bytes(np.linspace(-1, 1, 18).astype(np.float32).tobytes(), 3, 5)
PROCESS = learning.build_weighted_fed_avg(
    MODEL, optimizers.sgd(0.1, momentum=0.5), batch_size=4, local_epochs=2, max_weight=50
)
PLAN = PROCESS.plan(PROCESS.initialize())
TRAINING = PLAN.work
TASK = Assignment("gestures", 7, 42, PLAN, START.digest, 72, 60.0)
ADAM = optimizers.adam(0.01)
RANDOM = np.random.default_rng(5)


def mixed_fleet() -> list[ClientDataset]:
    """Good clients, and one for each way in which a client's data can fail."""
    good = fleet(3)
    features, labels = features_of(good[0]), labels_of(good[0])
    not_finite = features.copy()
    not_finite[2, 1] = np.inf
    return [
        good[0],
        client("label", features, labels + 3),
        good[1],
        client("infinite", not_finite, labels),
        client("exploding", features * np.float32(1e37), labels),
        client("narrow", np.ascontiguousarray(features[:, :4]), labels),
        client("none", features[:0], labels[:0]),
        client("many", RANDOM.normal(size=(51, 5)).astype(np.float32), np.zeros(51, np.int32)),
        good[2],
    ]


def alone(task: Assignment, model: bytes, clients: list[ClientDataset]) -> list[ClientUpdate | WorkFailure | None]:
    return [run_plan(task, model, one.examples, one.examples, one.client_id) for one in clients]


def with_plan(**changes: Any) -> Assignment:
    return replace(TASK, plan=replace(PLAN, **changes))


def with_sgd(**changes: Any) -> Assignment:
    return with_plan(work=replace(TRAINING, sgd=replace(TRAINING.sgd, **changes)))


STANDARDIZATION = Standardization(
    np.full(5, 0.5, np.float32).tobytes(), np.linspace(0.5, 2, 5).astype(np.float32).tobytes()
)


@pytest.mark.parametrize(
    "task",
    [
        TASK,
        with_plan(work=replace(TRAINING, shuffle=False)),
        with_sgd(momentum=0.0, l2=0.01, proximal=0.1, clip_norm=0.5),
        with_sgd(learning_rate=1e30),
        with_plan(model=replace(MODEL, standardization=STANDARDIZATION)),
        with_plan(encoding="int64"),
        with_plan(encoding="no such encoding"),
        with_plan(work=EvaluationWork(max_weight=50), encoding="int64"),
        with_plan(work=PersonalizationWork(TRAINING), encoding="int64"),
        with_plan(work=StatisticsWork(10.0, 20, 50), encoding="int64"),
    ],
)
def test_the_reports_are_those_of_each_client_alone(task: Assignment) -> None:
    clients = mixed_fleet()
    reports = run_cohort(task, START.to_bytes(), clients, clients)
    assert reports == alone(task, START.to_bytes(), clients)
    assert len(reports) == len(clients)


def test_the_fleet_has_both_outcomes() -> None:
    """Guards the test above against comparing failures alone."""
    reports = run_cohort(TASK, START.to_bytes(), mixed_fleet(), mixed_fleet())
    assert [isinstance(report, ClientUpdate) for report in reports] == [True, False, True] + [False] * 5 + [True]
    assert {report.kind for report in reports if isinstance(report, WorkFailure)} == {"DataError", "KernelError"}


@pytest.mark.parametrize("model", [b"", START.to_bytes()[:-4], np.full(18, np.nan, np.float32).tobytes()])
def test_a_model_that_cannot_be_used_is_each_clients_failure(model: bytes) -> None:
    clients = mixed_fleet()
    reports = run_cohort(TASK, model, clients, clients)
    assert reports == alone(TASK, model, clients)
    assert all(isinstance(report, WorkFailure) for report in reports)


class Ordinary(TrainingProcess):
    """Takes no short cut: a process of a user's own may have changed what is folded."""


ORDINARY = Ordinary(**vars(PROCESS))


def test_a_round_in_parts_is_the_round(monkeypatch: pytest.MonkeyPatch) -> None:
    clients = fleet(7)
    whole = ORDINARY.next(ORDINARY.initialize(), clients)
    monkeypatch.setattr(in_process, "CLIENTS_AT_ONCE", 3)
    assert ORDINARY.next(ORDINARY.initialize(), clients) == whole


@pytest.mark.parametrize("change", [{}, {"shuffle": False}, {"update_clip_norm": 0.01}, {"server_optimizer": ADAM}])
def test_a_round_that_folds_at_once_is_the_round(change: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    process = learning.build_weighted_fed_avg(MODEL, optimizers.sgd(0.1), batch_size=4, **change)
    unweighted = learning.build_unweighted_fed_avg(MODEL, optimizers.sgd(0.1), batch_size=4, **change)
    ways: list[str] = []

    def watched(*arguments: Any) -> Any:
        ways.append("ordinary")
        return run_cohort(*arguments)

    monkeypatch.setattr(in_process, "run_cohort", watched)
    for one in (process, unweighted):
        ordinary = Ordinary(**vars(one))
        first, _ = ordinary.next(ordinary.initialize(), fleet(5))
        ways.clear()
        assert one.next(first, fleet(5)) == ordinary.next(first, fleet(5))
        at_once = one is process and "update_clip_norm" not in change
        assert ways == ["ordinary"] * (1 if at_once else 2)


def test_what_cannot_be_folded_at_once_is_refused_in_the_ordinary_words() -> None:
    clients = fleet(3)
    for process in (
        learning.build_weighted_fed_avg(MODEL, optimizers.sgd(0.1), norm_bound=2.0**-10),
        learning.build_weighted_fed_avg(MODEL, optimizers.sgd(0.1), max_weight=1),
        learning.build_weighted_fed_avg(MODEL, optimizers.sgd(1e30), batch_size=1, local_epochs=5),
        replace(PROCESS, aggregator=replace(PROCESS.aggregator, max_weight=1)),
    ):
        ordinary = Ordinary(**vars(process))
        said = []
        for one in (process, ordinary):
            with pytest.raises(EdgeFLError) as caught:
                one.next(one.initialize(), clients)
            said.append((type(caught.value), str(caught.value)))
        assert said[0] == said[1]


def test_a_round_raises_the_first_failure_in_order() -> None:
    clients = [one for one in mixed_fleet() if one.client_id != "none"]
    with pytest.raises(DataError, match="client 'label': label of row 0"):
        PROCESS.next(PROCESS.initialize(), clients)
