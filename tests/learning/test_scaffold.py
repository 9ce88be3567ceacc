"""SCAFFOLD against an oracle in float64 NumPy that follows the paper's algorithm 1, and over a simulated fleet."""

from __future__ import annotations

from array import array
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from small_fleet import fleet
from test_learning_algorithms import gradient

import edgefl
from edgefl import learning, optimizers
from edgefl.errors import ConfigError, LocalProtocolError
from edgefl.learning.scaffold import VariateStep
from edgefl.protocol.messages import ScaffoldWork
from edgefl.protocol.process import ProcessState
from edgefl.protocol.sampling import draw_cohort
from edgefl.protocol.task import AggregatorSpec, ClientSpec, ModelSpec, RoundSpec, TaskKind, TaskSpec, parse_task
from edgefl.settings import to_toml
from edgefl.simulation import simulate
from edgefl.types import ClientDataset

MODEL = edgefl.SoftmaxModel(num_features=5, num_classes=3)
Array = npt.NDArray[np.float64]
FULL: dict[str, Any] = {"batch_size": 10_000, "local_epochs": 3, "shuffle": False}
RATE = 0.3


class Oracle:
    """Algorithm 1 with option II: full-batch steps, so that K is the number of local epochs."""

    def __init__(self, num_clients: int, steps: int) -> None:
        self.x, self.c = np.zeros(18), np.zeros(18)
        self.of: dict[str, Array] = {}
        self.num_clients, self.steps = num_clients, steps

    def round(self, clients: list[ClientDataset]) -> None:
        moves, changes = [], []
        for client in clients:
            own, y = self.of.get(client.client_id, np.zeros(18)), self.x
            for _ in range(self.steps):
                y = y - RATE * (gradient(client, y) - own + self.c)
            new = own - self.c + (self.x - y) / (self.steps * RATE)
            moves.append(y - self.x)
            changes.append(new - own)
            self.of[client.client_id] = new
        self.x = self.x + np.mean(moves, axis=0)
        self.c = self.c + len(clients) / self.num_clients * np.mean(changes, axis=0)


def wide(raw: bytes) -> Array:
    return np.frombuffer(raw, np.float32).astype(np.float64)


def server_variate(state: ProcessState) -> Array:
    return wide(state.extra[8 : 8 + 72])


def test_it_is_algorithm_1_of_the_paper() -> None:
    """Twelve rounds in which each client of six takes part now and then."""
    clients = fleet(6, smallest=4)
    oracle = Oracle(num_clients=6, steps=3)
    process = learning.build_scaffold(MODEL, optimizers.sgd(RATE), num_clients=6, **FULL)
    state = process.initialize()
    for number in range(12):
        cohort = [clients[number % 6], clients[(2 * number + 1) % 6], clients[(number + 3) % 6]]
        cohort = list({one.client_id: one for one in cohort}.values())
        oracle.round(cohort)
        state, _ = process.next(state, cohort)
        assert np.abs(wide(state.model) - oracle.x).max() < 3e-6
        assert np.abs(server_variate(state) - oracle.c).max() < 3e-6
        for name, variate in state.clients.items():
            assert np.abs(wide(variate) - oracle.of[name]).max() < 3e-6
    assert set(state.clients) == {one.client_id for one in clients}
    mean = sum(wide(variate) for variate in state.clients.values()) / 6
    assert np.abs(server_variate(state) - mean).max() < 1e-6
    assert np.abs(oracle.c).max() > 0.01  # or else this has shown little


def test_the_first_round_is_unweighted_averaging() -> None:
    """All variates are 0 then."""
    clients = fleet(3)
    process = learning.build_scaffold(MODEL, optimizers.sgd(RATE), num_clients=3, **FULL)
    unweighted = learning.build_unweighted_fed_avg(MODEL, optimizers.sgd(RATE), **FULL)
    ours, theirs = process.next(process.initialize(), clients), unweighted.next(unweighted.initialize(), clients)
    assert np.abs(wide(ours[0].model) - wide(theirs[0].model)).max() < 1e-6
    assert ours[1].total_weight == 3
    assert ours[1].accuracy == theirs[1].accuracy


def test_steps_are_counted_by_batches() -> None:
    """The server works a client's steps out from its number of examples, and must come to what the client counted."""
    clients = fleet(4, smallest=3)
    process = learning.build_scaffold(MODEL, optimizers.sgd(RATE), num_clients=4, batch_size=4, local_epochs=2)
    state = process.initialize()
    for _ in range(3):
        state, _ = process.next(state, clients)
    mean = sum(wide(variate) for variate in state.clients.values()) / 4
    assert np.abs(server_variate(state) - mean).max() < 1e-6
    assert np.abs(mean).max() > 0.01


def test_a_state_is_explicit_and_the_order_of_clients_does_not_matter() -> None:
    clients = fleet(5)
    process = learning.build_scaffold(MODEL, optimizers.sgd(RATE), num_clients=9, batch_size=4)
    first, _ = process.next(process.initialize(), clients)
    kept = dict(first.clients)
    once = process.next(first, clients)[0]
    assert process.next(first, clients[::-1])[0] == once
    assert dict(first.clients) == kept
    assert once.clients != first.clients


def test_a_population_that_grows_keeps_the_servers_variate_the_mean() -> None:
    clients = fleet(6)
    small = learning.build_scaffold(MODEL, optimizers.sgd(RATE), num_clients=3, **FULL)
    state, _ = small.next(small.initialize(), clients[:3])
    state, _ = replace(small, population=6).next(state, clients[1:4])
    mean = sum(wide(variate) for variate in state.clients.values()) / 6
    assert np.abs(server_variate(state) - mean).max() < 1e-6


