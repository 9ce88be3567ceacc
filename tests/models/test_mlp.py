"""A hidden layer: where it begins, that it learns what a softmax layer cannot, and its released file."""

from __future__ import annotations

import hashlib
import math
from array import array

import numpy as np
import pytest

from edgefl import learning, optimizers
from edgefl.errors import ConfigError, DataError, VerificationError
from edgefl.learning import TrainingProcess
from edgefl.models.kinds.mlp import MlpModel
from edgefl.models.tflite_reader import read_tflite_weights
from edgefl.models.tflite_release import verified_tflite
from edgefl.models.tflite_verifier import verify_tflite
from edgefl.models.tflite_writer import write_tflite
from edgefl.protocol.messages import EvaluationWork, Plan
from edgefl.protocol.task import parse_task
from edgefl.settings import to_toml
from edgefl.types import ClientDataset, Examples, Standardization, Weights
from edgefl.wire.plan import plan_from_proto, plan_to_proto

TASK = """
name = "training"
kind = "training"
population = "all"
round = {{ goal = 2, minimum = 1 }}
client = {{ learning_rate = 0.1 }}
model = {{ num_features = 3, num_classes = 2, {0} }}
"""
XOR = MlpModel(2, 2, hidden=16)


def clients() -> list[ClientDataset]:
    """Points of a plane whose class is whether both signs agree: no straight line separates them."""
    random = np.random.default_rng(7)
    found = []
    for number in range(4):
        points = random.uniform(-1, 1, (200, 2)).astype(np.float32)
        labels = (points[:, 0] * points[:, 1] > 0).astype(np.int32)
        found.append(ClientDataset(f"client-{number}", Examples(2, points.tobytes(), labels.tobytes())))
    return found


def accuracy(process: TrainingProcess, rounds: int) -> float:
    state = process.initialize()
    for _ in range(rounds):
        state, _metrics = process.next(state, clients())
    return learning.build_fed_eval(process.model)(process.get_model(state), clients()).accuracy


def trained() -> tuple[MlpModel, Weights]:
    """Of standardized features, every weight in use."""
    random = np.random.default_rng(3)
    mean, spread = random.normal(size=5).astype(np.float32), np.full(5, 0.5, np.float32)
    model = MlpModel(5, 3, hidden=7, standardization=Standardization(mean.tobytes(), spread.tobytes()))
    return model, model.weights(random.normal(size=model.num_parameters).astype(np.float32).tobytes())


def test_a_training_begins_at_the_same_bits_on_every_machine() -> None:
    model = MlpModel(784, 10, hidden=128)
    start = model.initial_weights(1)
    assert start.digest == "a757d7e5d4870716c070c1a411a17c13ba0e97a5fb47ccb0cbbeb8983dac7f64"
    assert start == model.initial_weights(1)
    assert start != model.initial_weights(2)
    kernel, bound = np.asarray(start.array("hidden_kernel")), math.sqrt(6 / 784)
    assert 0.999 * bound < np.abs(kernel).max() <= np.float32(bound)
    assert abs(kernel.mean()) < bound / 100
    assert abs(kernel.std() * math.sqrt(3) / bound - 1) < 0.01
    assert not any(start.values[4 * len(kernel) :])
    assert (model.num_parameters, model.update_bytes) == (101_770, 407_080)


def test_it_learns_what_no_softmax_layer_can() -> None:
    sgd = optimizers.sgd(0.5)
    assert accuracy(learning.build_weighted_fed_avg(XOR, sgd, batch_size=10, seed=1), 20) > 0.9


@pytest.mark.parametrize("name", ["weighted_fed_prox", "scaffold", "unweighted_fed_avg"])
def test_every_training_process_takes_it(name: str) -> None:
    sgd = optimizers.sgd(0.5)
    more = {"weighted_fed_prox": {"proximal_strength": 0.01}, "scaffold": {"num_clients": 4}}.get(name, {})
    process = getattr(learning, f"build_{name}")(XOR, sgd, batch_size=10, seed=1, **more)
    assert accuracy(process, 20) > 0.85


def test_a_definition_names_the_hidden_units_and_a_plan_carries_them() -> None:
    spec = parse_task(TASK.format('kind = "mlp", hidden = 9'), "a.toml")
    assert spec.model is not None
    model = spec.model.build()
    assert model == MlpModel(3, 2, hidden=9)
    assert parse_task(to_toml(spec), "again") == spec
    plan = Plan(model, EvaluationWork(5), "int64")
    assert plan_from_proto(plan_to_proto(plan)) == plan
    usual = parse_task(TASK.format('kind = "mlp"'), "a.toml").model
    assert usual is not None
    assert usual.build() == MlpModel(3, 2, hidden=128)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('kind = "mlp", hidden = 0', "hidden is 0; expected 1 to 512 hidden units"),
        ('kind = "mlp", hidden = 513', "hidden is 513; expected 1 to 512 hidden units"),
        ("hidden = 9", "model kind 'softmax' has no 'hidden'; it has no options: leave it out"),
        ('kind = "mlp", options = { hidden = 9 }', "is a key of \\[model\\] itself; write it there"),
    ],
)
def test_hidden_units_out_of_range_or_of_another_kind_are_refused(line: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        parse_task(TASK.format(line), "a.toml")


def test_a_released_file_computes_what_the_kernel_computes_and_is_read_back() -> None:
    model, weights = trained()
    data, verification = verified_tflite(weights, model, "float32")
    assert verification.max_abs_diff <= 1e-5
    assert read_tflite_weights(data, "a.tflite") == weights
    assert hashlib.sha256(data).digest() == hashlib.sha256(verified_tflite(weights, model, "float32")[0]).digest()


@pytest.mark.parametrize("name", ["hidden_kernel", "hidden_bias", "output_kernel", "output_bias"])
def test_one_wrong_weight_in_a_file_is_found(name: str) -> None:
    model, weights = trained()
    values, at = array("f", weights.values), 0
    for found, shape in weights.shapes:
        if found == name:
            break
        at += math.prod(shape)
    values[at] += 0.05
    data = write_tflite(model.weights(values.tobytes()), model.standardization)
    with pytest.raises(VerificationError, match="differs from the kernel by"):
        verify_tflite(data, weights, model.standardization, predict=model.predict)


def test_int8_is_refused_in_one_line() -> None:
    model, weights = trained()
    with pytest.raises(ConfigError, match="'int8', which a model with a hidden layer does not have; release it as fl"):
        verified_tflite(weights, model, "int8")


def test_weights_of_a_softmax_layer_are_refused() -> None:
    process = learning.build_weighted_fed_avg(XOR, optimizers.sgd(0.5))
    with pytest.raises(ConfigError, match="weights has kernel \\(2, 2\\), bias \\(2,\\); task 'training' has hidden_k"):
        process.initialize(Weights.zeros(2, 2))
    points = clients()[0].examples
    with pytest.raises(DataError, match="for a model of 16 hidden units; expected"):
        XOR.evaluate(Weights.zeros(2, 2), points)
