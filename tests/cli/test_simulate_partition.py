"""``edgefl simulate --partition``: clients made of a data set, from the command line to the last round."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgefl import datasets
from edgefl.cli.main import main

TRAINING = """
name = "{name}"
kind = "training"
population = "people"
seed = 1
rounds = 2
[round]
goal = {goal}
minimum = {goal}
[model]
num_features = {features}
num_classes = 10
dtype = "uint8"
scale = {scale!r}
[client]
learning_rate = 0.05
"""


def task(folder: Path, goal: int, features: int = 64, scale: float = 1 / 16) -> str:
    file = folder / "task.toml"
    file.write_text(TRAINING.format(name="people-task", goal=goal, features=features, scale=scale))
    return str(file)


def run(capsys: pytest.CaptureFixture[str], *argv: str) -> list[dict[str, object]]:
    assert main(["simulate", *argv, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_fashion_mnist_by_dirichlet_on_a_hundred_clients(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All take part, so no fewer than a hundred clients were made."""
    lines = run(
        capsys,
        task(tmp_path, 100, 784, 1 / 255),
        *("--dataset", "fashion_mnist", "--partition", "dirichlet:0.3", "--clients", "100"),
    )
    assert lines[-1]["version"] == 2
    assert float(str(lines[-1]["accuracy"])) > 0.7  # of training: each client, on its own few classes


@pytest.mark.parametrize("how", ["iid", "dirichlet:0.5", "by-class:2", "by-size:1.5"])
def test_each_way_deals_digits(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = (task(tmp_path, 12), "--dataset", "digits", "--partition", how, "--clients", "12")
    first, again = run(capsys, *argv)[-1], run(capsys, *argv)[-1]
    other = run(capsys, *argv, "--partition-seed", "7")[-1]
    assert first["version"] == 2
    assert first["model_sha256"] == again["model_sha256"] != other["model_sha256"]


def test_by_column_takes_the_clients_of_that_column(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = "\n".join(f"{row},{row % 2},{row % 10},w{row % 3}" for row in range(60))
    (tmp_path / "mine.csv").write_text(f"f,g,label,writer\n{rows}\n")
    toml = Path(task(tmp_path, 3, 2, 1.0))
    toml.write_text(toml.read_text().replace('dtype = "uint8"\n', ""))
    lines = run(capsys, str(toml), "--dataset", str(tmp_path / "mine.csv"), "--partition", "by-column:writer")
    assert lines[-1]["version"] == 2
    assert datasets.load(str(tmp_path / "mine.csv"), client_column="writer").num_features == 2


def test_watch_can_be_dealt_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toml = Path(task(tmp_path, 25, 75, 1.0))
    toml.write_text(toml.read_text().replace('dtype = "uint8"\n', "").replace("num_classes = 10", "num_classes = 7"))
    lines = run(capsys, str(toml), "--dataset", "watch", "--partition", "iid", "--clients", "25")
    assert lines[-1]["version"] == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["digits"], "data set 'digits' has no clients; make some, as by --partition dirichlet:0.3 --clients 100"),
        (["watch", "--clients", "3"], "--clients belongs to --partition; add it, or leave --clients out"),
        (["watch", "--partition-seed", "3"], "--partition-seed belongs to --partition or --held-out-clients; add one"),
        (["watch", "--held-out-clients", "10"], "10 clients to hold out, and watch has 10 with training examples"),
        (["watch", "--held-out-clients", "few"], "'few' is not a number of clients; expected a whole number, or a"),
        (["watch", "--held-out-clients", "1.5"], "num_clients is 1.5; expected a whole number from 1, or a fraction"),
        (["watch", "--held-out-clients", "0"], "num_clients is 0; expected at least 1, or a fraction"),
        (["digits", "--partition", "iid"], "has no number of clients"),
        (["digits", "--partition", "even", "--clients", "3"], "partition is 'even'; expected one of by-class:"),
        (["digits", "--partition", "iid", "--clients", "9999"], "1437 examples for 9999 clients"),
        (["digits", "--partition", "by-column:who"], "has no column 'who'; expected a .csv or .parquet file"),
    ],
)
def test_what_does_not_fit_is_one_line(
    options: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["simulate", task(tmp_path, 2), "--dataset", *options]) in (65, 78)
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_a_process_that_cannot_be_built_names_its_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before the data is loaded: this one does not exist."""
    file = tmp_path / "clothes.toml"
    file.write_text(
        'name = "clothes"\nkind = "training"\npopulation = "p"\nprocess = "scafold"\n'
        "round = { goal = 1, minimum = 1 }\nmodel = { num_features = 4, num_classes = 2 }\n"
        "client = { learning_rate = 0.1 }\n"
    )
    assert main(["simulate", str(file), "--dataset", "nowhere.csv"]) == 78
    error = capsys.readouterr().err
    assert error.startswith(f"edgefl: error: {file}: process is 'scafold'; expected one of ")
    assert error.endswith("did you mean 'scaffold'?\n")
    assert error.count("\n") == 1
