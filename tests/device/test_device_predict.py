"""``edgefl-device predict``: the released model in a child process, on stored and on given rows."""

from __future__ import annotations

import hashlib
import json
from array import array
from pathlib import Path

import pytest
from device_fleet import write_config

from edgefl import kernels
from edgefl.models.tflite_writer import write_tflite
from edgefl.protocol.messages import ReleaseInfo, Split
from edgefl.types import Quantization, Weights
from edgefl_device.config import load_config
from edgefl_device.content import ReleaseStore
from edgefl_device.example_store import ExampleStore, Row
from edgefl_device.main import main

ROWS = [array("f", [n, 1 - n, 0.5 * n, 2]) for n in range(4)]
WEIGHTS = Weights(
    3, 4, array("f", [0.5, 0, 0, 0, 0, 0.25, 0, 0, 0, 0, 0, -0.125]).tobytes(), array("f", [0, 1, -1]).tobytes()
)


def prepare(folder: Path, weights: Weights = WEIGHTS, *, examples: str = "", classes: tuple[str, ...] = ()) -> Path:
    config = write_config(folder, examples=examples)
    loaded = load_config(config)
    with ExampleStore.open(loaded.store_path, loaded.examples) as store:
        if not examples:
            store.append_many([Row(row, n % 3, Split.HELD_OUT) for n, row in enumerate(ROWS)])
    model = write_tflite(weights, classes=classes)
    info = ReleaseInfo("watch", 7, hashlib.sha256(model).hexdigest(), len(model))
    ReleaseStore(loaded.device.state_dir / "releases").install(
        info, lambda _d, _s, part: part.write_bytes(model) and None
    )
    return config


def expected(rows: list[array[float]]) -> list[float]:
    flat = array("f", [value for row in rows for value in row])
    features = memoryview(flat.tobytes()).cast("f", shape=[len(rows), 4])
    return list(memoryview(kernels.predict_softmax(WEIGHTS, features)).cast("f"))


def test_stored_examples_are_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = prepare(tmp_path)
    assert main(["predict", "--config", str(config), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["release"], found["version"]) == ("watch", 7)
    assert [(row["index"], row["label"]) for row in found["rows"]] == [(0, 0), (1, 1), (2, 2), (3, 0)]
    probabilities = [value for row in found["rows"] for value in row["probabilities"]]
    assert probabilities == pytest.approx(expected(ROWS), abs=1e-5)
    for row in found["rows"]:
        assert row["predicted"] == row["probabilities"].index(max(row["probabilities"]))


def test_one_stored_and_one_given_row_are_predicted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = prepare(tmp_path)
    assert main(["predict", "--config", str(config), "--release", "watch", "--index", "2", "--json"]) == 0
    stored = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["index"], row["label"]) for row in stored] == [(2, 2)]
    assert main(["predict", "--config", str(config), "--features", "2,-1,1,2", "--json"]) == 0
    given = json.loads(capsys.readouterr().out)["rows"]
    assert [(row["index"], row["label"]) for row in given] == [(-1, None)]
    assert given[0]["probabilities"] == stored[0]["probabilities"]
    assert main(["predict", "--config", str(config), "--limit", "1"]) == 0
    text = capsys.readouterr().out
    assert "release watch version 7" in text
    assert "example 0: label 0, predicted 1, probabilities 0." in text


def test_classes_are_shown_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = prepare(tmp_path)
    config.write_text(config.read_text().replace("num_classes = 3", 'classes = ["sit", "walk", "run"]'))
    assert main(["predict", "--config", str(config), "--index", "2"]) == 0
    assert "example 2: label run, predicted sit, probabilities sit 0." in capsys.readouterr().out
    assert main(["predict", "--config", str(config), "--index", "2", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["label"], row["label_class"], row["predicted"], row["predicted_class"]) == (2, "run", 0, "sit")


def test_a_release_with_names_is_shown_by_them(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = prepare(tmp_path, classes=("rest", "wave", "clap"))
    assert main(["predict", "--config", str(config), "--limit", "2"]) == 0
    _, first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("example 0: label rest, predicted wave, probabilities wave 0.")
    assert second.startswith("example 1: label wave, predicted wave, probabilities wave 0.")
    assert ", rest 0." in first
    assert main(["predict", "--config", str(config), "--features", "2,-1,1,2", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (row,) = found["rows"]
    assert found["classes"] == ["rest", "wave", "clap"]
    assert (row["label"], "label_class" in row) == (None, False)
    assert row["predicted_class"] == found["classes"][row["predicted"]]
    config.write_text(config.read_text().replace("num_classes = 3", 'classes = ["rest", "clap", "wave"]'))
    assert main(["predict", "--config", str(config)]) == 82
    assert "has the classes 'rest', 'wave', 'clap'; the configuration has 'rest', 'clap'" in capsys.readouterr().err


def test_eight_bit_features_are_given_their_meaning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = prepare(tmp_path, examples='dtype = "uint8"\nscale = 0.5\nzero_point = 2')
    loaded = load_config(config)
    stored = bytes([0, 2, 255, 7])
    with ExampleStore.open(loaded.store_path, loaded.examples) as store:
        store.append(stored, 1, Split.HELD_OUT)
    assert main(["predict", "--config", str(config), "--json"]) == 0
    first = json.loads(capsys.readouterr().out)["rows"][0]["probabilities"]
    view = memoryview(stored).cast("B", shape=[1, 4])
    by_kernel = kernels.predict_softmax(WEIGHTS, view, quantization=Quantization(0.5, 2))
    assert first == pytest.approx(list(memoryview(by_kernel).cast("f")), abs=1e-5)
    assert main(["predict", "--config", str(config), "--features", "0,2,255,7", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["probabilities"] == first
    assert main(["predict", "--config", str(config), "--features", "0,2,256,7"]) == 65


def test_a_tampered_release_is_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = prepare(tmp_path)
    model = tmp_path / "state" / "releases" / "watch-7.tflite"
    raw = bytearray(model.read_bytes())
    raw[-1] ^= 1
    model.write_bytes(raw)
    assert main(["predict", "--config", str(config)]) == 82
    error = capsys.readouterr().err
    assert "do not run it" in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["--release", "other"], 72, "no release 'other'; expected one of watch"),
        (["--index", "4"], 72, "index is 4; expected 0 to 3"),
        (["--split", "train"], 72, "has no train examples"),
        (["--features", "1,2,3"], 65, "has 3 values; expected 4"),
        (["--features", "1,2,3,nan"], 65, "value 3 is 'nan'"),
    ],
)
def test_wrong_requests_are_named(
    tmp_path: Path, arguments: list[str], status: int, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = prepare(tmp_path)
    assert main(["predict", "--config", str(config), *arguments]) == status
    assert message in capsys.readouterr().err


def test_a_release_of_other_classes_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = prepare(tmp_path, Weights.zeros(2, 4))
    assert main(["predict", "--config", str(config)]) == 82
    assert "has 2 classes; the configuration says 3" in capsys.readouterr().err
