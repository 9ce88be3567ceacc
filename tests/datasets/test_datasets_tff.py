"""TensorFlow Federated's files: HDF5, SQLite and its ``tf.train.Example``, written here in the same forms."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import subprocess
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from script_kit import SCRIPT
from tff_kit import Example, example, write_hdf5, write_sqlite

from edgefl import datasets
from edgefl.cli.main import main
from edgefl.datasets import characters
from edgefl.datasets.tf_example import parse_example
from edgefl.errors import ConfigError, DataError, EdgeFLError
from edgefl.types import DType

INT64 = st.integers(-(2**63), 2**63 - 1)
FLOAT32 = st.floats(width=32, allow_nan=False)
FEATURE = st.one_of(st.lists(st.binary(max_size=9)), st.lists(FLOAT32, min_size=1), st.lists(INT64, min_size=1))


def pictures(labels: list[int], seed: int = 0) -> dict[str, Any]:
    """As in fed_emnist: pixels (n, 28, 28) float32 from 0 to 1, of bytes, and labels (n,) int32."""
    pixels = np.random.default_rng(seed).integers(0, 256, (len(labels), 28, 28)) / 255
    return {"label": np.array(labels, np.int32), "pixels": pixels.astype(np.float32)}


# tf.train.Example


@given(st.dictionaries(st.text(max_size=5), FEATURE, max_size=4))
def test_an_example_is_read_as_protobuf_wrote_it(fields: dict[str, list[Any]]) -> None:
    made = Example()
    for name, values in fields.items():
        feature = made.features.feature[name]
        kind = "bytes_list" if not values or isinstance(values[0], bytes) else type(values[0]).__name__
        into = getattr(feature, {"int": "int64_list", "float": "float_list"}.get(kind, kind))
        into.SetInParent()
        into.value.extend(values)
    found = parse_example(made.SerializeToString())
    assert {name: list(values) for name, values in found.items()} == fields


def test_unpacked_numbers_and_unknown_fields_are_read_too() -> None:
    def field(number: int, wire: int, content: bytes) -> bytes:
        return bytes([number << 3 | wire]) + (bytes([len(content)]) if wire == 2 else b"") + content

    floats = field(1, 5, np.float32(1.5).tobytes()) + field(1, 5, np.float32(-2).tobytes())
    integers = field(1, 0, b"\x05") + field(7, 1, bytes(8)) + field(1, 0, b"\xff" * 9 + b"\x01")
    entries = [(b"f", field(2, 2, floats)), (b"i", field(3, 2, integers))]
    raw = b"".join(field(1, 2, field(1, 2, name) + field(2, 2, value)) for name, value in entries)
    found = parse_example(field(1, 2, raw) + field(9, 2, b"later"))
    assert {name: list(values) for name, values in found.items()} == {"f": [1.5, -2.0], "i": [5, -1]}


@given(st.binary(max_size=40))
def test_whatever_the_bytes_are_only_one_error_comes(raw: bytes) -> None:
    for content in (raw, example(pixels=[1.0], label=[3])[: len(raw)] + raw):
        with contextlib.suppress(DataError):
            parse_example(content)


# EMNIST


def test_emnist_in_hdf5_with_its_test_file(tmp_path: Path) -> None:
    ann, bob = pictures([3, 9, 0]), pictures([1], 1)
    train = write_hdf5(tmp_path / "fed_emnist_digitsonly_train.h5", {"f0001_41": bob, "f0000_14": ann})
    write_hdf5(tmp_path / "fed_emnist_digitsonly_test.h5", {"f0000_14": pictures([5], 2), "f0001_41": pictures([7], 3)})
    found = datasets.load(str(train))
    assert isinstance(found, datasets.FederatedDataset)
    assert (found.name, found.num_features, found.num_classes) == ("fed_emnist_digitsonly", 784, 10)
    assert [client.client_id for client in found.clients] == ["f0000_14", "f0001_41"]
    examples = found.clients[0].examples
    assert (examples.dtype, examples.quantization.scale) == (DType.UINT8, float(np.float32(1 / 255)))
    assert np.array_equal(np.asarray(examples.features_view) / np.float32(255), ann["pixels"].reshape(3, 784))
    assert examples.labels_view.tolist() == [3, 9, 0]
    assert [part.examples.labels_view.tolist() for part in found.held_out] == [[5], [7]]
    few = datasets.from_tff(train, num_clients=1)
    assert (few.clients, few.held_out) == (found.clients[:1], found.held_out[:1])


def test_the_same_emnist_in_both_forms_is_the_same_bytes(tmp_path: Path) -> None:
    train, test = {"b": pictures([10, 61]), "a": pictures([0, 36, 2], 1)}, {"a": pictures([1], 2)}
    write_hdf5(tmp_path / "fed_emnist_test.h5", test)
    as_hdf5 = datasets.from_tff(write_hdf5(tmp_path / "fed_emnist_train.h5", train))
    digits = {"digits_only_train": {"a": pictures([0, 2])}, "digits_only_test": {"a": pictures([1])}}
    file = write_sqlite(tmp_path / "emnist_all.sqlite.lzma", {"all_train": train, "all_test": test} | digits)
    as_sqlite = datasets.load(f"{file}:all")
    assert as_sqlite.classes == as_hdf5.classes
    assert len(as_hdf5.classes) == 62
    assert as_hdf5.classes[36:38] == ("a", "b")
    assert isinstance(as_sqlite, datasets.FederatedDataset)
    assert as_sqlite.digest == as_hdf5.digest
    assert datasets.load(f"{file}:digits_only").num_classes == 10
    assert len(datasets.from_tff(file, part="all", num_clients=1).clients) == 1


def test_pixels_that_are_no_bytes_stay_floats(tmp_path: Path) -> None:
    odd = pictures([1, 0], 1)
    odd["pixels"][0, 0, 0] = 0.3
    found = datasets.from_tff(write_hdf5(tmp_path / "x.h5", {"a": pictures([0]), "b": odd}))
    assert found.held_out == ()
    for client, given_ in zip(found.clients, (pictures([0]), odd), strict=True):
        assert client.examples.dtype is DType.FLOAT32
        assert np.array_equal(np.asarray(client.examples.features_view), given_["pixels"].reshape(-1, 784))


def test_pictures_of_bytes_and_one_split(tmp_path: Path) -> None:
    """As TFF's CIFAR-100 in HDF5, and what its save_to_sql_client_data writes."""
    image = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    fields = {"coarse_label": np.array([0, 1]), "image": image, "label": np.array([99, 0])}
    as_hdf5 = datasets.from_tff(write_hdf5(tmp_path / "c.h5", {"0": fields}))
    as_sqlite = datasets.from_tff(write_sqlite(tmp_path / "c.sqlite", {"N/A": {"0": fields}}))
    assert as_hdf5.digest == as_sqlite.digest
    assert (as_hdf5.num_features, as_hdf5.num_classes) == (48, 100)
    assert as_hdf5.clients[0].examples.features == image.tobytes()


