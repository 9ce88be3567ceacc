"""Files of examples: CSV, and NPZ without NumPy."""

from __future__ import annotations

import re
import subprocess
from array import array
from pathlib import Path

import numpy as np
import pytest
from device_fleet import environment, write_config
from script_kit import SCRIPT

from edgefl.datasets import from_csv, from_npz
from edgefl.datasets.csv_file import read_csv
from edgefl.errors import ConflictError, DataError
from edgefl.protocol.messages import Split
from edgefl.types import MAX_CLASSES, DType
from edgefl_device.config import ExampleSpec
from edgefl_device.example_store import ExampleStore
from edgefl_device.ingest import add_file
from edgefl_device.main import main

SPEC = ExampleSpec(num_features=2, num_classes=3)
HEADER = "a,label,b,split\n"


def added(tmp_path: Path, path: Path, spec: ExampleSpec = SPEC) -> ExampleStore:
    store = ExampleStore.open(tmp_path / "e.db", spec)
    add_file(store, spec, path)
    return store


def test_a_csv_file_is_added(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("\ufeff" + HEADER + "1, 2 ,0.1,train\n\n-2.5e3,0,1e-12,held_out\n", encoding="utf-8")
    with added(tmp_path, path) as store:
        train, held_out = store.load(Split.TRAIN), store.load(Split.HELD_OUT)
    assert train.features == array("f", [1, 0.1]).tobytes()
    assert train.labels == array("i", [2]).tobytes()
    assert held_out.features == array("f", [-2500, 0]).tobytes()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (HEADER + "1,0,2,train\n1,0,nan,train\n", "line 3, column 'b' is 'nan'; expected a finite number"),
        (HEADER + "1,0,x,train\n", "line 2, column 'b' is 'x'"),
        (HEADER + "1,0,1e39,train\n", "line 2, column 'b' is '1e39'"),
        (HEADER + "1,0,1_0,train\n", "line 2, column 'b' is '1_0'"),
        (HEADER + "1,3,1,train\n", "line 2, column 'label' is '3'; expected a whole number from 0 to 2"),
        (HEADER + "1,-1,1,train\n", "column 'label' is '-1'"),
        (HEADER + "1,1.0,1,train\n", "column 'label' is '1.0'"),
        (HEADER + "1,0,1,test\n", "column 'split' is 'test'; expected train or held_out"),
        (HEADER + "1,0,1\n", "line 2 has 3 values; expected 4"),
        ("a,label\n1,0\n", r"has 1 features \('a'\); expected 2"),
        ("a,b,label,client\n1,2,0,x\n", "has 3 features .*; expected 2"),
        ("a,b\n1,2\n", "has no column 'label'"),
        ("a,a,label\n1,2,0\n", "two columns named 'a'; expected unique names"),
        ("", "is empty; expected a header line"),
        (HEADER, "has no example"),
        (HEADER + '1,0,"1,train\n', "expected comma-separated values"),
    ],
)
def test_a_wrong_csv_file_is_refused_as_a_whole(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text)
    with ExampleStore.open(tmp_path / "e.db", SPEC) as store:
        with pytest.raises(DataError, match=message) as caught:
            add_file(store, SPEC, path)
        assert str(path) in str(caught.value)
        assert store.count(Split.TRAIN) + store.count(Split.HELD_OUT) == 0


def test_an_npz_file_is_added_without_numpy(tmp_path: Path) -> None:
    features = np.array([[1.5, 2**-31], [3, -4], [5, 6]], np.float64)
    np.savez_compressed(
        tmp_path / "a.npz", features=features, labels=np.array([0, 2, 1]), held_out=np.array([False, True, False])
    )
    config = write_config(tmp_path / "d")
    config.write_text(config.read_text().replace("num_features = 4", "num_features = 2"))
    script = (
        "import sys; from edgefl_device.main import main\n"
        "assert main(sys.argv[1:]) == 0; assert 'numpy' not in sys.modules"
    )
    command = [*SCRIPT, script, "add", "--config", str(config), str(tmp_path / "a.npz")]
    subprocess.run(command, check=True, env=environment(), capture_output=True)
    with ExampleStore.open(tmp_path / "d" / "state" / "examples.db", SPEC) as store:
        train, held_out = store.load(Split.TRAIN), store.load(Split.HELD_OUT)
    assert train.features == array("f", [1.5, 0, 5, 6]).tobytes()
    assert train.labels == array("i", [0, 1]).tobytes()
    assert held_out.features == array("f", [3, -4]).tobytes()


