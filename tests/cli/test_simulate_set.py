"""``edgefl simulate --set`` and ``--seed``: the run of a file that has those values, and known as that run."""

from __future__ import annotations

import json
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
from faults.mutants import MUTANTS
from simulate_kit import argv, write_files

from edgefl.cli.main import main
from edgefl.errors import ConfigError, ConflictError, VerificationError
from edgefl.inputs.definitions import read_tasks

FEW = ["--set", "rounds=2"]
LEARNING = ["--set", "client.learning_rate=0.05"]


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return write_files(tmp_path)


def simulate(files: Path, *tasks: str) -> list[str]:
    return argv(files, *tasks)[: -len(["--faults", "file"])]


def ended(capsys: pytest.CaptureFixture[str], *command: str) -> dict[str, dict[str, Any]]:
    """What each task ended with."""
    assert main([*command, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return {row["task"]: row for row in rows if "model_sha256" in row}


def refused(capsys: pytest.CaptureFixture[str], *command: str) -> str:
    assert main([*command]) == ConfigError.exit_code
    return capsys.readouterr().err


def test_a_run_with_changes_is_that_of_a_file_that_has_them(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = files / "plain.toml"
    before = ended(capsys, *simulate(files, "plain"), *FEW)
    changed = ended(capsys, *simulate(files, "plain"), *FEW, *LEARNING, "--seed", "3")
    plain.write_text(
        plain.read_text()
        .replace("rounds = 50", "rounds = 2")
        .replace("seed = 11", "seed = 3")
        .replace("learning_rate = 0.2", "learning_rate = 0.05")
    )
    assert changed == ended(capsys, *simulate(files, "plain"))
    assert changed["gestures"]["version"] == 2
    assert changed["gestures"]["model_sha256"] != before["gestures"]["model_sha256"]


def test_each_change_holds_for_the_tasks_that_have_the_key(files: Path) -> None:
    names = [str(files / f"{name}.toml") for name in ("spreads", "gestures", "accuracy")]
    specs = [
        spec
        for spec, _ in read_tasks(
            names, ["rounds=7", "round.deadline_s=60", "accuracy:round.minimum=1", "model.num_classes = 4"], 9
        )
    ]
    assert [spec.rounds for spec in specs] == [2, 7, 7]  # statistics always take two
    assert [spec.round.deadline_s for spec in specs] == [60.0] * 3
    assert [spec.round.minimum for spec in specs] == [2, 2, 1]
    assert [spec.seed for spec in specs] == [9] * 3
    assert [spec.model.num_classes for spec in specs if spec.model is not None] == [4, 4]


def test_the_definition_as_text_has_the_changes_and_an_unchanged_one_is_the_file(files: Path) -> None:
    names = [str(files / f"{name}.toml") for name in ("spreads", "gestures")]
    (_, spreads), (_, gestures) = read_tasks(
        names, ["gestures:process=scaffold", "server_optimizer.momentum=0.25"], None
    )
    assert spreads == (files / "spreads.toml").read_text()
    table = tomllib.loads(gestures)
    assert (table["process"], table["server_optimizer"]["momentum"]) == ("scaffold", 0.25)


def test_a_key_of_a_table_that_the_file_does_not_have_makes_the_table(files: Path) -> None:
    path = str(files / "plain.toml")
    [(spec, _)] = read_tasks([path], ["client.schedule={kind='step', factor=0.5}", "client.schedule.rounds=5"], None)
    assert spec.client is not None
    assert (spec.client.schedule.kind.value, spec.client.schedule.rounds) == ("step", 5)
    [(spec, _)] = read_tasks([path], ["aggregator.options.halvings=1", "aggregator.name='mine'"], None)
    assert (spec.aggregator.name, spec.aggregator.options) == ("mine", {"halvings": 1.0})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("client.learning_rat=1", "unknown key 'client.learning_rat': 'learning_rat'; did you mean 'learning_rate'?"),
        ("clent.learning_rate=1", "unknown key 'clent.learning_rate': 'clent'; did you mean 'client'?"),
        ("seed.x=1", "unknown key 'seed.x': nothing stands below 'seed'"),
        ("seed", "expected KEY=VALUE or TASK:KEY=VALUE, as client.learning_rate=0.05"),
        ("=3", "expected KEY=VALUE or TASK:KEY=VALUE, as client.learning_rate=0.05"),
        (":seed=3", "expected KEY=VALUE or TASK:KEY=VALUE, as client.learning_rate=0.05"),
        ("seed=", "not valid TOML: "),
        ("seed=3 4", "not valid TOML: "),
        ("seed=3\nrounds=4", "expected one TOML value"),
        ("gesturs:seed=3", "no task 'gesturs'; did you mean 'gestures'?"),
        ("statistics.bins=3", "no task takes it; it is for tasks of kind statistics"),
    ],
)
def test_a_change_that_fits_nothing_is_refused(
    change: str, message: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = " ".join(change.split())
    assert f"edgefl: error: --set {shown}: {message}" in refused(capsys, *simulate(files, "plain"), "--set", change)


def test_a_value_that_the_definition_refuses_names_the_file_and_the_option(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refused(capsys, *simulate(files, "plain"), "--set", "client.learning_rate=fast")
    assert error == (
        f"edgefl: error: {files}/plain.toml with --set client.learning_rate=fast: client: learning_rate is 'fast'; "
        "expected a number\n"
    )
    assert "client is 1; expected a table" in refused(capsys, *simulate(files, "plain"), "--set", "client=1")
    error = refused(capsys, *simulate(files, "plain"), "--set", "round.goal=1")
    assert "with --set round.goal=1: round: minimum 2 and goal 1" in error


def test_a_checkpoint_knows_the_changes(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*simulate(files, "plain"), *FEW, "--checkpoint", str(tmp_path / "run.ck")]
    assert main([*command, *LEARNING]) == 0
    whole = capsys.readouterr().out
    assert main([*command, *LEARNING, "--resume"]) == 0
    assert capsys.readouterr().out == whole
    assert main([*command, "--resume"]) == ConflictError.exit_code
    assert "task 'gestures' had learning_rate = 0.05, and has learning_rate = 0.2" in capsys.readouterr().err


def test_processes_and_a_fleet_that_breaks_run_the_changed_task(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = [*FEW, *LEARNING, "--seed", "3"]
    here = ended(capsys, *simulate(files, "plain"), *changes)
    assert ended(capsys, *simulate(files, "plain"), *changes, "--processes", "2") == here
    with MUTANTS["no dedupe"]():
        command = [*argv(files, "plain"), *changes, "--set", "gestures:round.goal=3", "--runs", "50"]
        assert main([*command, "--json"]) == VerificationError.exit_code
        replay = json.loads(capsys.readouterr().out)["failure"]["replay"]
    assert "--set rounds=2 --set client.learning_rate=0.05 --set gestures:round.goal=3 --seed 3 --dataset" in replay
    assert main(shlex.split(replay)[1:]) == 0  # the defect is away
