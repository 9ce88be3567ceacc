"""Confusion matrices by class name: by hand, from Python, at a simulation's end and log, and of a server's task."""

from __future__ import annotations

import asyncio
import csv
import json
from pathlib import Path
from typing import Any

import pytest
from server_kit import Caller, run
from simulate_kit import TASKS, write_files
from small_fleet import fleet

import edgefl
from edgefl import learning
from edgefl.cli.main import main
from edgefl.confusion import Confusion
from edgefl.errors import DataError
from edgefl.protocol.messages import Accepted, Assignment, ClientUpdate

NAMES = ("rest", "wave", "clap")
BY_HAND = Confusion((8, 2, 0, 1, 4, 0, 0, 0, 0), NAMES)
"""Of rest 8 of 10 right, of wave 4 of 5; clap does not occur, and no answer names it."""


def test_recall_and_precision_by_hand() -> None:
    rest, wave, clap = BY_HAND.per_class
    assert (rest.name, rest.num_examples, rest.num_predicted, rest.num_correct) == ("rest", 10, 9, 8)
    assert (rest.recall, rest.precision) == (0.8, 8 / 9)
    assert (wave.recall, wave.precision) == (0.8, 4 / 6)
    assert (clap.recall, clap.precision) == (None, None)
    assert [(one.true, one.predicted, one.count, one.share) for one in BY_HAND.mistakes()] == [
        ("rest", "wave", 2, 0.2),
        ("wave", "rest", 1, 0.2),
    ]


def test_programs_get_names_as_texts_and_numbers_as_numbers() -> None:
    assert BY_HAND.as_dict()["classes"] == list(NAMES)
    unnamed = Confusion(BY_HAND.counts).as_dict()
    assert unnamed["classes"] == [0, 1, 2]
    assert unnamed["per_class"][1] == {"class": 1, "num_examples": 5, "recall": 0.8, "precision": 4 / 6}  # type: ignore[index]


def test_what_print_shows() -> None:
    assert str(BY_HAND).splitlines() == [
        "true classes in rows, the model's answers in columns",
        "TRUE  rest  wave  clap  EXAMPLES  RECALL  PRECISION",
        "rest     8     2     0        10   0.800      0.889",
        "wave     1     4     0         5   0.800      0.667",
        "clap     0     0     0         0       -          -",
    ]


def test_many_classes_are_shown_by_their_worst_pairs() -> None:
    size = 21
    counts = [0] * size * size
    counts[3 * size + 3], counts[3 * size + 5], counts[20 * size + 0] = 6, 2, 1
    found = Confusion(tuple(counts), ("zero", "one", "two", "three"))  # fewer names than classes
    assert str(found).splitlines() == [
        "the pairs of the 21 classes that are confused most",
        "TRUE   TAKEN FOR  EXAMPLES  OF ITS OWN",
        "three  5                 2       25.0%",
        "20     zero              1      100.0%",
    ]
    assert len(Confusion((1,) * 900, ()).table()[1]) == 15


@pytest.mark.parametrize("counts", [(), (1, 2), (1, 2, 3)])
def test_counts_that_are_not_a_square(counts: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=f"{len(counts)} counts; expected num_classes squared"):
        Confusion(counts)


def test_from_python() -> None:
    model = edgefl.SoftmaxModel(num_features=5, num_classes=3, classes=NAMES)
    metrics = learning.build_fed_eval(model)(model.initial_weights(), fleet(3))
    found = metrics.confusion_matrix(model.classes)
    assert found.names == NAMES
    assert (sum(found.counts), found.per_class[0].recall) == (metrics.num_examples, 1.0)  # zeros: a tie, won by rest
    clients = fleet(3)
    trained = learning.build_weighted_fed_avg(model, edgefl.optimizers.sgd(0.1)).next
    _, no_counts = trained(learning.build_weighted_fed_avg(model, edgefl.optimizers.sgd(0.1)).initialize(), clients)
    with pytest.raises(DataError, match="0 counts; expected num_classes squared: evaluations have them"):
        no_counts.confusion_matrix()


@pytest.fixture
def files(tmp_path: Path) -> Path:
    write_files(tmp_path)
    for name, text in TASKS.items():
        declared = text.replace("num_classes = 3", 'classes = ["rest", "wave", "clap"]')
        (tmp_path / f"{name}.toml").write_text(declared.replace("rounds = 50", "rounds = 2").replace("60", "2"))
    return tmp_path