@pytest.mark.parametrize("dtype", ["f4", "f8", "u1", "i1", "u2", "i2", "i4", "u4", "i8"])
def test_every_number_type_gives_the_bytes_that_a_simulation_reads(tmp_path: Path, dtype: str) -> None:
    features = np.random.default_rng(1).uniform(0, 100, (20, 2)).astype(dtype)
    path = tmp_path / "a.npz"
    np.savez(path, features=features, labels=np.arange(20, dtype=np.int64) % 3, clients=np.zeros(20, np.int64))
    expected = from_npz(path).clients[0].examples
    np.savez(path, features=features, labels=np.arange(20, dtype=np.int16) % 3)
    spec = ExampleSpec(num_features=2, num_classes=3, dtype=expected.dtype)
    with added(tmp_path, path, spec) as store:
        assert store.load(Split.TRAIN) == expected


def test_csv_gives_the_bytes_that_a_simulation_reads(tmp_path: Path) -> None:
    cells = ["0.1", "9.3132257e-10", "9.3132258e-10", "-0.0", "3.4e38", "1e-40", " 7 ", "-1.00000001"]
    path = tmp_path / "a.csv"
    path.write_text("client,x,y,label\n" + "".join(f"c,{cell},1,0\n" for cell in cells))
    expected = from_csv(path).clients[0].examples
    path.write_text("x,y,label\n" + "".join(f"{cell},1,0\n" for cell in cells))
    with added(tmp_path, path) as store:
        assert store.load(Split.TRAIN) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a,,label\n1,2,0\n",
        "a,a,label\n",
        "a,b,label\n1,2\n",
        'a,b,label\n1,"2,0\n',
        "a,b,label\n1,x,0\n",
        "a,b,label,split\n1,2,0,test\n",
        "a,b,label\n\xe9,2,0\n",
        "a,b,label\n",
    ],
)
def test_a_device_and_a_simulation_refuse_a_csv_file_by_one_rule(tmp_path: Path, text: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(text, encoding="latin-1")
    spec = ExampleSpec(num_features=2, num_classes=MAX_CLASSES)
    with ExampleStore.open(tmp_path / "e.db", spec) as store, pytest.raises(DataError) as on_device:
        add_file(store, spec, path)
    with pytest.raises(DataError) as in_simulation:
        read_csv(path)
    assert str(on_device.value) == str(in_simulation.value)


def test_eight_bit_stores_take_whole_numbers(tmp_path: Path) -> None:
    spec = ExampleSpec(num_features=2, num_classes=3, dtype=DType.UINT8, scale=0.5)
    path = tmp_path / "a.csv"
    path.write_text("a,b,label\n0,255,1\n")
    with added(tmp_path, path, spec) as store:
        assert store.load(Split.TRAIN).features == b"\x00\xff"
        path.write_text("a,b,label\n0,256,1\n")
        with pytest.raises(DataError, match="column 'b' is '256'; expected a whole number from 0 to 255"):
            add_file(store, spec, path)
        npz = tmp_path / "a.npz"
        np.savez(npz, features=np.array([[1, 2]], np.int64), labels=np.array([0]), scale=0.5, zero_point=0)
        assert add_file(store, spec, npz) == 1
        np.savez(npz, features=np.array([[1, 300]], np.int64), labels=np.array([0]))
        with pytest.raises(DataError, match=r"features\[0, 1\] is 300; expected 0 to 255"):
            add_file(store, spec, npz)
        np.savez(npz, features=np.array([[1, 2]], np.uint8), labels=np.array([0]), scale=0.25)
        with pytest.raises(DataError, match=r"scale is 0\.25; the configuration says 0\.5"):
            add_file(store, spec, npz)


GOOD = {"features": np.ones((2, 2), np.float32), "labels": np.array([0, 1])}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": np.array([[1, 2], [3, np.nan]])}, r"row 1: features\[1\] is nan"),
        ({"features": np.array([[1, 2], [1e300, 0]])}, r"row 1: features\[0\] is inf"),
        ({"features": np.ones((2, 3), np.float32)}, r"features have the shape \(2, 3\); expected \(n, 2\)"),
        ({"features": np.ones((0, 2), np.float32)}, "n > 0"),
        ({"features": np.array([["a", "b"]])}, "'<U1'; expected numbers"),
        ({"features": np.ones((2, 2), ">f4")}, "'>f4'; expected numbers"),
        ({"features": np.asfortranarray(np.ones((2, 2)))}, "Fortran order"),
        ({"features": np.array([[object(), 1]])}, r"'\|O'; expected numbers"),
        ({"labels": np.array([0, 3])}, r"labels\[1\] is '3'; expected a whole number from 0 to 2"),
        ({"labels": np.array([0, -1])}, r"labels\[1\] is '-1'"),
        ({"labels": np.array([0.0, 1.0])}, "labels is <f8"),
        ({"labels": np.array([0])}, r"labels is <i8 of shape \(1,\); expected integers or texts of shape \(2,\)"),
        ({"held_out": np.array([0, 1])}, "held_out is <i8 .*; expected bool"),
        ({"clients": np.array([0, 1])}, "has an array 'clients'"),
    ],
)
def test_a_wrong_npz_file_is_refused_as_a_whole(tmp_path: Path, changes: dict[str, object], message: str) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **{**GOOD, **changes})  # type: ignore[arg-type]
    with ExampleStore.open(tmp_path / "e.db", SPEC) as store:
        with pytest.raises(DataError, match=message) as caught:
            add_file(store, SPEC, path)
        assert str(path) in str(caught.value)
        assert store.count(Split.TRAIN) == 0


