"""How a cohort is drawn: properties of every sampling, exact frequencies of ``by_size``, turns of ``cyclic``."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_kit import Server, check_in, training
from small_fleet import fleet

from edgefl import learning
from edgefl.errors import ConfigError, LocalProtocolError
from edgefl.protocol.events import AnswerCheckIn, DeviceCheckedIn, TaskCreated
from edgefl.protocol.messages import Assignment
from edgefl.protocol.pace import CoordinatorConfig
from edgefl.protocol.sampling import SAMPLINGS, draw_cohort, sampling
from edgefl.protocol.sampling.by_size import marked
from edgefl.protocol.task import AggregatorSpec, RoundSpec, TaskSpec, parse_task
from edgefl.settings import to_toml
from edgefl.simulation import simulate

DEVICES = st.dictionaries(st.text("abcdef-0123456789", min_size=1, max_size=6), st.integers(1, 10**6), max_size=30)


def draw(name: str, seed: int, round_num: int, devices: dict[str, int], size: int) -> tuple[str, ...]:
    sizes = tuple(devices.values()) if sampling(name).reads_sizes else ()
    return draw_cohort(seed, round_num, tuple(devices), size, name, sizes)


def test_each_is_a_file() -> None:
    assert SAMPLINGS.names() == ("by_size", "cyclic", "uniform")
    with pytest.raises(ConfigError, match="sampling is 'by-size'; expected one of by_size, cyclic, uniform"):
        RoundSpec(2, 1, sampling="by-size")


@pytest.mark.parametrize("name", SAMPLINGS.names())
@given(DEVICES, st.integers(0, 2**63 - 1), st.integers(1, 2**32 - 1), st.integers(1, 30), st.randoms())
def test_a_cohort_is_of_the_size_without_repeats_whatever_the_order(
    name: str, devices: dict[str, int], seed: int, round_num: int, size: int, random: Any
) -> None:
    cohort = draw(name, seed, round_num, devices, size)
    assert len(cohort) == len(set(cohort)) == min(size, len(devices))
    assert set(cohort) <= devices.keys()
    shuffled = list(devices.items())
    random.shuffle(shuffled)
    assert draw(name, seed, round_num, dict(shuffled), size) == cohort


def test_sizes_come_exactly_where_they_are_read() -> None:
    with pytest.raises(LocalProtocolError, match="0 sizes of 2 candidates; sampling 'by_size' expects 2"):
        draw_cohort(1, 1, ("a", "b"), 1, "by_size")
    with pytest.raises(LocalProtocolError, match="2 sizes of 2 candidates; sampling 'uniform' expects 0"):
        draw_cohort(1, 1, ("a", "b"), 1, "uniform", (1, 2))


# ------------------------------------------------------------------------------------------------ by_size


@given(st.lists(st.integers(1, 40), min_size=2, max_size=12), st.data())
def test_over_all_starts_a_device_is_drawn_exactly_as_often_as_it_has_examples(
    lengths: list[int], data: st.DataObject
) -> None:
    total = sum(lengths)
    num_marks = data.draw(st.integers(1, max(1, total // max(lengths))))
    times = [0] * len(lengths)
    for start in range(total):
        chosen = marked(lengths, num_marks, start)
        assert len(chosen) == num_marks
        for index in chosen:
            times[index] += 1
    assert times == [num_marks * length for length in lengths]


def test_rounds_draw_by_size() -> None:
    """Expected within 4 standard deviations of a binomial draw; systematic sampling varies less."""
    devices = {"a": 10, "b": 20, "c": 30, "d": 40, "e": 100}
    rounds = 2000
    cohorts = [draw("by_size", 7, number, devices, 2) for number in range(1, rounds + 1)]
    for device, size in devices.items():
        share = 2 * size / 200
        found = sum(device in cohort for cohort in cohorts)
        assert abs(found - rounds * share) <= 4 * (rounds * share * (1 - share)) ** 0.5


def test_a_device_larger_than_the_distance_of_the_marks_is_always_drawn_and_the_others_share_the_rest() -> None:
    devices = {"giant": 1000, "large": 60, "b": 20, "c": 20, "d": 20}
    cohorts = [draw("by_size", 7, number, devices, 3) for number in range(1, 301)]
    assert all({"giant", "large"} <= set(cohort) for cohort in cohorts)
    assert {device for cohort in cohorts for device in cohort} == devices.keys()


def by_size_task(**changes: Any) -> TaskSpec:
    text = """
