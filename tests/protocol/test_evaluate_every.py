"""``evaluate_every``: an evaluation reads every so many versions and the last, everywhere that a task runs."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from coordinator_kit import Fleet, assignments
from protocol_kit import evaluation, training
from server_kit import Caller, definition, run, update_for
from simulate_kit import argv, write_files
from test_server_retention import EVALUATION, kept, rounds_of

from edgefl.cli.main import main
from edgefl.errors import ConfigError
from edgefl.learning.client import run_plan
from edgefl.proto.v1 import control_pb2
from edgefl.protocol.events import TaskCreated, TaskEnded, TaskStatus
from edgefl.protocol.messages import Assignment, ClientUpdate
from edgefl.protocol.task import TaskSpec, parse_task
from edgefl.settings import to_toml
from edgefl.types import Examples


@pytest.mark.parametrize(
    ("every", "last", "reads"),
    [
        (1, 3, [1, 2, 3]),
        (10, 25, [10, 20, 25]),
        (10, 30, [10, 20, 30]),
        (10, 4, [4]),
        (3, 1, [1]),
        (1000, 2000, [1000, 2000]),
    ],
)
def test_which_versions_are_read(every: int, last: int, reads: list[int]) -> None:
    spec = replace(evaluation(), evaluate_every=every)
    assert [spec.reads(version, last) for version in range(len(reads) + 2)] == [*reads, 0, 0]
    assert spec.num_evaluations(last) == len(reads)
    assert parse_task(to_toml(spec), "again") == spec


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ConfigError, match="evaluate_every is 0; expected 1 to 1000000"):
        replace(evaluation(), evaluate_every=0)
    with pytest.raises(ConfigError, match="evaluate_every in a task of kind 'training'; expected one that 'evaluates'"):
        replace(training(), evaluate_every=2)
    fleet = Fleet(training(goal=1, rounds=25))
    with pytest.raises(
        ConfigError,
        match="rounds is 4; expected at most 3: 'train' has 25 versions, of which every 10th and the last are read",
    ):
        fleet.handle(TaskCreated(every(10, rounds=4), ""))


def every(number: int, *, rounds: int) -> TaskSpec:
    return replace(evaluation(goal=1, rounds=rounds), evaluate_every=number)


def train(fleet: Fleet) -> str:
    """One round by a device that cannot evaluate; the digest of the model that it makes."""
    fleet.answer("a", assignments(fleet.arrive("a", num_held_out=0))["a"], 5)
    return str(fleet.task().state.model_digest)


def evaluate(fleet: Fleet) -> str:
    """One round by a device that cannot train, with a restart in its middle; the digest of the model that it gets."""
    job = assignments(fleet.arrive("b", num_train=0))["b"]
    fleet.server.restart()
    fleet.answer("b", job)
    return job.model_digest


def test_models_that_are_still_to_be_read_are_kept_and_no_others() -> None:
    fleet = Fleet(training(goal=1, rounds=7), every(3, rounds=3))
    digests = [train(fleet) for _ in range(7)]
    assert [evaluate(fleet) for _ in range(3)] == [digests[2], digests[5], digests[6]]
    assert fleet.task("eval").status is TaskStatus.COMPLETED
    assert fleet.server.coordinator._board._models == {}


def test_the_last_version_of_a_training_that_was_ended_early_is_read_once() -> None:
    fleet = Fleet(training(goal=1, rounds=20), every(3, rounds=5))
    digests = [train(fleet) for _ in range(4)]
    assert evaluate(fleet) == digests[2]
    assert not assignments(fleet.arrive("b", num_train=0)), "version 6 may come"
    fleet.handle(TaskEnded("train"))
    assert evaluate(fleet) == digests[3]
    assert not assignments(fleet.arrive("b", num_train=0))


def test_a_server_keeps_the_models_and_says_which_it_evaluated(tmp_path: Path) -> None:
    text = EVALUATION.replace("rounds = 2", "rounds = 3\nevaluate_every = 4")

    async def before(caller: Caller) -> None:
        await caller.create(definition(goal=1, rounds=20))
        await caller.create(text)
        await caller.operate("PauseTask", control_pb2.TaskRequest(name="eval"))
        await rounds_of(caller, 1, 9)

    async def after(caller: Caller) -> None:
        await caller.operate("ResumeTask", control_pb2.TaskRequest(name="eval"))
        digests = dict(enumerate(await caller.models(), start=10 - len(await caller.models())))
        job = (await caller.check_in("e", num_train=0)).outcome
        assert isinstance(job, Assignment)
        assert job.model_digest == digests[4]
        await caller.report("e", evaluated(job, await caller.download(job.model_digest)))
        ended = await caller.ended(1, "eval")
        assert (ended.round, ended.version, ended.base_version) == (1, 1, 4)
        job = await caller.assignment("a")
        await caller.report("a", update_for(job, "a"))
        assert (await caller.ended(10)).base_version == 9

    run(tmp_path, before, retention_rounds=2)
    assert kept(tmp_path) == [4, 5, 6, 7, 8, 9]
    run(tmp_path, after, retention_rounds=2)
    assert kept(tmp_path) == [8, 9, 10]


def evaluated(job: Assignment, model: bytes) -> ClientUpdate:
    held_out = Examples(3, bytes(12), bytes(4))
    report = run_plan(job, model, Examples(3, b"", b""), held_out, "e")
    assert isinstance(report, ClientUpdate)
    return report


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return write_files(tmp_path)


EVERYONE = ("--set", "accuracy:round.goal=5")
SETTINGS = (*EVERYONE, "--set", "gestures:rounds=8", "--set", "accuracy:rounds=3", "--set", "accuracy:evaluate_every=3")


def test_a_simulation_evaluates_what_every_round_would_have(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = argv(files, "gestures", "spreads", "accuracy")[:-2]
    assert main([*command, *SETTINGS, "--json", "--log", str(files / "log")]) == 0
    few = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert main([*command, *EVERYONE, "--set", "rounds=8", "--json"]) == 0
    all_of_them = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = {line["base_version"]: line for line in few if line["task"] == "accuracy" and "round" in line}
    wanted = {line["base_version"]: line for line in all_of_them if line["task"] == "accuracy" and "round" in line}
    assert list(found) == [3, 6, 8]
    assert list(wanted) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert [found[v]["accuracy"] for v in found] == [wanted[v]["accuracy"] for v in found]
    assert [found[v]["loss"] for v in found] == [wanted[v]["loss"] for v in found]
    rows = [line.split(",") for line in (files / "log" / "rounds.csv").read_text().splitlines()]
    assert [row[-1] for row in rows if row[0] == "accuracy"] == ["3", "6", "8"]


def test_people_see_which_version_an_evaluation_was_of(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*argv(files, "gestures", "spreads", "accuracy")[:-2], *SETTINGS]) == 0
    shown = capsys.readouterr().out.splitlines()
    lines = [line for line in shown if line.startswith("accuracy") and "committed" in line]
    assert [line.split("reports  ")[1].split("  loss")[0] for line in lines] == [
        "of version 3",
        "of version 6",
        "of version 8",
    ]


def test_a_fleet_that_breaks_evaluates_the_same_versions(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*argv(files), *SETTINGS, "--runs", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["updates"]["lost"] == 0