@pytest.mark.parametrize("cut", [0, 10, 200, -100])
def test_a_damaged_npz_file_is_refused(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **GOOD)  # type: ignore[arg-type]
    path.write_bytes(path.read_bytes()[:cut])
    with ExampleStore.open(tmp_path / "e.db", SPEC) as store, pytest.raises(DataError, match=re.escape(str(path))):
        add_file(store, SPEC, path)


def test_an_npz_file_with_damaged_content_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.npz"
    np.savez(path, **GOOD)  # type: ignore[arg-type]
    raw = path.read_bytes()
    path.write_bytes(raw.replace(np.ones(4, np.float32).tobytes(), np.full(4, 2, np.float32).tobytes()))
    with ExampleStore.open(tmp_path / "e.db", SPEC) as store:
        with pytest.raises(DataError, match="not a readable NPZ file"):
            add_file(store, SPEC, path)
        assert store.count(Split.TRAIN) == 0


def test_the_command_names_file_row_and_expectation(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path)
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text("a,b,c,d,label\n1,2,3,4,0\n")
    bad.write_text("a,b,c,d,label\n1,2,3,4,0\n1,2,nan,4,0\n")
    assert main(["add", "--config", str(config), str(good)]) == 0
    assert "good.csv: 1 examples added" in capsys.readouterr().out
    assert main(["add", "--config", str(config), str(bad)]) == 65
    error = capsys.readouterr().err
    assert "bad.csv, line 3, column 'c' is 'nan'; expected a finite number" in error
    assert error.count("\n") == 1
    assert main(["add", "--config", str(config), str(tmp_path / "none.csv")]) == 65
    assert main(["add", "--config", str(config), str(config)]) == 65


# columns by name