# Shakespeare


def test_shakespeare_becomes_the_next_character(tmp_path: Path) -> None:
    play = {"KING_LEAR": {"snippets": ["Ho!\né", "No"]}, "FOOL": {"snippets": ["a"]}}
    test = {"KING_LEAR": {"snippets": ["x"]}}
    write_hdf5(tmp_path / "shakespeare_test.h5", test)
    found = datasets.from_tff(write_hdf5(tmp_path / "shakespeare_train.h5", play), window=2)
    same = datasets.from_tff(write_sqlite(tmp_path / "shakespeare.sqlite", {"train": play, "test": test}), window=2)
    assert found.digest == same.digest
    assert (found.num_classes, found.num_features) == (87, 2 * 87)
    assert [client.client_id for client in found.clients] == ["FOOL", "KING_LEAR"]
    examples = found.clients[1].examples
    names = [found.classes[label] for label in examples.labels_view]
    assert names == ["H", "o", "!", "newline", "other", "N", "o"]
    hot = np.asarray(examples.features_view).reshape(7, 2, 87)
    before = [[[found.classes[code] for code in np.flatnonzero(back)] for back in row] for row in hot]
    assert before[:3] == [[[], []], [["H"], []], [["o"], ["H"]]]
    assert before[4] == [["newline"], ["!"]]
    assert before[5] == [[], []]  # another snippet
    assert [len(part) for part in found.held_out] == [0, 1]


def test_the_vocabulary_is_that_of_the_tutorial() -> None:
    shown = "dhlptx@DHLPTX $(,048cgkoswCGKOSW[_#'/37;?bfjnrvzBFJNRVZ\"&*.26:\naeimquyAEIMQUY]!%)-159\r"
    assert sorted(shown) == list(characters.VOCABULARY)
    assert len(characters.VOCABULARY) == 86
    assert len(set(characters.CLASSES)) == 87


def test_a_simulation_learns_from_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = "the queen and the quiet quail quote the quick queue. "
    play = {name: {"snippets": [text * 3] * 2} for name in ("first", "second")}
    file = write_hdf5(tmp_path / "play_train.h5", play)
    write_hdf5(tmp_path / "play_test.h5", {name: {"snippets": [text]} for name in play})
    tasks = tmp_path / "tasks"
    assert main(["new", str(file), "--out", str(tasks)]) == 0
    files = [str(tasks / f"{name}.toml") for name in ("statistics", "training", "evaluation")]
    capsys.readouterr()
    assert main(["simulate", *files, "--dataset", str(file), "--json", "--set", "rounds=5"]) == 0
    accuracy = float(json.loads(capsys.readouterr().out.splitlines()[-1])["accuracy"])
    assert accuracy > 0.6  # the most frequent character, the space, is 0.19 of it