name = "gestures"
kind = "training"
population = "watches"
rounds = 6
seed = 3
round = { goal = 2, minimum = 2, sampling = "by_size" }
model = { num_features = 5, num_classes = 3 }
client = { learning_rate = 0.2 }
aggregator = { name = "unweighted_mean" }
"""
    return replace(parse_task(text, "t.toml"), **changes)


def test_a_weighted_mean_would_count_sizes_twice() -> None:
    spec = by_size_task()
    learning.build_process(spec, None, None)
    for name in ("weighted_mean", ""):
        with pytest.raises(ConfigError, match="set the aggregator's name to 'unweighted_mean'"):
            learning.build_process(replace(spec, aggregator=replace(spec.aggregator, name=name)), None, None)
    with pytest.raises(ConfigError, match="set the aggregator's name to 'unweighted_mean'"):
        learning.build_process(replace(spec, process="scaffold", aggregator=AggregatorSpec()), None, None)
    with pytest.raises(ConfigError, match="'by_size' in a task of kind 'evaluation'"):
        parse_task(
            'name = "e"\nkind = "evaluation"\npopulation = "p"\nevaluates = "t"\n'
            'round = { goal = 1, minimum = 1, sampling = "by_size" }',
            "t.toml",
        )


@pytest.mark.parametrize("name", SAMPLINGS.names())
def test_a_simulation_trains_those_whom_the_draw_gives(name: str) -> None:
    clients = fleet(5)
    sizes = {client.client_id: len(client) for client in clients}
    spec = by_size_task(round=RoundSpec(2, 2, sampling=name))
    result = simulate([(spec, to_toml(spec))], clients).task("gestures")
    process = learning.build_process(spec, None, None)
    assert isinstance(process, learning.TrainingProcess)
    state = process.initialize()
    for number in range(1, 7):
        cohort = draw(name, spec.seed, number, sizes, 2)
        state, _ = process.next(state, [client for client in clients if client.client_id in cohort])
    assert state.model == result.state.model


# ------------------------------------------------------------------------------------------------ cyclic


@given(st.integers(1, 40), st.integers(1, 12), st.integers(1, 1000))
def test_every_candidate_has_its_turn(num_devices: int, size: int, first: int) -> None:
    devices = {f"d{number:02}": 1 for number in range(num_devices)}
    rounds = -(-num_devices // size)
    cohorts = [draw("cyclic", 7, first + k, devices, size) for k in range(rounds)]
    assert {device for cohort in cohorts for device in cohort} == devices.keys()


def test_a_round_goes_on_behind_the_one_before() -> None:
    devices = dict.fromkeys("edcba", 1)
    assert [draw("cyclic", 7, number, devices, 2) for number in (1, 2, 3, 4)] == [
        ("a", "b"),
        ("c", "d"),
        ("e", "a"),
        ("b", "c"),
    ]


# ------------------------------------------------------------------------------------------------ the server


def arrive(server: Server, devices: dict[str, int], now: float = 0.0) -> set[str]:
    """Let ``devices`` check in; returns who has an assignment."""
    assigned: set[str] = set()
    for token, (device, size) in enumerate(devices.items(), start=1):
        for effect in server.handle(DeviceCheckedIn(token, device, check_in(num_train=size)), now):
            if isinstance(effect, AnswerCheckIn) and isinstance(effect.answer.outcome, Assignment):
                assigned.add(effect.device)
    return assigned


@pytest.mark.parametrize("max_waiting", [100, 2])
def test_a_server_records_the_sizes_draws_by_them_and_keeps_the_cohort_over_a_crash(max_waiting: int) -> None:
    """With 2 places the others are parked, and drawn all the same."""
    devices = {"a": 10, "b": 500, "c": 20, "d": 70, "e": 15}
    server = Server(CoordinatorConfig(max_waiting=max_waiting))
    spec = training(goal=2, minimum=2, candidates=5, sampling="by_size")
    server.handle(TaskCreated(spec, ""))
    arrive(server, devices)
    record = server.store.rounds["train"]
    assert record.candidates == tuple("abcde")
    assert record.num_examples == (10, 500, 20, 70, 15)
    expected = draw("by_size", spec.seed, 1, devices, 2)
    assert record.cohort == expected
    server.restart(1.0)
    assert arrive(server, devices, 1.0) == set(expected)


def test_where_no_sampling_reads_sizes_none_are_recorded() -> None:
    server = Server()
    server.handle(TaskCreated(training(goal=2, minimum=2), ""))
    arrive(server, {"a": 3, "b": 4})
    assert server.store.rounds["train"].num_examples == ()