FIRST = "x,label,y\n1,0,2\n"


def test_a_reordered_header_stores_the_right_thing(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(FIRST)
    with added(tmp_path, path) as store:
        assert store.feature_names == ("x", "y")
    with ExampleStore.open(tmp_path / "e.db", SPEC) as store:  # the names outlive the process
        path.write_text("label,y,split, x \n1,4,train,3\n")
        add_file(store, SPEC, path)
        npz = tmp_path / "a.npz"
        np.savez(npz, features=np.array([[6.0, 5.0]]), labels=np.array([2]), feature_names=np.array(["y", "x"]))
        add_file(store, SPEC, npz)
        np.savez(npz, features=np.array([[7.0, 8.0]]), labels=np.array([2]))  # without names: in the store's order
        add_file(store, SPEC, npz)
        examples = store.load(Split.TRAIN)
    assert examples.features == array("f", [1, 2, 3, 4, 5, 6, 7, 8]).tobytes()
    assert examples.labels == array("i", [0, 1, 2, 2]).tobytes()


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (
            "x,label,yy",
            "the unknown features 'yy' (did you mean 'y'?) and no 'y'; expected the features of this device",
        ),
        ("x,label,q", "the unknown features 'q' and no 'y'; expected the features of this device: 'x', 'y'"),
        ("x,label,y,z", "the unknown features 'z'; expected the features of this device: 'x', 'y'"),
        ("x,label", "no 'y'; expected the features of this device: 'x', 'y'"),
        ("x,label,x", "two columns named 'x'"),
        ("X,label,y", "the unknown features 'X' and no 'x'"),
    ],
)
def test_other_names_are_refused_in_one_line(
    tmp_path: Path, header: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path)
    config.write_text(config.read_text().replace("num_features = 4", "num_features = 2"))
    path = tmp_path / "a.csv"
    path.write_text(FIRST)
    assert main(["add", "--config", str(config), str(path)]) == 0
    assert "the features of this device are from now on 'x', 'y', matched by name" in capsys.readouterr().out
    path.write_text(header + "\n" + ",".join("0" for _ in header.split(",")) + "\n")
    assert main(["add", "--config", str(config), str(path)]) == 65
    error = capsys.readouterr().err
    assert f"{path} has {message}" in error
    assert error.count("\n") == 1


def test_a_refused_file_fixes_no_name(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    with ExampleStore.open(tmp_path / "e.db", SPEC) as store:
        path.write_text("p,q,label\n1,2,0\n1,nan,0\n")
        with pytest.raises(DataError):
            add_file(store, SPEC, path)
        path.write_text(FIRST)
        add_file(store, SPEC, path)
        assert store.feature_names == ("x", "y")


def test_the_configuration_may_fix_the_names(tmp_path: Path) -> None:
    spec = ExampleSpec(num_features=2, num_classes=3, features=("y", "x"))
    path = tmp_path / "a.csv"
    path.write_text(FIRST)
    with added(tmp_path, path, spec) as store:
        assert store.load(Split.TRAIN).features == array("f", [2, 1]).tobytes()
        path.write_text("x,z,label\n1,2,0\n")
        with pytest.raises(DataError, match="the unknown features 'z' and no 'y'"):
            add_file(store, spec, path)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (np.array(["x"]), "no 'y'"),
        (np.array(["x", "x"]), r"feature_names\[1\] is 'x'; expected unique names"),
        (np.array(["x", "label"]), r"feature_names\[1\] is 'label'"),
        (np.array(["x", ""]), r"feature_names\[1\] is ''"),
        (np.array([["x", "y"]]), r"'<U1' of shape \(1, 2\); expected a list of texts"),
        (np.array([1, 2]), "'<i8' of shape"),
        (np.array(["x", "y"], "S1"), "is .*S1'; expected numbers or texts"),
    ],
)
def test_wrong_names_of_an_npz_file_are_refused(tmp_path: Path, names: object, message: str) -> None:
    npz, path = tmp_path / "a.npz", tmp_path / "a.csv"
    path.write_text(FIRST)
    np.savez(npz, features=np.ones((1, 2)), labels=np.array([0]), feature_names=names)  # type: ignore[arg-type]
    with added(tmp_path, path) as store, pytest.raises(DataError, match=message):
        add_file(store, SPEC, npz)


