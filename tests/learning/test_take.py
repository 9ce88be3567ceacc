"""The one way of an update into a round: ``take``, then ``fold``; and the same way again for what is recorded."""

from __future__ import annotations

import random
from array import array
from dataclasses import replace

import pytest

import edgefl
from edgefl import learning, optimizers
from edgefl.errors import InvalidUpdateError, UpdateRefusal
from edgefl.protocol.messages import ClientUpdate
from edgefl.protocol.process import RoundConditions, fold_recorded
from edgefl.types import RoundKey

MODEL = edgefl.SoftmaxModel(num_features=2, num_classes=2)
TRAIN = learning.build_weighted_fed_avg(MODEL, optimizers.sgd(0.1), seed=11)
DEVICES = tuple(f"pi-{n}" for n in range(9))


def update_of(device: str, round_num: int = 1) -> ClientUpdate:
    chance = random.Random(device)
    delta = array("f", [chance.uniform(-1, 1) for _ in range(MODEL.num_parameters)])
    weight = chance.randrange(1, 50)
    return ClientUpdate("training", round_num, "", "float32", delta.tobytes(), weight, weight, 1, 5)


def test_what_is_taken_knows_its_device_its_round_and_its_weight() -> None:
    update = update_of("pi-3", round_num=7)
    taken = TRAIN.take("pi-3", update)
    assert (taken.device, taken.key, taken.weight) == ("pi-3", RoundKey(11, 7), update.weight)
    assert (taken.values, taken.num_correct, taken.loss_grid) == (update.payload, 1, 5)


def test_recorded_reports_fold_to_the_bits_of_the_first_time_in_any_order() -> None:
    first = TRAIN.new_accumulator()
    for device in DEVICES:
        TRAIN.fold(first, TRAIN.take(device, update_of(device)))
    again = TRAIN.new_accumulator()
    fold_recorded(TRAIN, again, ((device, update_of(device)) for device in reversed(DEVICES)))
    state, conditions = TRAIN.initialize(), RoundConditions(9, 0.1)
    assert again == first
    assert TRAIN.finalize(state, again, conditions) == TRAIN.finalize(state, first, conditions)


def test_a_recorded_report_that_is_refused_names_its_device_and_is_not_folded() -> None:
    sums, bad = TRAIN.new_accumulator(), replace(update_of("pi-1"), weight=0)
    with pytest.raises(InvalidUpdateError, match="client 'pi-1': example weight is 0") as caught:
        fold_recorded(TRAIN, sums, [("pi-1", bad)])
    assert caught.value.reason is UpdateRefusal.WEIGHT
    assert sums == TRAIN.new_accumulator()