def simulate(files: Path, *options: str) -> int:
    tasks = [str(files / f"{name}.toml") for name in TASKS]
    return main(["simulate", *tasks, "--dataset", str(files / "people.csv"), *options])


def test_a_simulation_ends_with_it(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate(files, "--json", "--log", str(files / "log")) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    last = next(line for line in lines if line["task"] == "accuracy" and line.get("round") == 2)
    (row,) = [line for line in lines if "confusion" in line]
    matrix: list[list[int]] = row["confusion"]
    assert (row["task"], row["classes"]) == ("accuracy", list(NAMES))
    assert sum(map(sum, matrix)) == last["num_examples"]
    assert sum(matrix[i][i] for i in range(3)) / last["num_examples"] == row["accuracy"] == last["accuracy"]
    assert [one["class"] for one in row["per_class"]] == list(NAMES)
    assert row["per_class"][1]["recall"] == matrix[1][1] / sum(matrix[1])
    with (files / "log" / "confusion.csv").open(newline="") as file:
        logged = {(one["true"], one["predicted"]): one for one in csv.DictReader(file)}
    assert {key: int(one["examples"]) for key, one in logged.items()} == {
        (NAMES[i], NAMES[j]): matrix[i][j] for i in range(3) for j in range(3) if matrix[i][j]
    }
    assert {(one["task"], one["round"]) for one in logged.values()} == {("accuracy", "2")}
    assert simulate(files) == 0
    shown = capsys.readouterr().out
    assert "accuracy, round 2: true classes in rows, the model's answers in columns\nTRUE  rest  wave  clap" in shown
    assert any(line.split()[:4] == ["wave", *map(str, matrix[1])] for line in shown.splitlines())


TRAINING = """
name = "train"
kind = "training"
population = "lab"
round = { goal = 3, minimum = 3 }
model = { num_features = 5, classes = ["rest", "wave", "[clap]"] }
client = { learning_rate = 0.1 }
"""
EVALUATION = """
name = "check"
kind = "evaluation"
population = "lab"
evaluates = "train"
round = { goal = 3, minimum = 3 }
"""


def test_of_a_servers_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clients = fleet(3)

    async def works(caller: Caller, index: int) -> None:
        one = clients[index]
        outcome = await caller.assignment(one.client_id)
        assert isinstance(outcome, Assignment)
        model = await caller.download(outcome.model_digest)
        update = learning.run_plan(outcome, model, one.examples, one.examples, one.client_id)
        assert isinstance(update, ClientUpdate)
        assert isinstance(await caller.report(one.client_id, update), Accepted)

    async def body(caller: Caller) -> None:
        async def command(*argv: str) -> int:
            return await asyncio.to_thread(main, ["--server", caller.address, "--insecure", "confusion", *argv])

        for text in (TRAINING, EVALUATION):
            await caller.create(text)
        assert await command("check") == 72
        assert "task 'check' has no round that was committed; see: edgefl rounds check" in capsys.readouterr().err
        for task in ("train", "check"):
            await asyncio.gather(*(works(caller, index) for index in range(3)))
            await caller.ended(1, task)
        assert await command("check", "--json") == 0
        assert await command("check", "--round", "1") == 0
        assert await command("check", "--round", "2") == 72
        assert await command("train") == 80
        assert await command("chek") == 72

    run(tmp_path, body)
    out, err = capsys.readouterr()
    head, title, columns, *rows = out.splitlines()
    found: dict[str, Any] = json.loads(head)
    assert (found["task"], found["round"], found["classes"]) == ("check", 1, ["rest", "wave", "[clap]"])
    assert sum(map(sum, found["confusion"])) == sum(map(len, clients))
    assert title == "check, round 1: true classes in rows, the model's answers in columns"
    assert columns.split()[:4] == ["TRUE", "rest", "wave", "[clap]"]
    assert [row.split()[1:4] for row in rows] == [[str(count) for count in row] for row in found["confusion"]]
    second, third, fourth = err.splitlines()
    assert "task 'check' has no round 2 that was committed" in second
    assert "task 'train' is of kind 'training'; expected an evaluation" in third
    assert "no task 'chek'; did you mean 'check'?" in fourth