# classes by name


def named(*classes: str) -> ExampleSpec:
    return ExampleSpec(num_features=1, num_classes=3, classes=classes)


@pytest.mark.parametrize(
    ("classes", "labels", "stored"),
    [
        (("sit", "walk", "run"), ["walk", " run ", "sit"], [1, 2, 0]),
        (("sit", "walk", "run"), ["0", "2", "walk"], [0, 2, 1]),
        (("1", "2", "3"), ["3", "1", "2"], [2, 0, 1]),  # 1-based: names, never indexes
    ],
)
def test_labels_are_names_of_the_declared_classes(
    tmp_path: Path, classes: tuple[str, ...], labels: list[str], stored: list[int]
) -> None:
    spec = named(*classes)
    path, npz = tmp_path / "a.csv", tmp_path / "a.npz"
    path.write_text("x,label\n" + "".join(f"1,{label}\n" for label in labels))
    np.savez(npz, features=np.ones((3, 1)), labels=np.array(labels), feature_names=np.array(["x"]))
    with added(tmp_path, path, spec) as store:
        with pytest.raises(ConflictError):  # the same examples: an NPZ file's texts mean the same
            add_file(store, spec, npz)
        assert list(store.load(Split.TRAIN).labels_view) == stored
        if classes[0] == "1":
            np.savez(npz, features=np.zeros((3, 1)), labels=np.array([3, 1, 2]))
            add_file(store, spec, npz)
            assert list(store.load(Split.TRAIN).labels_view) == stored + stored


@pytest.mark.parametrize(
    ("classes", "label", "message"),
    [
        (("sit", "walk", "run"), "wlak", "line 2, column 'label' is 'wlak'; did you mean 'walk'?"),
        (("sit", "walk", "run"), "3", "line 2, column 'label' is '3'; expected an index from 0 to 2, or 'sit'"),
        (("1", "2", "3"), "0", "line 2, column 'label' is '0'; expected '1', '2', '3'"),
        ((), "walk", "line 2, column 'label' is 'walk'; expected a whole number from 0 to 2; if labels are names, "),
        ((), "3", "if labels are names, declare them in their order: classes = [...] in [examples]"),
    ],
)
def test_an_unknown_class_is_refused(tmp_path: Path, classes: tuple[str, ...], label: str, message: str) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"x,label\n1,{label}\n")
    spec = named(*classes)
    with ExampleStore.open(tmp_path / "e.db", spec) as store, pytest.raises(DataError, match=re.escape(message)):
        add_file(store, spec, path)


# the same examples twice


def test_the_same_examples_are_refused_without_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path)
    config.write_text(config.read_text().replace("num_features = 4", "num_features = 2"))
    monday, copy, npz = tmp_path / "monday.csv", tmp_path / "copy.csv", tmp_path / "copy.npz"
    monday.write_text(FIRST + "3,1,4\n")
    copy.write_text("label,y,x\r\n0,2.0,1\r\n1,4,3\r\n")
    np.savez(npz, features=np.array([[1.0, 2.0], [3.0, 4.0]]), labels=np.array([0, 1]))
    assert main(["add", "--config", str(config), str(monday)]) == 0
    for path in (monday, copy, npz):
        capsys.readouterr()
        assert main(["add", "--config", str(config), str(path)]) == 80
        error = capsys.readouterr().err
        assert error.startswith(f"edgefl-device: error: {path}: the same 2 examples were added on ")
        assert f"from '{monday}'" in error
        assert error.count("\n") == 1
    assert main(["add", "--again", "--config", str(config), str(monday)]) == 0
    assert "the device now has 4 examples for training" in capsys.readouterr().out
