"""Personalization: what each client gains by fine-tuning equals what the kernel says, client by client."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from small_fleet import client, fleet

import edgefl
from edgefl import kernels, learning, optimizers
from edgefl.errors import ConfigError, DataError, InvalidUpdateError, LocalProtocolError, UpdateRefusal
from edgefl.learning.personalization import PersonalizationProcess
from edgefl.protocol.messages import Assignment, ClientUpdate, WorkFailure
from edgefl.randomness import SHUFFLE, derive_key
from edgefl.types import ClientDataset, EvalStats, TrainConfig, Weights

MODEL = edgefl.SoftmaxModel(num_features=5, num_classes=3)
START = Weights.from_bytes(np.linspace(-1, 1, 18).astype(np.float32).tobytes(), 3, 5)
TRAIN, KEPT = fleet(6), fleet(6, seed=8)


def process(**options: Any) -> PersonalizationProcess:
    return learning.build_personalization_eval(
        MODEL, optimizers.sgd(0.2, momentum=0.5), batch_size=4, local_epochs=3, l2=0.01, seed=9, **options
    )


def by_kernel(train: ClientDataset, kept: ClientDataset) -> tuple[EvalStats, EvalStats]:
    """Before and after."""
    key = derive_key(9, 1, train.client_id, SHUFFLE)
    config = TrainConfig(0.2, batch_size=4, local_epochs=3, l2=0.01, momentum=0.5, shuffle_key=key)
    end, _ = kernels.train_softmax(START, train.examples.features_view, train.examples.labels_view, config)
    before, after = (
        kernels.evaluate_softmax(weights, kept.examples.features_view, kept.examples.labels_view)
        for weights in (START, end)
    )
    return before, after


def test_it_equals_each_clients_own_before_and_after() -> None:
    metrics = process()(START, TRAIN, KEPT)
    pairs = [by_kernel(train, kept) for train, kept in zip(TRAIN, KEPT, strict=True)]
    assert metrics.gains is not None
    assert metrics.confusion == tuple(np.sum([after.confusion for _, after in pairs], axis=0).tolist())
    assert metrics.num_correct == sum(after.num_correct for _, after in pairs)
    assert metrics.num_examples == sum(len(kept) for kept in KEPT)
    assert metrics.gains.num_correct_before == sum(before.num_correct for before, _ in pairs)
    gains = [after.accuracy - before.accuracy for before, after in pairs]
    assert metrics.gains.num_gained == sum(gain > 0 for gain in gains)
    assert metrics.gains.num_lost == sum(gain < 0 for gain in gains)
    assert metrics.mean_gain == pytest.approx(sum(gains) / 6, abs=2**-30)
    assert metrics.accuracy > metrics.accuracy_before  # the start knows nothing of these classes
    assert f"before fine-tuning {metrics.accuracy_before:.4f}" in str(metrics)


def test_each_round_shuffles_anew_and_the_first_is_what_a_call_gives() -> None:
    personal = process()
    state, first = personal.next(personal.initialize(), START, TRAIN, KEPT)
    assert (state.version, first) == (1, personal(START, TRAIN, KEPT))
    state, second = personal.next(state, START, TRAIN, KEPT)
    assert state.version == 2
    assert second.loss_sum != first.loss_sum
    assert abs(second.mean_loss - first.mean_loss) < 0.1


def test_the_order_of_the_clients_changes_nothing() -> None:
    evaluate = process()
    assert evaluate(START, TRAIN, KEPT) == evaluate(START, TRAIN[::-1], KEPT[2:] + KEPT[:2])


def test_without_a_step_nothing_is_gained() -> None:
    evaluate = learning.build_personalization_eval(MODEL, optimizers.sgd(0.2), local_epochs=0)
    metrics = evaluate(START, TRAIN, KEPT)
    assert metrics.gains is not None
    assert (metrics.gains.num_gained, metrics.gains.num_lost, metrics.gains.gain_sum) == (0, 0, 0.0)
    assert metrics.accuracy == metrics.accuracy_before
    plain = learning.build_fed_eval(MODEL)(START, KEPT)
    assert replace(metrics, gains=None) == plain


def test_a_client_without_one_of_its_parts_is_left_out() -> None:
    evaluate = process()
    none = client("client-5", np.empty((0, 5), np.float32), np.empty(0, np.int32))
    fewer = evaluate(START, TRAIN[:5], KEPT[:5])
    assert evaluate(START, TRAIN, KEPT[:5]) == fewer
    assert evaluate(START, (*TRAIN[:5], none), KEPT) == fewer
    assert evaluate(START, TRAIN, (*KEPT[:5], none)) == fewer
    with pytest.raises(DataError, match="two held-out parts have the same id"):
        evaluate(START, TRAIN, (*KEPT, KEPT[0]))


def test_without_the_model_there_is_no_plan() -> None:
    spec = process().spec
    unknown = learning.build_process(spec, None, None)
    with pytest.raises(LocalProtocolError, match="before the model of 'training'"):
        unknown.plan(unknown.initialize())
    with pytest.raises(ConfigError, match="batch_size"):
        learning.build_personalization_eval(MODEL, optimizers.sgd(0.1), batch_size=0)


def report(**changes: Any) -> ClientUpdate | WorkFailure | None:
    one = process(max_weight=20)
    task = Assignment("p", 1, 9, one.plan(one.initialize()), START.digest, 72, 60.0)
    parts = {"train": TRAIN[0].examples, "held_out": KEPT[1].examples} | changes
    return learning.run_plan(task, START.to_bytes(), device="client-0", **parts)


def test_a_device_says_what_it_lacks_and_stops_when_asked() -> None:
    none = client("a", np.empty((0, 5), np.float32), np.empty(0, np.int32)).examples
    many = fleet(1, smallest=21)[0].examples
    for part, which in (("train", "training"), ("held_out", "held-out")):
        for examples, told in ((none, f"no {which} examples"), (many, f"21 {which} examples")):
            failed = report(**{part: examples})
            assert isinstance(failed, WorkFailure)
            assert told in failed.message
    stop = kernels.StopFlag()
    stop.set()
    assert report(stop=stop) is None


def counts(*values: int) -> bytes:
    return array("q", values).tobytes()


HONEST = ClientUpdate("p", 1, START.digest, "int64", counts(7, 1, 0, 0, 0, 0, 0, 0, 0, 5), 8, 8, 7, 0)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"encoding": "float32"}, UpdateRefusal.ENCODING),
        ({"payload": counts(7, 1, 0, 0, 0, 0, 0, 0, 0)}, UpdateRefusal.SHAPE),
        ({"weight": 0}, UpdateRefusal.WEIGHT),
        ({"weight": 100_001}, UpdateRefusal.WEIGHT),
        ({"payload": counts(8, -1, 1, 0, 0, 0, 0, 0, 0, 5)}, UpdateRefusal.NORM),
        ({"payload": counts(7, 1, 0, 0, 0, 0, 0, 0, 0, 9)}, UpdateRefusal.NORM),
        ({"payload": counts(7, 1, 0, 0, 0, 0, 0, 0, 0, -1)}, UpdateRefusal.NORM),
        ({"payload": counts(8, 0, 0, 0, 0, 0, 0, 0, 0, 5)}, UpdateRefusal.MALFORMED),
        ({"num_correct": 8}, UpdateRefusal.MALFORMED),
        ({"num_examples": 9}, UpdateRefusal.MALFORMED),
        ({"loss_grid": -1}, UpdateRefusal.MALFORMED),
    ],
)
def test_the_gate_refuses_each_lie_with_its_reason(changes: dict[str, Any], reason: UpdateRefusal) -> None:
    one = process()
    one.take("pi-1", HONEST)
    update = replace(HONEST, **changes)
    with pytest.raises(InvalidUpdateError) as caught:
        one.take("pi-1", update)
    assert caught.value.reason is reason
