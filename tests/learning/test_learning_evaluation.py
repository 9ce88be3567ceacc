"""Federated evaluation equals the evaluation of all examples together."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from small_fleet import client, fleet, pooled

import edgefl
from edgefl import kernels, learning
from edgefl.errors import InvalidUpdateError, LocalProtocolError, UpdateRefusal
from edgefl.protocol.messages import Assignment, ClientUpdate
from edgefl.protocol.process import ProcessState
from edgefl.protocol.task import RoundSpec, TaskKind, TaskSpec
from edgefl.types import Weights

MODEL = edgefl.SoftmaxModel(num_features=5, num_classes=3)


def some_weights(seed: int = 1) -> Weights:
    values = np.random.default_rng(seed).normal(size=18).astype(np.float32)
    return Weights.from_bytes(values.tobytes(), 3, 5)


def test_it_equals_the_pooled_evaluation() -> None:
    clients, weights = fleet(6), some_weights()
    metrics = learning.build_fed_eval(MODEL)(weights, clients)
    everything = pooled(clients).examples
    stats = kernels.evaluate_softmax(weights, everything.features_view, everything.labels_view)
    assert metrics.confusion == tuple(stats.confusion)
    assert (metrics.num_examples, metrics.num_correct) == (stats.num_examples, stats.num_correct)
    assert metrics.accuracy == stats.accuracy
    assert metrics.num_reports == 6
    evaluate = learning.build_fed_eval(MODEL)
    state, same = evaluate.next(evaluate.next(evaluate.initialize(), weights, clients)[0], weights, clients)
    assert (state.version, same) == (2, metrics)
    assert metrics.mean_loss == pytest.approx(stats.mean_loss, abs=6 * 2**-21 / stats.num_examples)


def test_the_order_of_the_clients_changes_nothing() -> None:
    evaluate, weights, clients = learning.build_fed_eval(MODEL), some_weights(), fleet(6)
    assert evaluate(weights, clients) == evaluate(weights, clients[::-1])


def test_clients_that_hold_nothing_out_are_left_out() -> None:
    evaluate, weights, clients = learning.build_fed_eval(MODEL), some_weights(), fleet(2)
    empty = client("empty", np.empty((0, 5), np.float32), np.empty(0, np.int32))
    assert evaluate(weights, (*clients, empty)) == evaluate(weights, clients)


def test_without_the_model_it_can_only_be_initialized() -> None:
    spec = TaskSpec("check", TaskKind.EVALUATION, "watches", RoundSpec(3, 1), evaluates="gestures")
    process = learning.build_process(spec, None, None)
    assert process.initialize() == ProcessState(0, b"")
    with pytest.raises(LocalProtocolError, match="before the model of 'gestures'"):
        process.plan(process.initialize())
    assert learning.build_process(spec, None, MODEL).plan(process.initialize()).model is MODEL


def honest_update() -> ClientUpdate:
    process, weights, one = learning.build_fed_eval(MODEL), some_weights(), fleet(1)[0]
    plan = process.plan(process.initialize())
    assignment = Assignment("check", 1, 0, plan, weights.digest, len(weights.to_bytes()), 1.0)
    update = learning.run_plan(assignment, weights.to_bytes(), one.examples, one.examples, "client-0")
    assert isinstance(update, ClientUpdate)
    assert update.base_model_digest == weights.digest
    return update


def counts(*values: int) -> bytes:
    return array("q", values).tobytes()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encoding": "float32"}, UpdateRefusal.ENCODING),
        ({"payload": bytes(36)}, UpdateRefusal.SHAPE),
        ({"weight": 0}, UpdateRefusal.WEIGHT),
        ({"weight": 100_001}, UpdateRefusal.WEIGHT),
        ({"payload": counts(9, -1, 0, 0, 0, 0, 0, 0, 0)}, UpdateRefusal.NORM),
        ({"payload": counts(2**62, 0, 0, 0, 0, 0, 0, 0, 0)}, UpdateRefusal.NORM),
        ({"payload": counts(8, 1, 0, 0, 0, 0, 0, 0, 0), "num_correct": 8}, UpdateRefusal.MALFORMED),
        ({"payload": counts(7, 1, 0, 0, 0, 0, 0, 0, 0), "num_correct": 8}, UpdateRefusal.MALFORMED),
        ({"num_examples": 7}, UpdateRefusal.MALFORMED),
        ({"weight": 9}, UpdateRefusal.MALFORMED),
    ],
)
def test_the_gate_refuses_each_lie_with_its_reason(changes: dict[str, Any], reason: UpdateRefusal) -> None:
    process, honest = learning.build_fed_eval(MODEL), honest_update()
    process.take("pi-1", honest)
    update = replace(honest, **changes)
    with pytest.raises(InvalidUpdateError) as caught:
        process.take("pi-1", update)
    assert caught.value.reason is reason
