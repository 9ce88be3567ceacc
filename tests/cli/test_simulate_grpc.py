"""``edgefl simulate --grpc``: real processes give the bits of one process, and none of them is left."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from array import array
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from process_kit import processes_naming
from simulate_kit import write_files

from edgefl.cli.main import main

EDGEFL = str(Path(sys.executable).parent / "edgefl")
TIME_LIMIT_S = 120
ROUND = "round = { goal = 5, minimum = 2 }\n"
TASKS = {
    "spreads": f"""
name = "spreads"
kind = "statistics"
population = "watches"
rounds = 2
{ROUND}
model = {{ num_features = 3, num_classes = 3 }}
statistics = {{ feature_bound = 8.0 }}
""",
    "gestures": f"""
name = "gestures"
kind = "training"
population = "watches"
seed = 11
rounds = 3
{ROUND}
model = {{ num_features = 3, num_classes = 3, standardize_by = "spreads" }}
client = {{ learning_rate = 0.2, batch_size = 4 }}
server_optimizer = {{ learning_rate = 1.0, momentum = 0.5 }}
""",
    "drift": """
name = "drift"
kind = "training"
process = "scaffold"
population = "watches"
seed = 12
rounds = 4
round = { goal = 3, minimum = 2 }
model = { num_features = 3, num_classes = 3, standardize_by = "spreads" }
client = { learning_rate = 0.2, batch_size = 4, local_epochs = 2 }
""",
    "accuracy": f"""
name = "accuracy"
kind = "evaluation"
population = "watches"
rounds = 3
evaluates = "gestures"
{ROUND}
""",
    "gains": f"""
name = "gains"
kind = "personalization"
population = "watches"
rounds = 3
evaluates = "gestures"
{ROUND}
client = {{ learning_rate = 0.5, batch_size = 2, local_epochs = 3 }}
""",
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The five tasks, and the five people of ``simulate_kit`` under names that a device can have."""
    write_files(tmp_path)
    people = tmp_path / "people.csv"
    people.write_text(people.read_text().replace("person ", "person-"))
    for name, text in TASKS.items():
        (tmp_path / f"{name}.toml").write_text(text)
    return tmp_path


def argv(files: Path, *options: str, tasks: tuple[str, ...] = tuple(TASKS)) -> list[str]:
    paths = [str(files / f"{name}.toml") for name in tasks]
    return ["simulate", *paths, "--dataset", str(files / "people.csv"), *options]