# What cannot be used


def test_a_file_of_several_parts_asks_for_one(tmp_path: Path) -> None:
    file = write_sqlite(tmp_path / "e.sqlite", {f"{part}_train": {"a": pictures([0])} for part in ("all", "digits")})
    with pytest.raises(ConfigError, match=r"e.sqlite has the parts all, digits; choose one: .*e.sqlite:all"):
        datasets.load(str(file))
    with pytest.raises(ConfigError, match="has no part 'none'; expected one of all, digits"):
        datasets.load(f"{file}:none")
    with pytest.raises(ConfigError, match="has one part"):
        datasets.load(f"{tmp_path / 'x.h5'}:all")
    for wrong in ({"num_clients": 0}, {"window": 0}, {"window": 10**6}, {"window": 1.5}):
        with pytest.raises(ConfigError):
            datasets.from_tff(file, part="all", **wrong)  # type: ignore[arg-type]


def damaged(kind: str, folder: Path) -> Path:
    hdf5, database = folder / "x_train.h5", folder / "x.sqlite"
    good = {"a": pictures([0, 1])}
    if kind in ("no hdf5", "no group", "no client", "tokens", "flat", "sizes", "labels", "text"):
        fields: dict[str, Any] = good["a"]
        if kind == "tokens":
            fields = {"tokens": ["x"]}
        elif kind == "flat":
            fields = {"label": fields["label"], "pixels": fields["label"]}
        elif kind == "labels":
            fields = fields | {"label": np.array([0.5, 1])}
        elif kind == "sizes":
            fields = fields | {"label": fields["label"][:1]}
        write_hdf5(hdf5, {} if kind == "no client" else {"a": fields})
        if kind == "no client":
            with h5py.File(hdf5, "w") as file:
                file.create_group("examples")
        elif kind == "no hdf5":
            hdf5.write_bytes(b"not HDF5")
        elif kind == "no group":
            with h5py.File(hdf5, "w") as file:
                file.create_dataset("data", data=[1])
        elif kind == "text":
            with h5py.File(hdf5, "w") as file:
                file.create_dataset("examples/a/snippets", data=[b"\xff\xfe"])
        return hdf5
    if kind != "no file":
        write_sqlite(database, {"train": good})
    with sqlite3.connect(database) as connection:
        if kind == "no table":
            connection.execute("DROP TABLE client_metadata")
        elif kind == "count":
            connection.execute("UPDATE client_metadata SET num_examples = 3")
        elif kind == "no example":
            connection.execute("UPDATE examples SET serialized_example_proto = x'ffff'")
        elif kind == "empty":
            connection.execute("DELETE FROM client_metadata")
    connection.close()
    if kind == "no file":
        database.unlink()
    elif kind == "no database":
        database.write_bytes(b"not SQLite at all" * 99)
    elif kind == "no lzma":
        return database.rename(folder / "x.sqlite.lzma")
    return database


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("no hdf5", "cannot be read: .*; expected an HDF5 file"),
        ("no group", "has data; expected the group examples"),
        ("no client", "no user has a training example"),
        ("tokens", "client 'a' has the fields tokens; expected pixels or image and label, or snippets"),
        ("flat", r"client 'a': pixels is int32 of shape \(2,\); expected one picture per row"),
        ("sizes", "user 'a' has 2 examples and 1 labels"),
        ("labels", "label is of type float64; expected integers"),
        ("text", "has a snippet that is not UTF-8 text"),
        ("no file", "x.sqlite cannot be read: there is no such file"),
        ("no database", "cannot be read: file is not a database; expected TFF's tables"),
        ("no table", "cannot be read: no such table: client_metadata"),
        ("count", "client 'a' has 2 examples in split 'train', and 3 by client_metadata"),
        ("no example", "client 'a' has an example that is .*; expected a tf.train.Example"),
        ("empty", "has no client; expected rows in client_metadata"),
        ("no lzma", "cannot be unpacked: .*; expected a whole LZMA file"),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(tmp_path: Path, kind: str, said: str) -> None:
    with pytest.raises(EdgeFLError, match=said) as caught:
        datasets.load(str(damaged(kind, tmp_path)))
    assert "\n" not in str(caught.value)


def test_without_h5py_the_error_says_what_to_install(tmp_path: Path) -> None:
    file = str(tmp_path / "x.h5")
    program = f"import sys; sys.modules['h5py'] = None\nfrom edgefl import datasets\ndatasets.load({file!r})"
    done = subprocess.run([*SCRIPT, program], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1].endswith("install h5py, or EdgeFL with its extra 'data'")
