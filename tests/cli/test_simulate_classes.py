"""``edgefl simulate`` over data with class names: the order that the tasks declare makes the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from simulate_kit import TASKS, write_files

from edgefl.cli.main import main
from edgefl.models.tflite_metadata import read_classes

NAMES = ("rest", "wave", "clap")
DECLARED = 'classes = ["rest", "wave", "clap"]'


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """As ``write_files``; in ``named.csv`` the labels are names, and ``turned.csv`` begins with another of them."""
    write_files(tmp_path)
    head, *rows = (tmp_path / "people.csv").read_text().splitlines()
    cells = [row.split(",") for row in rows]
    named = [",".join([who, NAMES[int(label)], *rest]) for who, label, *rest in cells]
    (tmp_path / "named.csv").write_text("\n".join([head, *named]))
    for name, text in TASKS.items():
        (tmp_path / f"{name}.toml").write_text(text.replace("rounds = 50", "rounds = 3").replace("60", "3"))
        declared = text.replace("num_classes = 3", DECLARED).replace("rounds = 50", "rounds = 3").replace("60", "3")
        (tmp_path / f"named-{name}.toml").write_text(declared)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], files: Path, data: str, prefix: str = "", *options: str) -> list[str]:
    """The digests of all tasks' models, and the last accuracy."""
    paths = [str(files / f"{prefix}{name}.toml") for name in TASKS]
    assert main(["simulate", *paths, "--dataset", str(files / data), "--json", *options]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    return [str(line["model_sha256"]) for line in lines if "model_sha256" in line] + [
        f"{line['accuracy']:.6f}" for line in lines if line.get("round") == 3
    ]


def test_the_declared_order_gives_the_bits_of_the_same_data_in_numbers(
    files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    numbers = run(capsys, files, "people.csv")
    assert run(capsys, files, "named.csv", "named-") == numbers
    assert run(capsys, files, "people.csv", "named-") == numbers  # names for the indexes that the file has
    assert run(capsys, files, "named.csv", "named-", "--partition", "by-column:client") == numbers
    assert run(capsys, files, "named.csv") != numbers  # undeclared, the names are sorted: clap, rest, wave


def refused(capsys: pytest.CaptureFixture[str], *argv: str) -> str:
    status = main(["simulate", *argv])
    error = capsys.readouterr().err
    assert status in (65, 78)
    assert error.count("\n") == 1
    return error


def test_a_data_set_with_other_names_is_refused(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    named = files / "named.csv"
    wrong = named.read_text().replace("wave", "wavy", 1)
    line = next(number for number, row in enumerate(wrong.splitlines(), 1) if "wavy" in row)
    named.write_text(wrong)
    training = str(files / "named-gestures.toml")
    error = refused(capsys, training, "--dataset", str(named))
    assert f"named.csv, line {line}, column 'label' is 'wavy'; did you mean 'wave'? The classes are 'rest'," in error
    error = refused(capsys, training, "--dataset", "digits", "--partition", "iid", "--clients", "4")
    assert "digits has the classes '0', '1'" in error
    assert "'0' is unknown; expected 'rest', 'wave', 'clap'" in error


def test_tasks_that_declare_different_classes_are_refused(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = files / "other.toml"
    other.write_text((files / "named-gestures.toml").read_text().replace('"rest", "wave"', '"wave", "rest"'))
    error = refused(capsys, str(files / "named-spreads.toml"), str(other), "--dataset", str(files / "named.csv"))
    assert "task 'gestures' has the classes 'wave', 'rest', 'clap', and 'spreads' has 'rest', 'wave', 'clap'" in error


def test_new_declares_the_names_of_the_data(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(files)
    assert main(["new", "named.csv"]) == 0
    assert "3 classes: clap, rest, wave" in capsys.readouterr().out
    assert 'classes = ["clap", "rest", "wave"]' in (files / "named-tasks" / "training.toml").read_text()
    made = [str(files / "named-tasks" / f"{name}.toml") for name in ("statistics", "training", "evaluation")]
    assert main(["simulate", *made, "--dataset", "named.csv", "--json"]) == 0


def test_the_written_model_has_the_declared_names(files: Path) -> None:
    training = ("gestures", "spreads")
    for prefix, expected in (("named-", NAMES), ("", ())):
        paths = [str(files / f"{prefix}{name}.toml") for name in training]
        assert main(["simulate", *paths, "--dataset", str(files / "people.csv"), "--out", str(files / "out")]) == 0
        assert read_classes((files / "out" / "gestures.tflite").read_bytes()) == expected