def run(*arguments: str) -> list[dict[str, Any]]:
    """What the command prints, without what depends on the time that devices take."""
    done = subprocess.run(
        [EDGEFL, *arguments, "--json"], capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines: list[dict[str, Any]] = [json.loads(line) for line in done.stdout.splitlines()]
    for line in lines:
        line.pop("latency_shares", None)
    return lines


def by_task(lines: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Tasks run beside each other: which round ends first is nobody's promise."""
    return {name: [line for line in lines if line["task"] == name] for name in dict.fromkeys(x["task"] for x in lines)}


def test_one_process_many_processes_and_grpc_give_the_same_bits(files: Path) -> None:
    """Every round of every kind of task, its loss, gains and worst decile among them, and the released file.

    Of tasks with other values than their files have; and one person has held-out examples alone.
    """
    stranger = "person-5,{label},held_out,0.5,{label},-0.5\n"
    with (files / "people.csv").open("a") as people:
        people.write("\n" + "".join(stranger.format(label=label) for label in (0, 1, 2)))
    changes = (
        "--set",
        "accuracy:round.goal=6",
        "--set",
        "accuracy:evaluate_every=2",
        "--set",
        "accuracy:rounds=2",
        "--set",
        "client.batch_size=3",
        "--seed",
        "4",
        "--set",
        "gestures:model.initial.file=start.bin",
    )
    (files / "start.bin").write_bytes(array("f", [number / 8 for number in range(12)]).tobytes())
    modes = {"one": changes, "many": (*changes, "--processes", "2"), "grpc": (*changes, "--grpc")}
    found = {mode: run(*argv(files, "--out", str(files / mode), *options)) for mode, options in modes.items()}
    results = {mode: lines[-len(TASKS) :] for mode, lines in found.items()}
    assert [line["task"] for line in results["one"]] == list(TASKS)
    assert results["grpc"] == results["one"]
    assert by_task(found["grpc"]) == by_task(found["one"])
    assert found["many"] == found["one"]
    gains = by_task(found["grpc"])["gains"]
    assert [line["round"] for line in gains[:-1]] == [1, 2, 3]
    assert all(line["num_gained"] + line["num_lost"] > 0 for line in gains[:-1])
    assert all(line["accuracy_worst_decile"] < line["accuracy_maximum"] for line in gains[:-1])
    for task in ("gestures", "drift"):
        models = [(files / mode / f"{task}.tflite").read_bytes() for mode in modes]
        assert models[0] == models[1] == models[2]
    drift = by_task(found["grpc"])["drift"]
    assert [(line["cohort"], line["population"]) for line in drift[:-1]] == [(3, 5)] * 4
    (folder,) = (path for path in (files / "grpc").iterdir() if path.is_dir())
    assert sorted(path.name for path in (folder / "logs").iterdir()) == [
        *(f"person-{number}.log" for number in range(6)),
        "server.log",
    ]
    cohorts = {name: lines[0]["cohort"] for name, lines in by_task(found["grpc"]).items()}
    assert cohorts == {"spreads": 5, "gestures": 5, "drift": 3, "accuracy": 6, "gains": 5}
    assert [line["base_version"] for line in by_task(found["grpc"])["accuracy"][:-1]] == [2, 3]
    assert not processes_naming(files)


def test_bytes_with_a_scale_and_clients_made_of_a_pool(tmp_path: Path) -> None:
    text = f"""
name = "digits"
kind = "training"
population = "pens"
rounds = 2
{ROUND.replace("5", "3")}
model = {{ num_features = 64, num_classes = 10, dtype = "uint8", scale = 0.0625 }}
client = {{ learning_rate = 0.05 }}
"""
    (tmp_path / "digits.toml").write_text(text)
    clients = ("--dataset", "digits", "--partition", "dirichlet:0.5", "--clients", "3")
    arguments = ("simulate", str(tmp_path / "digits.toml"), *clients)
    assert run(*arguments, "--grpc") == run(*arguments)


def test_a_task_that_cannot_be_finished_says_why(files: Path) -> None:
    (files / "spreads.toml").write_text(TASKS["spreads"].replace("8.0", "0.001"))
    command = [EDGEFL, *argv(files, "--grpc", "--out", str(files / "out"), tasks=("spreads",))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False)
    assert done.returncode == 80
    told = [int(number) for number in re.findall(r"round +(\d+) +abandoned", done.stdout)]
    # Ten that only failed suspend the task; the first ends before the last of its five has failed.
    assert told in (list(range(1, 11)), list(range(1, 12)))
    expected = "edgefl: error: task 'spreads' cannot be finished: 0 reports, 4 of 5 failed; 2 out of reach: DataError: "
    assert done.stderr.startswith(expected)
    assert Path(done.stderr.strip().removesuffix(")").split("log: ")[1]).is_file()


def keep_people(files: Path, count: int) -> None:
    """Leave so many of the five people: each takes a process, which takes its second to start."""
    people = files / "people.csv"
    kept = [line for line in people.read_text().splitlines() if line < f"person-{count}"]
    people.write_text("\n".join(kept))


@contextmanager
def endless(files: Path, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """The command in the middle of a training of two people that would take days."""
    keep_people(files, 2)
    text = TASKS["gestures"].replace("rounds = 3", "rounds = 1000000").replace(', standardize_by = "spreads"', "")
    (files / "gestures.toml").write_text(text.replace("goal = 5", "goal = 2"))
    command = [EDGEFL, *argv(files, "--grpc", tasks=("gestures",))]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment}
    ) as process:
        try:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("gestures"):
                    break
            yield process
        finally:
            process.kill()  # of one that has ended, nothing


@pytest.mark.parametrize("victim", ["edgefl-device person-1", "edgefl-server"])
def test_a_process_that_is_killed_ends_the_run_and_its_log_is_named(files: Path, victim: str) -> None:
    command, _, name = victim.partition(" ")
    with endless(files, TMPDIR=str(files)) as process:
        pids = [pid for pid, line in processes_naming(files).items() if f"{command} run" in line and f"{name}" in line]
        assert len(pids) == 1
        os.kill(pids[0], signal.SIGKILL)
        _, error = process.communicate(timeout=TIME_LIMIT_S)
    assert process.returncode == 69
    assert error.startswith(f"edgefl: error: {victim} ended with status -9: ")
    assert error.count("\n") == 1
    assert Path(error.strip().removesuffix(")").split("log: ")[1]).is_file()
    assert not processes_naming(files)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_no_process_and_no_folder(files: Path, number: signal.Signals) -> None:
    temporary = files / "temporary"
    temporary.mkdir()
    with endless(files, TMPDIR=str(temporary)) as process:
        assert len(processes_naming(temporary)) == 3
        process.send_signal(number)
        _, error = process.communicate(timeout=TIME_LIMIT_S)
    assert (process.returncode, error) == (130, "edgefl: interrupted\n")
    assert not processes_naming(files)
    assert not list(temporary.iterdir())


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(list(arguments)) == 78
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_what_could_not_give_the_same_bits_is_refused(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    task = files / "gestures.toml"
    plain = TASKS["gestures"].replace(', standardize_by = "spreads"', "")
    task.write_text(plain.replace("goal = 5, minimum = 2", "goal = 3, minimum = 2, over_selection = 1.3"))
    command = argv(files, "--grpc", tasks=("gestures",))
    assert "over_selection is 1.3, so the fastest devices" in refused(capsys, *command)
    task.write_text(plain.replace("goal = 5", "goal = 6"))
    assert "goal is 6, and 5 devices can take part" in refused(capsys, *command)
    task.write_text(plain.replace("goal = 5", "candidates = 4, goal = 3"))
    assert "candidates is 4, and 5 devices can take part" in refused(capsys, *command)


def test_other_runs_that_make_no_sense_are_refused(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "exclude each other; choose one" in refused(capsys, *argv(files, "--grpc", "--processes", "2"))
    faults = ("--grpc", "--faults", str(files / "faults.toml"))
    assert "--processes and --grpc are for a run without --faults" in refused(capsys, *argv(files, *faults))
    people = files / "people.csv"
    people.write_text(people.read_text().replace("person-", "person "))
    assert "a client's id is 'person 0'; expected 1 to 64 of" in refused(capsys, *argv(files, "--grpc"))
    rows = "\n".join(f"p{number},0,train,0.5,0.5,0.5" for number in range(65))
    people.write_text(f"client,label,split,a,b,c\n{rows}\n")
    assert "--grpc with 65 clients: each is a process of 48 MB; expected at most 64" in refused(
        capsys, *argv(files, "--grpc")
    )


def test_a_model_with_a_hidden_layer_on_a_server_and_agents(files: Path) -> None:
    for name in ("gestures", "drift"):
        path = files / f"{name}.toml"
        path.write_text(path.read_text().replace("num_classes = 3,", 'num_classes = 3, kind = "mlp", hidden = 8,'))
    found = {mode: by_task(run(*argv(files, *options))) for mode, options in {"one": (), "grpc": ("--grpc",)}.items()}
    assert found["grpc"] == found["one"]
    assert len(found["one"]["gestures"]) == 4
