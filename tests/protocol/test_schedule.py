"""Learning-rate schedules: hand-computed rates, the cosine against the library's, and rounds that record their rate."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from small_fleet import fleet

import edgefl
from edgefl import learning, optimizers
from edgefl.errors import ConfigError
from edgefl.protocol.messages import learning_rate
from edgefl.protocol.schedule import CONSTANT, Schedule, ScheduleKind, half_wave
from edgefl.protocol.task import TaskKind, TaskSpec, parse_task
from edgefl.settings import to_toml
from edgefl.simulation import simulate
from edgefl.types import to_float32

STEP, COSINE = ScheduleKind.STEP, ScheduleKind.COSINE

TASK = """
name = "gestures"
kind = "training"
population = "watches"
rounds = 4
round = { goal = 3, minimum = 3 }
model = { num_features = 5, num_classes = 3 }

[client]
learning_rate = 0.5

[client.schedule]
"""


def task(schedule: str, **changes: Any) -> TaskSpec:
    return replace(parse_task(TASK + schedule, "t.toml"), **changes)


def rates(schedule: Schedule, rounds: int, initial: float = 1.0) -> list[float]:
    return [schedule.rate(initial, version) for version in range(rounds)]


def test_constant_gives_the_very_value() -> None:
    assert rates(CONSTANT, 3, 0.1) == [0.1] * 3


def test_step_multiplies_after_every_so_many_rounds() -> None:
    assert rates(Schedule(STEP, 0.5, rounds=2), 6) == [1.0, 1.0, 0.5, 0.5, 0.25, 0.25]
    assert rates(Schedule(STEP, 0.1, rounds=1), 3) == [1.0, to_float32(0.1), to_float32(0.1 * 0.1)]


def test_cosine_falls_along_half_a_wave_and_stays() -> None:
    found = rates(Schedule(COSINE, 0.5, rounds=4), 7)
    wave = [0.5 + 0.25 * (1 + math.cos(math.pi * k / 4)) for k in range(5)]
    assert found == pytest.approx([*wave, 0.5, 0.5], rel=1e-7)
    assert (found[0], found[2], found[4]) == (1.0, 0.75, 0.5)


def test_warm_up_rises_to_the_rate_and_the_kind_begins_after_it() -> None:
    assert rates(Schedule(STEP, 0.5, rounds=1, warmup_rounds=4), 7) == [0.25, 0.5, 0.75, 1.0, 1.0, 0.5, 0.25]
    assert rates(Schedule(warmup_rounds=2), 4) == [0.5, 1.0, 1.0, 1.0]


@given(st.floats(0, 1))
def test_the_wave_is_the_librarys_to_the_last_bits(part: float) -> None:
    assert half_wave(part) == pytest.approx((1 + math.cos(math.pi * part)) / 2, abs=4e-16)


def test_the_wave_is_exact_at_its_ends_and_falls() -> None:
    assert (half_wave(0.0), half_wave(1.0)) == (1.0, 0.0)
    values = [half_wave(k / 1000) for k in range(1001)]
    assert values == sorted(values, reverse=True)
    # These bits on every machine: made of additions, multiplications and divisions alone.
    assert [half_wave(k / 8).hex() for k in (1, 3, 5)] == WAVE


WAVE = ["0x1.ec835e79946a3p-1", "0x1.61f78a9abaa58p-1", "0x1.3c10eaca8ab50p-2"]


@pytest.mark.parametrize(
    ("schedule", "message"),
    [
        ("factor = 0.5", "leave them out, or set kind"),
        ('kind = "step"', "factor is 1.0; expected 0 to below 1"),
        ('kind = "step"\nfactor = 0.5', "rounds is 0; expected 1"),
        ('kind = "cosine"\nfactor = -0.5\nrounds = 3', "factor is -0.5"),
        ("warmup_rounds = -1", "warmup_rounds is -1"),
        ('kind = "linear"', "expected one of constant, step, cosine"),
        ('kind = "step"\nfactor = 1e-4\nrounds = 1', r"to 4.9\d*e-13 in round 4; expected at least 2\*\*-30"),
        ('kind = "cosine"\nfactor = 0.0\nrounds = 3', "to 0.0 in round 4"),
    ],
)
def test_what_cannot_be_is_refused_with_the_definition(schedule: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        task(schedule)


def test_the_last_round_is_the_last_that_is_looked_at() -> None:
    """A cosine to nothing within all rounds: the rate would be 0 in the round after the last."""
    spec = task('kind = "cosine"\nfactor = 0.0\nrounds = 4')
    assert parse_task(to_toml(spec), "again") == spec


def test_a_personalization_has_no_schedule() -> None:
    text = TASK.replace('"training"', '"personalization"\nevaluates = "other"').replace(
        "model = { num_features = 5, num_classes = 3 }\n", ""
    )
    with pytest.raises(ConfigError, match=r"client\.schedule in a personalization task"):
        parse_task(text + "warmup_rounds = 2", "t.toml")


def test_rounds_record_their_rate_and_a_fleet_comes_to_the_bits_of_next() -> None:
    clients = fleet(3)
    schedule = Schedule(STEP, 0.5, rounds=1, warmup_rounds=2)
    spec = task('kind = "step"\nfactor = 0.5\nrounds = 1\nwarmup_rounds = 2')
    result = simulate([(spec, to_toml(spec))], clients).task("gestures")
    assert [found.conditions.learning_rate for found in result.rounds] == [0.25, 0.5, 0.5, 0.25]
    process = learning.build_weighted_fed_avg(edgefl.SoftmaxModel(5, 3), optimizers.sgd(0.5), schedule=schedule)
    state = process.initialize()
    for expected in (0.25, 0.5, 0.5, 0.25):
        assert learning_rate(process.plan(state)) == expected
        state, _ = process.next(state, clients)
    assert state.model == result.state.model


def test_scaffold_follows_it_too() -> None:
    spec = task("warmup_rounds = 2", process="scaffold")
    result = simulate([(spec, to_toml(spec))], fleet(3)).task("gestures")
    assert [found.conditions.learning_rate for found in result.rounds] == [0.25, 0.5, 0.5, 0.5]


def test_an_evaluation_of_a_finished_training_is_served() -> None:
    """Its process asks for the model of a training that has no further round, and no rate for one."""
    training = task('kind = "cosine"\nfactor = 0.0\nrounds = 4')
    accuracy = TaskSpec(
        "accuracy",
        TaskKind.EVALUATION,
        "watches",
        training.round,
        rounds=4,
        evaluates="gestures",
    )
    clients = fleet(3)
    result = simulate([(spec, to_toml(spec)) for spec in (training, accuracy)], clients, clients)
    assert len(result.task("accuracy").rounds) == 4
