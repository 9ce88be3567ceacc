"""Federated averaging against an oracle in float64 NumPy, and its promises: weights, order, seeds, the gate."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from small_fleet import client, features_of, fleet, labels_of

import edgefl
from edgefl import learning, optimizers
from edgefl.errors import ConfigError, DataError, InvalidUpdateError, KernelError, LocalProtocolError, UpdateRefusal
from edgefl.learning import TrainingProcess
from edgefl.protocol.messages import Assignment, ClientUpdate
from edgefl.protocol.process import ProcessState
from edgefl.protocol.task import parse_task
from edgefl.types import ClientDataset, Standardization, Weights

MODEL = edgefl.SoftmaxModel(num_features=5, num_classes=3)
Array = npt.NDArray[np.float64]


def fed_avg(**options: Any) -> TrainingProcess:
    return learning.build_weighted_fed_avg(MODEL, options.pop("client_optimizer", optimizers.sgd(0.2)), **options)


def model_array(weights: Weights) -> Array:
    return np.frombuffer(weights.to_bytes(), np.float32).astype(np.float64)


def local_sgd(dataset: ClientDataset, start: Array, rate: float, batch: int, epochs: int, l2: float = 0.0) -> Array:
    """Textbook mini-batch SGD on the cross-entropy, in float64, in the given order: kernel then bias, flat."""
    x, y = features_of(dataset).astype(np.float64), labels_of(dataset)
    kernel, bias = start[:15].reshape(3, 5).copy(), start[15:].copy()
    for _ in range(epochs):
        for begin in range(0, len(y), batch):
            xb, yb = x[begin : begin + batch], y[begin : begin + batch]
            z = xb @ kernel.T + bias
            p = np.exp(z - z.max(axis=1, keepdims=True))
            error = (p / p.sum(axis=1, keepdims=True) - np.eye(3)[yb]) / len(yb)
            kernel, bias = kernel - rate * (error.T @ xb + l2 * kernel), bias - rate * error.sum(axis=0)
    return np.concatenate([kernel.ravel(), bias])


def fed_avg_oracle(clients: Sequence[ClientDataset], rounds: int, server_rate: float = 1.0, **options: Any) -> Array:
    model = np.zeros(18)
    for _ in range(rounds):
        deltas = [local_sgd(one, model, **options) - model for one in clients]
        model = model + server_rate * np.average(deltas, axis=0, weights=[len(one) for one in clients])
    return model


def run(process: TrainingProcess, clients: Sequence[ClientDataset], rounds: int) -> ProcessState:
    state = process.initialize()
    for _ in range(rounds):
        state, _metrics = process.next(state, clients)
    return state


@pytest.mark.parametrize(("rounds", "tolerance"), [(1, 1e-6), (5, 1e-5)])
@pytest.mark.parametrize(("batch", "epochs", "l2"), [(4, 1, 0.0), (32, 3, 0.0), (5, 2, 0.01)])
def test_it_is_federated_averaging(rounds: int, tolerance: float, batch: int, epochs: int, l2: float) -> None:
    clients = fleet(4)
    process = fed_avg(batch_size=batch, local_epochs=epochs, l2=l2, shuffle=False)
    trained = model_array(process.get_model(run(process, clients, rounds)))
    expected = fed_avg_oracle(clients, rounds, rate=0.2, batch=batch, epochs=epochs, l2=l2)
    assert np.abs(trained - expected).max() < tolerance
    assert np.abs(expected).max() > 0.05  # something was learned at all


def test_the_server_optimizer_scales_the_mean_delta() -> None:
    clients = fleet(3)
    process = fed_avg(server_optimizer=optimizers.sgd(0.5), batch_size=4, shuffle=False)
    trained = model_array(process.get_model(run(process, clients, 2)))
    expected = fed_avg_oracle(clients, 2, server_rate=0.5, rate=0.2, batch=4, epochs=1)
    assert np.abs(trained - expected).max() < 1e-6


def test_server_momentum_lives_in_the_state() -> None:
    clients = fleet(3)
    process = fed_avg(server_optimizer=optimizers.sgd(1.0, momentum=0.9))
    first, _ = process.next(process.initialize(), clients)
    assert len(first.extra) == 8 * 18
    again = fed_avg(server_optimizer=optimizers.sgd(1.0, momentum=0.9))  # another object, the same state
    assert again.next(first, clients) == process.next(first, clients)


def test_a_clients_weight_is_its_number_of_examples() -> None:
    """Full-batch gradients: a client that holds everything twice moves as far, and weighs twice."""
    one, other = fleet(2)
    twice = client("twice", np.tile(features_of(one), (2, 1)), np.tile(labels_of(one), 2))
    process = fed_avg(batch_size=1000, shuffle=False)
    state, metrics = process.next(process.initialize(), [twice, other])
    delta_one = local_sgd(one, np.zeros(18), 0.2, 1000, 1)
    delta_other = local_sgd(other, np.zeros(18), 0.2, 1000, 1)
    expected = (2 * len(one) * delta_one + len(other) * delta_other) / (2 * len(one) + len(other))
    assert metrics.total_weight == 2 * len(one) + len(other)
    assert np.abs(model_array(process.get_model(state)) - expected).max() < 1e-6


def test_the_order_of_the_clients_changes_nothing() -> None:
    clients = fleet(5)
    process = fed_avg(server_optimizer=optimizers.sgd(1.0, momentum=0.5))
    state = process.initialize()
    for _ in range(3):
        forward = process.next(state, clients)
        assert process.next(state, clients[::-1]) == forward
        assert process.next(state, clients[2:] + clients[:2]) == forward
        state = forward[0]


def test_one_seed_gives_one_digest_and_another_seed_another() -> None:
    clients = fleet(3)
    digests = [run(fed_avg(seed=seed, batch_size=4), clients, 3).model_digest for seed in (1, 1, 2)]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]
    unshuffled = [run(fed_avg(seed=seed, batch_size=4, shuffle=False), clients, 1).model_digest for seed in (1, 2)]
    assert unshuffled[0] == unshuffled[1]


def test_metrics_count_examples_once_an_epoch() -> None:
    clients = fleet(3)
    total = sum(len(one) for one in clients)
    _, metrics = fed_avg(local_epochs=2).next(fed_avg().initialize(), clients)
    assert (metrics.num_reports, metrics.total_weight, metrics.num_examples) == (3, total, 2 * total)
    _, metrics = fed_avg(batch_size=1000).next(fed_avg().initialize(), clients)
    assert metrics.mean_loss == pytest.approx(np.log(3), abs=1e-6)  # the loss of a zero model


def test_clients_without_examples_take_no_part() -> None:
    clients = fleet(2)
    empty = client("empty", np.empty((0, 5), np.float32), np.empty(0, np.int32))
    process = fed_avg()
    state = process.initialize()
    assert process.next(state, (*clients, empty)) == process.next(state, clients)
    with pytest.raises(DataError, match="0 clients with examples"):
        process.next(state, [empty])
    with pytest.raises(DataError, match="2 clients with examples, 1 ids"):
        process.next(state, [clients[0], clients[0]])


def test_a_clients_failure_is_its_own_error_and_names_it() -> None:
    bad = features_of(fleet(1)[0]).copy()
    bad[3, 2] = np.nan
    clients = [*fleet(2), client("broken", bad, labels_of(fleet(1)[0]))]
    with pytest.raises(DataError, match=r"client 'broken': .*3"):
        fed_avg().next(fed_avg().initialize(), clients)


def test_a_training_that_blows_up_is_a_kernel_error() -> None:
    process = fed_avg(client_optimizer=optimizers.sgd(1e30), local_epochs=5, batch_size=1)
    with pytest.raises(KernelError, match="client 'client-0'"):
        process.next(process.initialize(), fleet(2))


def test_a_delta_beyond_the_norm_bound_names_the_client() -> None:
    process = fed_avg(norm_bound=2.0**-10)
    with pytest.raises(InvalidUpdateError, match="client 'client-0': the L2 norm is") as caught:
        process.next(process.initialize(), fleet(2))
    assert caught.value.reason is UpdateRefusal.NORM


# ------------------------------------------------------------------------------------------------ the gate


def honest_update(process: TrainingProcess) -> ClientUpdate:
    state = process.initialize()
    assignment = Assignment("training", 1, 0, process.plan(state), state.model_digest, len(state.model), 1.0)
    one = fleet(1)[0]
    update = learning.run_plan(assignment, state.model, one.examples, one.examples, one.client_id)
    assert isinstance(update, ClientUpdate)
    return update


def with_value(payload: bytes, index: int, value: float) -> bytes:
    values = array("f", payload)
    values[index] = value
    return values.tobytes()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encoding": "int64"}, UpdateRefusal.ENCODING),
        ({"encoding": "int8"}, UpdateRefusal.ENCODING),
        ({"payload": bytes(71)}, UpdateRefusal.SHAPE),
        ({"payload": bytes(76)}, UpdateRefusal.SHAPE),
        ({"payload": b""}, UpdateRefusal.SHAPE),
        ({"payload": with_value(bytes(72), 17, float("nan"))}, UpdateRefusal.NON_FINITE),
        ({"payload": with_value(bytes(72), 0, float("-inf"))}, UpdateRefusal.NON_FINITE),
        ({"weight": 0}, UpdateRefusal.WEIGHT),
        ({"weight": -5}, UpdateRefusal.WEIGHT),
        ({"weight": 10_001}, UpdateRefusal.WEIGHT),
        ({"weight": 2**62}, UpdateRefusal.WEIGHT),
        ({"payload": with_value(bytes(72), 3, 64.1)}, UpdateRefusal.NORM),
        ({"payload": with_value(bytes(72), 3, 3e38)}, UpdateRefusal.NORM),
        ({"num_examples": 9}, UpdateRefusal.MALFORMED),
        ({"num_examples": -1}, UpdateRefusal.MALFORMED),
        ({"num_correct": 9}, UpdateRefusal.MALFORMED),
        ({"num_correct": -1}, UpdateRefusal.MALFORMED),
        ({"loss_grid": -1}, UpdateRefusal.MALFORMED),
        ({"loss_grid": 2**63}, UpdateRefusal.MALFORMED),
    ],
)
def test_the_gate_refuses_each_lie_with_its_reason(changes: dict[str, Any], reason: UpdateRefusal) -> None:
    process = fed_avg(max_weight=10_000)
    honest = honest_update(process)
    process.take("pi-1", honest)
    update = replace(honest, **changes)
    with pytest.raises(InvalidUpdateError) as caught:
        process.take("pi-1", update)
    assert caught.value.reason is reason


# ------------------------------------------------------------------------------------------------ definitions

DEFINITION = """
name = "gestures"
kind = "training"
population = "watches"
seed = 11
[round]
goal = 100
minimum = 2
[model]
num_features = 5
num_classes = 3
[client]
learning_rate = 0.2
batch_size = 4
"""


def test_a_definition_and_the_python_api_build_the_same_training() -> None:
    from_file = learning.build_process(parse_task(DEFINITION, "gestures.toml"), None, None)
    assert isinstance(from_file, TrainingProcess)
    from_python = fed_avg(batch_size=4, seed=11)
    assert run(from_file, fleet(3), 3) == run(from_python, fleet(3), 3)


def test_a_training_without_its_statistics_can_only_be_initialized() -> None:
    text = DEFINITION.replace("num_classes = 3", 'num_classes = 3\nstandardize_by = "spreads"')
    spec = parse_task(text, "gestures.toml")
    process = learning.build_process(spec, None, None)
    state = process.initialize()
    with pytest.raises(LocalProtocolError, match="no plan before task 'spreads'"):
        process.plan(state)
    ones = array("f", [1.0] * 5).tobytes()
    standardization = Standardization(bytes(20), ones)
    assert learning.build_process(spec, standardization, None).plan(state).model.standardization == standardization
    with pytest.raises(ConfigError, match="no standardize_by"):
        learning.build_process(parse_task(DEFINITION, "gestures.toml"), standardization, None)


def test_names_that_are_not_registered_are_refused() -> None:
    for change, message in (
        ('seed = 11\nencoding = "float16"', "encoding is 'float16'"),
        ('seed = 11\nencoding = "int64"', "which carries integers"),
        ('seed = 11\naggregator = { name = "median" }', "aggregator is 'median'"),
    ):
        spec = parse_task(DEFINITION.replace("seed = 11", change), "gestures.toml")
        with pytest.raises(ConfigError, match=message):
            learning.build_process(spec, None, None)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ('name = "lion"', "server optimizer is 'lion'; expected one of adagrad, adam, sgd, yogi"),
        ('name = "adam", learning_rate = 0.1, momentum = 0.5', "server optimizer 'adam' has no 'momentum'"),
        ("beta_1 = 0.5", "server optimizer 'sgd' has no 'beta_1'"),
        ('name = "yogi"', "server optimizer 'yogi' needs 'learning_rate'"),
        ('name = "adagrad", learning_rate = 0.1, rho = 1', "unknown key 'rho'"),
    ],
)
def test_a_server_optimizer_takes_its_own_keys_alone(table: str, message: str) -> None:
    text = DEFINITION.replace("seed = 11", f"seed = 11\nserver_optimizer = {{ {table} }}")
    with pytest.raises(ConfigError, match=f"gestures.toml: server_optimizer: {message}") as caught:
        parse_task(text, "gestures.toml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["adam", "yogi", "adagrad"])
def test_an_adaptive_server_optimizer_is_the_same_from_a_file_and_from_python(name: str) -> None:
    table = f'server_optimizer = {{ name = "{name}", learning_rate = 0.05, epsilon = 0.01 }}'
    spec = parse_task(DEFINITION.replace("seed = 11", f"seed = 11\n{table}"), "gestures.toml")
    from_file = learning.build_process(spec, None, None)
    assert isinstance(from_file, TrainingProcess)
    optimizer = getattr(optimizers, name)(0.05, epsilon=0.01)
    from_python = fed_avg(batch_size=4, seed=11, server_optimizer=optimizer)
    trained = run(from_file, fleet(3), 3)
    assert trained == run(from_python, fleet(3), 3)
    assert trained.model_digest != run(fed_avg(batch_size=4, seed=11), fleet(3), 3).model_digest