def test_a_population_that_shrinks_leaves_the_mean_and_not_the_sum_of_those_that_left() -> None:
    """All six have the same examples, and so the same variates: the three that stay have the mean of the six."""
    same = fleet(1)[0]
    clients = [replace(same, client_id=f"c{number}") for number in range(6)]
    process = learning.build_scaffold(MODEL, optimizers.sgd(RATE), num_clients=6, **FULL)
    state, _ = process.next(process.initialize(), clients)
    assert np.abs(server_variate(state)).max() > 0.01
    state, _ = replace(process, population=3).next(state, clients[:3])
    assert np.abs(server_variate(state) - wide(state.clients["c0"])).max() < 1e-6


def test_what_a_device_lost_stays_in_the_servers_variate() -> None:
    """docs/reliability.md says so: both add the same changes, so the difference stays as it is."""
    clients = fleet(4, smallest=4)
    process = learning.build_scaffold(MODEL, optimizers.sgd(RATE), num_clients=4, **FULL)
    state = process.initialize()
    for _ in range(3):
        state, _ = process.next(state, clients)
    (name, variate), *others = state.clients.items()
    lost, state = wide(variate), replace(state, clients=dict(others))
    assert name == clients[0].client_id
    assert np.abs(lost).max() > 0.01
    for _ in range(3):
        state, _ = process.next(state, clients)
        mean = sum(wide(variate) for variate in state.clients.values()) / 4
        assert np.abs(server_variate(state) - mean - lost / 4).max() < 1e-6


def test_a_finalizer_refuses_a_population_smaller_than_its_reports() -> None:
    step = VariateStep(optimizers.sgd(1.0))
    extra = step.init(18)
    with pytest.raises(LocalProtocolError, match=r"a round of 3 reports at rate 0.5 records a population of 2"):
        step.apply(extra, bytes(72), array("d", bytes(288)).tobytes(), learning.Closing(3, 2, 0.5))


SPEC = TaskSpec(
    "drift",
    TaskKind.TRAINING,
    "p",
    RoundSpec(3, 2),
    seed=5,
    process="scaffold",
    rounds=6,
    model=ModelSpec(5, 3),
    client=ClientSpec(RATE, batch_size=4, local_epochs=2),
)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"client": ClientSpec(0.1, momentum=0.5)}, "process 'scaffold' takes plain SGD on the client"),
        ({"client": ClientSpec(0.1, proximal=0.5)}, "process 'scaffold' takes plain SGD on the client"),
        ({"client": ClientSpec(0.1, clip_norm=0.5)}, "process 'scaffold' takes plain SGD on the client"),
        ({"client": ClientSpec(0.0)}, "learning_rate 0.0 and local_epochs 1; process 'scaffold' needs both above 0"),
        ({"client": ClientSpec(0.1, local_epochs=0)}, "learning_rate 0.1 and local_epochs 0"),
        ({"client": None}, "process 'scaffold' needs a table"),
        ({"aggregator": AggregatorSpec("weighted_mean")}, "process 'scaffold' has an aggregator of its own"),
        ({"aggregator": AggregatorSpec(clip_norm=1.0)}, "process 'scaffold' has an aggregator of its own"),
        ({"model": ModelSpec(65536, 150)}, "a model and a control variate of 9830550 values have 78644400 bytes"),
    ],
)
def test_what_it_does_not_take_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        learning.build_process(replace(SPEC, **changes), None, None)
    with pytest.raises(ConfigError, match="num_clients is 0; expected at least 1"):
        learning.build_scaffold(MODEL, optimizers.sgd(RATE), num_clients=0)


def in_process(clients: list[ClientDataset], cohorts: list[tuple[str, ...]]) -> ProcessState:
    """The same rounds by ``next``: what the fleet must come to, bit for bit."""
    process = learning.build_process(SPEC, None, None)
    assert isinstance(process, learning.TrainingProcess)
    process = replace(process, population=len(clients))
    state = process.initialize()
    for cohort in cohorts:
        state, _ = process.next(state, [one for one in clients if one.client_id in cohort])
    return state


@pytest.mark.parametrize("processes", [None, 2])
def test_a_fleet_comes_to_the_same_bits(processes: int | None) -> None:
    """Devices keep their variates themselves, and adopt them only once they know that their round counted them."""
    clients = fleet(7)
    result = simulate([(SPEC, to_toml(SPEC))], clients, processes=processes).task("drift")
    names = [one.client_id for one in clients]
    cohorts = [draw_cohort(SPEC.seed, number, names, 3) for number in range(1, 7)]
    assert len({name for cohort in cohorts for name in cohort}) > 3
    expected = in_process(clients, cohorts)
    assert result.state.model_digest == expected.model_digest
    assert result.state.extra == expected.extra
    assert [one.conditions.population for one in result.rounds] == [7] * 6


def test_two_tasks_and_an_evaluation_share_a_population() -> None:
    """A device with two proposals asks for one at a time, and works on neither task before it knows."""
    clients = fleet(4)
    other = replace(SPEC, name="other", seed=6)
    watch = TaskSpec("watch", TaskKind.EVALUATION, "p", RoundSpec(4, 1), rounds=6, evaluates="drift")
    tasks = [(spec, to_toml(spec)) for spec in (SPEC, other, watch)]
    both = simulate(tasks, clients, clients)
    assert not both.failures
    for spec in (SPEC, other):
        alone = simulate([(spec, to_toml(spec))], clients).task(spec.name)
        assert both.task(spec.name).models == alone.models


def test_a_task_file_names_it_and_devices_are_told() -> None:
    process = learning.build_process(parse_task(to_toml(SPEC), "t.toml"), None, None)
    state = process.initialize()
    work = process.plan(state).work
    assert isinstance(work, ScaffoldWork)
    assert process.content(state) == state.model + bytes(72)
