"""The devices' work in many processes: the same result, the same failures, and nothing left running."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from simulate_kit import write_files
from small_fleet import client, features_of, fleet, labels_of

from edgefl import learning, simulation
from edgefl.cli.main import main
from edgefl.errors import ConfigError, UnavailableError
from edgefl.protocol.events import RoundSummary
from edgefl.protocol.messages import Assignment, ClientUpdate, WorkFailure
from edgefl.protocol.task import TaskSpec, parse_task
from edgefl.simulation import SimulationResult
from edgefl.simulation.holdings import Holdings, deal
from edgefl.simulation.processes import ProcessWorkers
from edgefl.simulation.workers import OwnWorkers
from edgefl.types import ClientDataset

TEXTS = (
    """
name = "spreads"
kind = "statistics"
population = "watches"
rounds = 2
round = { goal = 6, minimum = 2 }
model = { num_features = 5, num_classes = 3 }
statistics = { feature_bound = 8.0 }
""",
    """
name = "gestures"
kind = "training"
population = "watches"
seed = 11
rounds = 4
round = { goal = 3, minimum = 2, over_selection = 1.5 }
model = { num_features = 5, num_classes = 3, standardize_by = "spreads" }
client = { learning_rate = 0.2, batch_size = 4 }
""",
    """
name = "accuracy"
kind = "evaluation"
population = "watches"
rounds = 4
evaluates = "gestures"
round = { goal = 6, minimum = 2 }
""",
    """
name = "gains"
kind = "personalization"
population = "watches"
rounds = 4
evaluates = "gestures"
round = { goal = 6, minimum = 2 }
client = { learning_rate = 0.5, batch_size = 2, local_epochs = 3 }
""",
)
TASKS = [(parse_task(text, "task.toml"), text) for text in TEXTS]
CLIENTS = fleet(6)
HELD_OUT = [replace(one, client_id=mine.client_id) for one, mine in zip(fleet(6, seed=8), CLIENTS, strict=True)]
EDGEFL = str(Path(sys.executable).parent / "edgefl")


def essence(result: SimulationResult) -> list[object]:
    return [(one.spec.name, one.state, one.models, one.rounds, one.standardization) for one in result.tasks]


def children() -> list[int]:
    return [int(pid) for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()]


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    before = children()
    yield
    assert children() == before


@pytest.mark.parametrize("processes", [1, 2, 6])
def test_all_kinds_of_task_give_the_result_of_one_process(processes: int) -> None:
    alone = simulation.simulate(TASKS, CLIENTS, HELD_OUT)
    many = simulation.simulate(TASKS, CLIENTS, HELD_OUT, processes=processes)
    assert essence(many) == essence(alone)
    assert many.virtual_s == alone.virtual_s


def broken_fleet() -> list[ClientDataset]:
    clients = list(CLIENTS)
    for index, value in ((1, np.nan), (4, np.inf)):
        broken = features_of(clients[index]).copy()
        broken[1, 1] = value
        clients[index] = client(f"client-{index}", broken, labels_of(clients[index]))
    return clients


def test_failing_clients_fail_with_the_text_of_one_process() -> None:
    tasks = [TASKS[0]]
    alone = simulation.simulate(tasks, broken_fleet())
    many = simulation.simulate(tasks, broken_fleet(), processes=3)
    assert many.failures == alone.failures
    assert sorted({failure.device for failure in many.failures}) == ["client-1", "client-4"]
    assert essence(many) == essence(alone)


def work(spec: TaskSpec) -> tuple[Assignment, bytes]:
    process = learning.build_process(spec, None, None)
    state = process.initialize()
    return Assignment(spec.name, 1, 5, process.plan(state), state.model_digest, len(state.model), 60.0), state.model


def plain() -> TaskSpec:
    return parse_task(TEXTS[1].replace(', standardize_by = "spreads"', ""), "task.toml")


def holdings(clients: Sequence[ClientDataset] = CLIENTS) -> list[Holdings]:
    return deal([(plain(), "")], clients, ())


def test_reports_come_in_the_order_asked_for() -> None:
    assignment, model = work(plain())
    names = ["client-5", "client-0", "client-3", "client-1"]
    with ProcessWorkers(holdings(broken_fleet()), 2) as workers:
        reports = workers.work(assignment, model, names, {})
        assert workers.work(assignment, model, [], {}) == []
    assert reports == OwnWorkers(holdings(broken_fleet())).work(assignment, model, names, {})
    assert [type(report) for report in reports] == [ClientUpdate, ClientUpdate, ClientUpdate, WorkFailure]


def test_a_worker_that_is_killed_is_one_error_that_names_it() -> None:
    assignment, model = work(plain())
    with ProcessWorkers(holdings(), 3) as workers:
        victim = children()[1]
        os.kill(victim, signal.SIGKILL)
        with pytest.raises(UnavailableError, match=rf"^worker 2 of 3 \(process {victim}\) was ended by SIGKILL; if"):
            workers.work(assignment, model, [one.device for one in holdings()], {})


def test_a_worker_killed_between_two_rounds_ends_the_simulation() -> None:
    def kill(summary: RoundSummary) -> None:
        if (summary.task, summary.round_num) == ("gestures", 2):
            os.kill(children()[-1], signal.SIGKILL)

    with pytest.raises(UnavailableError, match=r"^worker 2 of 2 \(process"):
        simulation.simulate(TASKS, CLIENTS, HELD_OUT, on_round=kill, processes=2)


def test_an_error_in_the_middle_leaves_no_worker() -> None:
    def interrupt(_: RoundSummary) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        simulation.simulate(TASKS, CLIENTS, HELD_OUT, on_round=interrupt, processes=2)


@pytest.mark.parametrize("processes", [0, -1, 7])
def test_a_number_that_makes_no_sense_is_refused(processes: int) -> None:
    with pytest.raises(ConfigError, match=rf"^{processes} processes for 6 devices; expected 1 to 6"):
        simulation.simulate(TASKS, CLIENTS, HELD_OUT, processes=processes)


def simulate_argv(files: Path, *options: str) -> list[str]:
    tasks = [str(files / f"{name}.toml") for name in ("spreads", "gestures")]
    return ["simulate", *tasks, "--dataset", str(files / "people.csv"), *options]


def test_the_command_prints_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write_files(tmp_path)
    printed = []
    for options in ((), ("--processes", "2")):
        assert main(simulate_argv(files, *options)) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert "gestures" in printed[0]


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (("--processes", "6"), 78, "6 processes for 5 devices"),
        (("--processes", "0"), 64, "'0' is not a count"),
        (("--processes", "2", "--faults", "faults.toml"), 78, "--processes and --grpc are for a run without --faults"),
    ],
)
def test_wrong_options_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], status: int, message: str
) -> None:
    argv = simulate_argv(write_files(tmp_path), *options)
    try:
        found = main(argv)
    except SystemExit as ended:  # argparse's
        found = int(ended.code or 0)
    error = capsys.readouterr().err
    assert (found, message in error, error.count("\n")) == (status, True, 1)


def test_ctrl_c_ends_the_command_and_its_workers(tmp_path: Path) -> None:
    files = write_files(tmp_path)
    text = (files / "gestures.toml").read_text().replace("rounds = 50", "rounds = 1000000")
    (files / "gestures.toml").write_text(text)
    command = [EDGEFL, *simulate_argv(files, "--processes", "2")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline().startswith("spreads")
        workers = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(workers) == 2
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.stderr.read() == "edgefl: interrupted\n"
        assert process.wait() == 130
    assert not [pid for pid in workers if Path(f"/proc/{pid}").exists()]
