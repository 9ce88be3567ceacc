"""Unweighted FedAvg, FedProx and FedSGD against oracles in float64 NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from small_fleet import client, features_of, fleet, labels_of, pooled
from test_learning_training import run

import edgefl
from edgefl import learning, optimizers
from edgefl.errors import ConfigError, DataError
from edgefl.learning import TrainingProcess
from edgefl.protocol.messages import TrainingWork
from edgefl.protocol.process import ProcessState
from edgefl.types import ClientDataset

MODEL = edgefl.SoftmaxModel(num_features=5, num_classes=3)
Array = npt.NDArray[np.float64]


def gradient(dataset: ClientDataset, model: Array) -> Array:
    """Of the mean cross-entropy over all examples, in float64: kernel then bias, flat."""
    x, y = features_of(dataset).astype(np.float64), labels_of(dataset)
    z = x @ model[:15].reshape(3, 5).T + model[15:]
    p = np.exp(z - z.max(axis=1, keepdims=True))
    error = (p / p.sum(axis=1, keepdims=True) - np.eye(3)[y]) / len(y)
    return np.concatenate([(error.T @ x).ravel(), error.sum(axis=0)])


def local_steps(dataset: ClientDataset, start: Array, rate: float, steps: int, proximal: float = 0.0) -> Array:
    """Full-batch gradient steps with FedProx's term."""
    model = start
    for _ in range(steps):
        model = model - rate * (gradient(dataset, model) + proximal * (model - start))
    return model


def trained(process: TrainingProcess, clients: Sequence[ClientDataset], rounds: int) -> Array:
    return np.frombuffer(run(process, clients, rounds).model, np.float32).astype(np.float64)


FULL: dict[str, Any] = {"batch_size": 10_000, "local_epochs": 3, "shuffle": False}


def test_unweighted_averaging_is_the_plain_mean_of_the_deltas() -> None:
    clients = fleet(3, smallest=4)
    model = np.zeros(18)
    for _ in range(2):
        model = np.mean([local_steps(one, model, 0.3, 3) for one in clients], axis=0)
    unweighted = learning.build_unweighted_fed_avg(MODEL, optimizers.sgd(0.3), **FULL)
    assert np.abs(trained(unweighted, clients, 2) - model).max() < 1e-6
    weighted = learning.build_weighted_fed_avg(MODEL, optimizers.sgd(0.3), **FULL)
    assert np.abs(trained(weighted, clients, 2) - model).max() > 1e-3  # the weights do matter here


def test_a_device_cannot_tell_an_unweighted_task_from_a_weighted_one() -> None:
    """So an agent that has never heard of the aggregator serves it."""
    unweighted = learning.build_unweighted_fed_avg(MODEL, optimizers.sgd(0.3))
    weighted = learning.build_weighted_fed_avg(MODEL, optimizers.sgd(0.3))
    assert unweighted.plan(unweighted.initialize()) == weighted.plan(weighted.initialize())


def test_an_unweighted_round_tells_what_entered_its_mean() -> None:
    clients = fleet(3)
    process = learning.build_unweighted_fed_avg(MODEL, optimizers.sgd(0.3))
    _, metrics = process.next(process.initialize(), clients)
    assert (metrics.total_weight, metrics.num_examples) == (3, sum(len(one) for one in clients))


def test_fed_prox_pulls_each_client_to_where_it_started() -> None:
    clients = fleet(3, smallest=4)
    model = np.zeros(18)
    for _ in range(2):
        ends = [local_steps(one, model, 0.3, 3, proximal=0.8) for one in clients]
        model = np.average(ends, axis=0, weights=[len(one) for one in clients])
    process = learning.build_weighted_fed_prox(MODEL, optimizers.sgd(0.3), proximal_strength=0.8, **FULL)
    assert np.abs(trained(process, clients, 2) - model).max() < 1e-6


def test_fed_prox_of_no_strength_is_fed_avg() -> None:
    prox = learning.build_weighted_fed_prox(MODEL, optimizers.sgd(0.3), proximal_strength=0.0)
    assert run(prox, fleet(3), 2) == run(learning.build_weighted_fed_avg(MODEL, optimizers.sgd(0.3)), fleet(3), 2)
    with pytest.raises(ConfigError, match="proximal is -1"):
        learning.build_weighted_fed_prox(MODEL, optimizers.sgd(0.3), proximal_strength=-1.0)


@pytest.mark.parametrize("smallest", [1, 8, 5000])
def test_fed_sgd_is_gradient_descent_on_all_examples_at_the_servers_rate(smallest: int) -> None:
    clients = fleet(3, smallest=smallest)
    everything, model = pooled(clients), np.zeros(18)
    for _ in range(3):
        model = model - 0.7 * gradient(everything, model)
    process = learning.build_fed_sgd(MODEL, optimizers.sgd(0.7))
    assert np.abs(trained(process, clients, 3) - model).max() < 1e-6
    assert np.abs(model).max() > 0.1


@pytest.mark.parametrize("examples", [100, 1000, 10_000])
def test_fed_sgd_is_as_exact_away_from_zero(examples: int) -> None:
    """An example's share of the gradient is far below the last place of a weight, and is not lost in it."""
    rng = np.random.default_rng(7)
    start = rng.standard_normal(18).astype(np.float32)
    x = rng.standard_normal((examples, 5)).astype(np.float32)
    one = client("one", x, rng.integers(0, 3, examples, dtype=np.int32))
    process = learning.build_fed_sgd(MODEL, optimizers.sgd(1.0))
    state, _ = process.next(ProcessState(0, start.tobytes(), process.initialize().extra), [one])
    wide = start.astype(np.float64)
    assert np.abs(np.frombuffer(state.model, np.float32) - (wide - gradient(one, wide))).max() < 1e-6


def test_fed_sgd_feeds_the_gradient_to_any_server_optimizer() -> None:
    clients = fleet(3)
    slope = gradient(pooled(clients), np.zeros(18))
    process = learning.build_fed_sgd(MODEL, optimizers.adagrad(0.1, epsilon=0.01))
    expected = -0.1 * slope / (np.sqrt(0.0001 + slope**2) + 0.01)
    assert np.abs(trained(process, clients, 1) - expected).max() < 1e-6


def test_fed_sgd_never_takes_a_second_step() -> None:
    """A client with more examples than a batch is refused, not trained in two steps."""
    process = learning.build_fed_sgd(MODEL, optimizers.sgd(0.7), max_weight=10)
    ten = client("ten", np.ones((10, 5), np.float32), np.arange(10, dtype=np.int32) % 3)
    assert process.next(process.initialize(), [ten])[1].num_examples == 10
    eleven = client("eleven", np.ones((11, 5), np.float32), np.arange(11, dtype=np.int32) % 3)
    with pytest.raises(DataError, match=r"client 'eleven': .*11 training examples; the task's max_weight is 10"):
        process.next(process.initialize(), [eleven])
    largest = learning.build_fed_sgd(MODEL, optimizers.sgd(0.7), max_weight=2**20)
    plan = largest.plan(largest.initialize())
    assert isinstance(plan.work, TrainingWork)
    assert plan.work.sgd.batch_size == 2**20
    with pytest.raises(ConfigError, match="max_weight is 1048577; expected at most 1048576"):
        learning.build_fed_sgd(MODEL, optimizers.sgd(0.7), max_weight=2**20 + 1)
