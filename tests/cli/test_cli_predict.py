"""``edgefl predict`` and ``edgefl evaluate``: a ``.tflite`` on a data set, off the device."""

from __future__ import annotations

import json
import random
from array import array
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from simulate_kit import TASKS, write_files

from edgefl.cli import tflite
from edgefl.cli.main import main
from edgefl.datasets.rows import load_rows
from edgefl.models.tflite_runner import float32_rows
from edgefl.models.tflite_writer import write_tflite
from edgefl.types import Weights

NAMES = ("rest", "wave", "clap")
WEIGHTS = Weights(3, 2, array("f", [4, 0, 0, 4, -4, -4]).tobytes(), bytes(12))
"""rest where the first feature is large, wave where the second is, clap where neither is."""

TABLE = "label,split,f,g\nrest,train,2,0\nwave,train,0,2\nclap,held_out,-2,-2\nrest,held_out,0,3\n"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("named.tflite").write_bytes(write_tflite(WEIGHTS, classes=NAMES))
    Path("plain.tflite").write_bytes(write_tflite(WEIGHTS))
    Path("table.csv").write_text(TABLE)


def lines(capsys: pytest.CaptureFixture[str], *argv: str) -> list[dict[str, Any]]:
    assert main([*argv, "--json"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_predictions_by_name(capsys: pytest.CaptureFixture[str]) -> None:
    rows = lines(capsys, "predict", "named.tflite", "--dataset", "table.csv")
    assert [(row["row"], row["predicted"], row["predicted_class"], row["label"]) for row in rows] == [
        (0, 0, "rest", "rest"),
        (1, 1, "wave", "wave"),
        (2, 2, "clap", "clap"),
        (3, 1, "wave", "rest"),
    ]
    assert all(row["probability"] == max(row["probabilities"]) > 0.99 for row in rows)
    assert main(["predict", "named.tflite", "--dataset", "table.csv", "--limit", "1"]) == 0
    assert capsys.readouterr().out.startswith("row 0: rest, probability 0.999")


def test_labels_are_not_needed(capsys: pytest.CaptureFixture[str]) -> None:
    Path("new.csv").write_text("f,g\n2,0\n0,2\n")
    (first, second) = lines(capsys, "predict", "plain.tflite", "--dataset", "new.csv")
    assert (first["predicted"], second["predicted"]) == (0, 1)
    assert "label" not in first
    assert "predicted_class" not in first
    Path("odd.csv").write_text("label,f,g\n?,2,0\nunknown,0,2\n")  # what no model knows is shown as it stands
    assert [row["label"] for row in lines(capsys, "predict", "named.tflite", "--dataset", "odd.csv")] == [
        "?",
        "unknown",
    ]


def test_all_kinds_of_files_give_the_same_rows() -> None:
    features = [[2.0, 0.0], [0.0, 2.0], [-2.0, -2.0], [0.0, 3.0]]
    labels, held_out = ["rest", "wave", "clap", "rest"], [False, False, True, True]
    np.savez("table.npz", features=np.array(features, "f4"), labels=labels, held_out=held_out)
    pq.write_table(
        pa.table({"label": labels, "split": ["held_out" if kept else "train" for kept in held_out], "x": features}),
        "table.parquet",
    )
    csv = load_rows("table.csv")
    for name in ("table.npz", "table.parquet"):
        found = load_rows(name)
        assert (found.examples, found.labels, found.held_out) == (csv.examples, csv.labels, csv.held_out)
    pq.write_table(pa.table({"x": features}), "bare.parquet")
    np.savez("bare.npz", features=np.array(features, "f4"))
    for name in ("bare.npz", "bare.parquet"):
        bare = load_rows(name)
        assert (bare.examples, bare.labels, bare.held_out) == (csv.examples, None, None)


def test_eight_bits_are_given_their_meaning() -> None:
    np.savez("bytes.npz", features=np.array([[0, 2], [255, 7]], np.uint8), scale=0.5, zero_point=2)
    examples = load_rows("bytes.npz").examples
    assert array("f", float32_rows(examples, 1, 2)).tolist() == [126.5, 2.5]
    digits = load_rows("digits")
    assert digits.held_out is not None
    assert (len(digits), sum(digits.held_out)) == (1797, 360)
    assert max(array("f", float32_rows(digits.examples, 0, 10))) == 1.0


def test_an_evaluation_takes_what_is_held_out(capsys: pytest.CaptureFixture[str]) -> None:
    (found,) = lines(capsys, "evaluate", "named.tflite", "--dataset", "table.csv")
    assert (found["num_examples"], found["accuracy"]) == (2, 0.5)
    assert found["confusion"] == [[0, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert found["loss"] == pytest.approx((12.0 + 0.0) / 2, abs=1e-3)  # the logits of the wrong one: 0 and 12
    assert main(["evaluate", "named.tflite", "--dataset", "table.csv", "--split", "train", "--limit", "1"]) == 0
    text = capsys.readouterr().out
    assert "accuracy 1.0000, mean loss 0.000" in text
    assert "(1 of 1 examples right)" in text
    assert "TRUE  rest  wave  clap" in text


def test_it_gives_what_the_simulation_gave(capsys: pytest.CaptureFixture[str]) -> None:
    Path("simulated").mkdir()
    folder = write_files(Path("simulated"))
    for name, text in TASKS.items():
        (folder / f"{name}.toml").write_text(
            text.replace("rounds = 50", "rounds = 3").replace("60", "3").replace("goal = 4", "goal = 5")
        )
    tasks = [str(folder / f"{name}.toml") for name in TASKS]
    data = str(folder / "people.csv")
    rounds = lines(capsys, "simulate", *tasks, "--dataset", data, "--out", "out")
    told = next(row for row in rounds if row["task"] == "accuracy" and row.get("round") == 3)
    matrix = next(row["confusion"] for row in rounds if "confusion" in row)
    (found,) = lines(capsys, "evaluate", "out/gestures.tflite", "--dataset", data)
    assert (found["accuracy"], found["num_examples"]) == (told["accuracy"], told["num_examples"])
    assert found["confusion"] == matrix
    assert found["loss"] == pytest.approx(told["loss"], abs=1e-5)


def test_many_rows_run_in_several_children(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    chance = random.Random(3)
    rows = [(chance.uniform(-2, 2), chance.uniform(-2, 2)) for _ in range(5)]
    Path("rows.csv").write_text("f,g\n" + "".join(f"{f},{g}\n" for f, g in rows))
    at_once = lines(capsys, "predict", "plain.tflite", "--dataset", "rows.csv")
    monkeypatch.setattr(tflite, "CHUNK_BYTES", 24)  # three rows
    assert lines(capsys, "predict", "plain.tflite", "--dataset", "rows.csv") == at_once
    assert [row["row"] for row in at_once] == list(range(5))


@pytest.mark.parametrize(
    ("argv", "status", "message"),
    [
        ("predict none.tflite --dataset table.csv", 65, "none.tflite cannot be read: No such file"),
        ("predict . --dataset table.csv", 65, ". cannot be read: Is a directory; expected a .tflite file"),
        ("predict table.csv --dataset table.csv", 82, "table.csv: not a TFLite file: it has b'l,sp' at byte 4"),
        ("predict empty.tflite --dataset table.csv", 82, "empty.tflite: not a TFLite file"),
        ("predict cut.tflite --dataset table.csv", 82, "cut.tflite: the model file of 600 bytes is cut off or damaged"),
        ("predict named.tflite --dataset none.csv", 65, "none.csv cannot be read: No such file"),
        ("predict named.tflite --dataset empty.csv", 65, "empty.csv has no example"),
        ("predict named.tflite --dataset wide.csv", 65, "named.tflite: the model's input has 2 values"),
        (
            "predict named.tflite --dataset text.csv",
            65,
            "text.csv, line 2, column 'f' is 'x'; expected a finite number",
        ),
        ("predict named.tflite --dataset nothing", 78, "data set is 'nothing'; expected one of"),
        ("predict named.tflite --dataset table.csv --limit 0", 64, "'0' is not a count"),
        ("evaluate named.tflite --dataset new.csv", 65, "new.csv has no labels, which an evaluation needs"),
        ("evaluate named.tflite --dataset other.csv", 65, "line 3, column 'label' is 'wavy'; did you mean 'wave'?"),
        (
            "evaluate plain.tflite --dataset table.csv",
            65,
            "is 'clap'; expected 0 to 2: plain.tflite has no class names",
        ),
        ("evaluate named.tflite --dataset other.csv --split held_out", 65, "other.csv has no held_out example"),
    ],
)
def test_what_cannot_be_used(argv: str, status: int, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    Path("empty.tflite").touch()
    Path("cut.tflite").write_bytes(Path("named.tflite").read_bytes()[:600])
    Path("empty.csv").write_text("f,g\n")
    Path("new.csv").write_text("f,g\n1,2\n")
    Path("wide.csv").write_text("f,g,h\n1,2,3\n")
    Path("text.csv").write_text("f,g\nx,2\n")
    Path("other.csv").write_text("label,f,g\nrest,1,2\nwavy,1,2\n")
    try:
        assert main(argv.split()) == status
    except SystemExit as exit_status:  # argparse's way
        assert exit_status.code == status  # noqa: PT017
    error = capsys.readouterr().err
    assert message in error
    assert error.rstrip().count("\n") == 0 or status == 64
