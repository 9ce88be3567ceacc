"""The whole fleet in one process: the same bits as ``next``, whoever comes first, and failures that are recorded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from small_fleet import client, features_of, fleet, labels_of

from edgefl import learning, simulation
from edgefl.errors import ConfigError, ConflictError, NotFoundError
from edgefl.learning import EvaluationProcess, PersonalizationProcess, StatisticsProcess, TrainingProcess
from edgefl.protocol.events import Phase, RoundSummary, SaveAbandon, SaveCommit, SaveTask, TaskRecord, TaskStatus
from edgefl.protocol.messages import Fate
from edgefl.protocol.process import ProcessState, RoundMetrics
from edgefl.protocol.task import ClientSpec, TaskSpec, parse_task
from edgefl.simulation import SimulationResult
from edgefl.simulation.record import MemoryRecord
from edgefl.types import ClientDataset, Weights

STATISTICS = """
name = "spreads"
kind = "statistics"
population = "watches"
rounds = 2
round = { goal = GOAL, minimum = MINIMUM }
model = { num_features = 5, num_classes = 3 }
statistics = { feature_bound = 8.0 }
"""
TRAINING = """
name = "gestures"
kind = "training"
population = "watches"
seed = 11
rounds = 4
round = { goal = GOAL, minimum = MINIMUM }
model = { num_features = 5, num_classes = 3, standardize_by = "spreads" }
client = { learning_rate = 0.2, batch_size = 4 }
server_optimizer = { learning_rate = 1.0, momentum = 0.5 }
"""
EVALUATION = """
name = "accuracy"
kind = "evaluation"
population = "watches"
rounds = 4
evaluates = "gestures"
round = { goal = GOAL, minimum = MINIMUM }
"""

PERSONALIZATION = EVALUATION.replace('"accuracy"', '"gains"').replace('"evaluation"', '"personalization"') + (
    "client = { learning_rate = 0.5, batch_size = 2, local_epochs = 3 }\n"
)

Task = tuple[TaskSpec, str]


def task(text: str, goal: int, minimum: int | None = None, **changes: object) -> Task:
    text = text.replace("GOAL", str(goal)).replace("MINIMUM", str(goal if minimum is None else minimum))
    return replace(parse_task(text, "task.toml"), **changes), text  # type: ignore[arg-type]


def all_three(goal: int, minimum: int | None = None) -> list[Task]:
    return [task(text, goal, minimum) for text in (STATISTICS, TRAINING, EVALUATION)]


def plain_training(goal: int, minimum: int | None = None, **changes: object) -> Task:
    text = TRAINING.replace(', standardize_by = "spreads"', "")
    return task(text, goal, minimum, **changes)


def held_out(clients: Sequence[ClientDataset]) -> list[ClientDataset]:
    return [
        replace(one, client_id=mine.client_id) for one, mine in zip(fleet(len(clients), seed=8), clients, strict=True)
    ]


def essence(result: SimulationResult) -> list[object]:
    return [
        (one.spec.name, one.state, one.models, [(r.phase, r.metrics) for r in one.rounds], one.standardization)
        for one in result.tasks
    ]


def test_it_equals_the_loop_over_next_bit_for_bit() -> None:
    clients = fleet(4)
    kept = held_out(clients)
    tasks = all_three(goal=4)
    result = simulation.simulate(tasks, clients, kept)

    statistics = learning.build_process(tasks[0][0], None, None)
    assert isinstance(statistics, StatisticsProcess)
    standardization = statistics(clients)
    assert result.task("spreads").standardization == standardization

    train = learning.build_process(tasks[1][0], standardization, None)
    evaluate = learning.build_process(tasks[2][0], None, train.model)
    assert isinstance(train, TrainingProcess)
    assert isinstance(evaluate, EvaluationProcess)
    state, trained, evaluated = train.initialize(), [], []
    for _ in range(4):
        state, metrics = train.next(state, clients)
        trained.append((state.version, metrics))
        evaluated.append(evaluate(train.get_model(state), kept))
    simulated = result.task("gestures")
    assert simulated.state == state
    assert [(r.version, r.metrics) for r in simulated.rounds] == trained
    assert [r.metrics for r in result.task("accuracy").rounds] == evaluated
    assert [one.status for one in result.tasks] == [TaskStatus.COMPLETED] * 3
    assert result.failures == ()


def test_a_personalization_runs_on_each_version_and_its_first_round_equals_the_process() -> None:
    clients = fleet(4)
    kept = held_out(clients)
    tasks = [plain_training(4), task(PERSONALIZATION, 4)]
    result = simulation.simulate(tasks, clients, kept)
    train = result.task("gestures")
    process = learning.build_process(tasks[1][0], None, train.model)
    assert isinstance(process, PersonalizationProcess)
    found = [r.metrics for r in result.task("gains").rounds]
    models = [Weights.from_bytes(model, 3, 5) for model in train.models]
    assert len(found) == 4
    # The number of the round enters the shuffling, and a call of the process is round 1.
    assert found[0] == process(models[0], clients, kept)
    assert all(metrics is not None and metrics.gains is not None for metrics in found)
    with pytest.raises(ConfigError, match="the fleet has 3"):
        simulation.simulate(tasks, clients, kept[:3])


def test_the_order_in_which_clients_and_tasks_are_listed_changes_nothing() -> None:
    clients = fleet(5)
    kept = held_out(clients)
    tasks = [task(text, 3, 2) for text in (STATISTICS, TRAINING, EVALUATION)]
    first = simulation.simulate(tasks, clients, kept)
    shuffled = simulation.simulate(tasks, clients[::-1], kept[2:] + kept[:2])
    assert essence(shuffled) == essence(first)
    reordered = simulation.simulate(tasks[::-1], clients, kept)
    assert essence(reordered) == essence(first)[::-1]


def test_one_seed_gives_one_digest_and_another_seed_another() -> None:
    clients = fleet(5)
    runs = [simulation.simulate([plain_training(3, seed=seed)], clients) for seed in (1, 1, 2)]
    digests = [run.task("gestures").state.model_digest for run in runs]
    assert digests[0] == digests[1]
    assert digests[0] != digests[2]


def test_rounds_take_their_goal_and_over_selection_does_not_count_more() -> None:
    clients = fleet(6)
    spec, text = plain_training(3)
    result = simulation.simulate([(replace(spec, round=replace(spec.round, over_selection=1.5)), text)], clients)
    rounds = result.task("gestures").rounds
    assert [(r.phase, r.cohort, r.accepted) for r in rounds] == [(Phase.COMMITTED, 5, 3)] * 4
    assert all(r.metrics is not None and r.metrics.num_reports == 3 for r in rounds)


def test_a_fleet_smaller_than_the_goal_goes_on_with_its_minimum() -> None:
    spec, text = plain_training(5, 2)
    # The deadline is shorter than the wait: a timer of an earlier phase that still fired would be a protocol error.
    short = replace(spec, round=replace(spec.round, deadline_s=1.0))
    result = simulation.simulate([(short, text)], fleet(3))
    assert [r.accepted for r in result.task("gestures").rounds] == [3] * 4
    assert result.virtual_s > 10  # it waited for a full cohort


def test_a_broken_client_is_recorded_and_the_round_goes_on() -> None:
    clients = list(fleet(4))
    broken = features_of(clients[2]).copy()
    broken[1, 1] = np.nan
    clients[2] = client("client-2", broken, labels_of(clients[2]))
    result = simulation.simulate([plain_training(4, 3)], clients)
    trained = result.task("gestures")
    assert [(r.phase, r.accepted, r.failed) for r in trained.rounds] == [(Phase.COMMITTED, 3, 1)] * 4
    assert [(f.device, f.failure.round_num, f.failure.kind) for f in result.failures] == [
        ("client-2", round_num, "DataError") for round_num in (1, 2, 3, 4)
    ]
    assert "client-2" not in result.failures[0].failure.message
    train = learning.build_process(trained.spec, None, None)
    assert isinstance(train, TrainingProcess)
    state = train.initialize()
    for _ in range(4):
        state, _ = train.next(state, clients[:2] + clients[3:])
    assert trained.state == state


def test_a_task_that_cannot_be_finished_ends_the_simulation_with_its_reason() -> None:
    clients = list(fleet(2))
    broken = features_of(clients[1]).copy()
    broken[0, 0] = np.inf
    clients[1] = client("client-1", broken, labels_of(clients[1]))
    seen: list[RoundSummary] = []
    with pytest.raises(ConflictError, match=r"task 'gestures' cannot be finished: .*: DataError: .*device client-1"):
        simulation.simulate([plain_training(2)], clients, on_round=seen.append)
    assert [(r.round_num, r.phase) for r in seen] == [(i, Phase.ABANDONED) for i in range(1, 11)]


def test_updates_beyond_the_norm_bound_are_failures_that_say_so() -> None:
    spec, text = plain_training(2)
    spec = replace(spec, aggregator=replace(spec.aggregator, norm_bound=2.0**-10))
    with pytest.raises(ConflictError, match="NORM: the L2 norm is"):
        simulation.simulate([(spec, text)], fleet(2))


def test_an_aggregate_that_cannot_be_applied_ends_the_simulation() -> None:
    spec, text = plain_training(2)
    # Each is in range by itself; their product is not a float32.
    spec = replace(
        spec,
        client=ClientSpec(learning_rate=20.0),
        server_optimizer=replace(spec.server_optimizer, learning_rate=3e38),
    )
    seen: list[RoundSummary] = []
    with pytest.raises(ConflictError, match="cannot be finished: KernelError"):
        simulation.simulate([(spec, text)], fleet(2), on_round=seen.append)
    assert [r.phase for r in seen] == [Phase.ABANDONED]


def test_the_record_knows_what_became_of_each_report() -> None:
    spec, text = plain_training(1)
    record = MemoryRecord()
    before, after = ProcessState(0, b"zero"), ProcessState(1, b"one")
    record.apply(SaveTask(TaskRecord(spec, text, TaskStatus.RUNNING, before, 1)))
    metrics = RoundMetrics(1, 1, 1, 0, 0.0)
    assert record.fate("gestures", 1, "a") is Fate.OPEN
    record.apply(SaveCommit("gestures", 1, ("a",), after, metrics, TaskStatus.RUNNING))
    assert [record.fate("gestures", 1, device) for device in "ab"] == [Fate.COUNTED, Fate.NOT_COUNTED]
    record.apply(SaveAbandon("gestures", 2, "deadline"))
    assert [record.fate("gestures", round_num, "a") for round_num in (2, 3)] == [Fate.NOT_COUNTED, Fate.OPEN]
    assert [record.content(state.model_digest) for state in (before, after)] == [b"zero", b"one"]
    assert record.models("gestures") == (b"one",)
    assert record.tasks["gestures"].next_round == 3


def test_on_round_sees_every_round_once_in_order() -> None:
    clients = fleet(3)
    seen: list[RoundSummary] = []
    result = simulation.simulate(all_three(3), clients, held_out(clients), on_round=seen.append)
    assert sorted((r.task, r.round_num) for r in seen) == sorted(
        [(one.spec.name, r.round_num) for one in result.tasks for r in one.rounds]
    )
    # Training and evaluation alternate: they are served least recently first.
    assert [r.task for r in seen[2:6]] == ["gestures", "accuracy", "gestures", "accuracy"]


def test_devices_that_hold_nothing_out_are_not_asked_to_evaluate() -> None:
    clients = fleet(4)
    kept = held_out(clients)[:2]
    tasks = [plain_training(4), task(EVALUATION, 4, 1)]
    result = simulation.simulate(tasks, clients, kept)
    assert [r.accepted for r in result.task("accuracy").rounds] == [2] * 4
    assert result.failures == ()


def test_every_model_version_is_there_and_the_last_one_can_be_released() -> None:
    clients = fleet(3)
    result = simulation.simulate(all_three(3), clients, held_out(clients))
    trained = result.task("gestures")
    assert len(trained.models) == 4
    assert len(set(trained.models)) == 4
    assert trained.models[-1] == trained.state.model
    weights, standardization = simulation.release_inputs(result, "gestures")
    assert weights.to_bytes() == trained.state.model
    assert standardization == result.task("spreads").standardization
    assert result.task("accuracy").models == ()
    assert result.task("accuracy").model == trained.model
    with pytest.raises(ConflictError, match="expected a training"):
        simulation.release_inputs(result, "accuracy")
    with pytest.raises(NotFoundError, match="no task 'gesture' in this simulation; did you mean 'gestures'"):
        simulation.release_inputs(result, "gesture")


def test_more_devices_than_a_server_lets_wait_still_fill_a_round() -> None:
    clients = fleet(150, smallest=1)
    result = simulation.simulate([plain_training(150, rounds=2)], clients)
    assert [r.accepted for r in result.task("gestures").rounds] == [150, 150]
    assert result.virtual_s < 1  # nobody was sent away for want of a place


def test_fleets_that_cannot_do_the_tasks_are_refused() -> None:
    clients = fleet(2)
    with pytest.raises(ConfigError, match="at least 3 devices with examples for a round, and the fleet has 2"):
        simulation.simulate([plain_training(3)], clients)
    with pytest.raises(ConfigError, match="the fleet has 0"):
        simulation.simulate([plain_training(2), task(EVALUATION, 2)], clients)
    with pytest.raises(ConfigError, match="2 parts of 1 ids"):
        simulation.simulate([plain_training(2)], [clients[0], clients[0]])
    with pytest.raises(ConfigError, match=r"populations \['clocks', 'watches'\]"):
        simulation.simulate([plain_training(2), plain_training(2, name="other", population="clocks")], clients)
    with pytest.raises(ConfigError, match="a fleet of 0 devices"):
        simulation.simulate([plain_training(2)], [])
