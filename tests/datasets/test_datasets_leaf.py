"""LEAF's JSON files, written here as its ``preprocess.sh`` leaves them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgefl import datasets
from edgefl.errors import DataError
from edgefl.types import DType

Data = dict[str, tuple[list[Any], list[Any]]]


def write(path: Path, users: Data, **more: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "users": list(users),
        "num_samples": [len(y) for _, y in users.values()],
        "user_data": {user: {"x": x, "y": y} for user, (x, y) in users.items()},
    }
    path.write_text(json.dumps(content | more))
    return path


def load(path: Path) -> datasets.FederatedDataset:
    found = datasets.load(str(path))
    assert isinstance(found, datasets.FederatedDataset)
    return found


def test_femnist_of_many_files_with_train_and_test(tmp_path: Path) -> None:
    first, second = [[0, 51, 255], [1, 2, 3]], [[7, 8, 9]]
    pixels = [[[p / 255 for p in row] for row in part] for part in (first, second)]
    for number, (user, x) in enumerate(zip(("f0001_41", "f0000_14"), pixels, strict=True)):
        name = f"all_data_{number}_niid_0_keep_0"
        write(tmp_path / f"femnist/train/{name}_train_9.json", {user: (x, [2 + k for k in range(len(x))])})
        write(tmp_path / f"femnist/test/{name}_test_9.json", {user: (pixels[1], [number])})
    (tmp_path / "femnist/test/stats.txt").write_text("ignored")
    found = load(tmp_path / "femnist")
    assert (found.name, found.num_features, found.num_classes) == ("femnist", 3, 4)
    assert [client.client_id for client in found.clients] == ["f0001_41", "f0000_14"]
    examples = found.clients[0].examples
    assert examples.dtype is DType.UINT8
    assert examples.features_view.tolist() == first
    assert examples.labels_view.tolist() == [2, 3]
    assert [part.examples.labels_view.tolist() for part in found.held_out] == [[0], [1]]


def test_synthetic_in_one_file_and_in_a_folder_of_files(tmp_path: Path) -> None:
    users: Data = {"0": ([[0.5, -1e-12], [3.25, 4]], [1, 0]), "1": ([[1, 2]], [1])}
    found = load(write(tmp_path / "data.json", users))
    assert found.held_out == ()
    assert found.clients[0].examples.dtype is DType.FLOAT32
    assert found.clients[0].examples.features_view.tolist() == [[0.5, 0.0], [3.25, 4.0]]
    assert load(tmp_path).digest == found.digest


def test_a_user_without_test_examples_and_one_without_any(tmp_path: Path) -> None:
    write(tmp_path / "train/a.json", {"a": ([[1.5]], [0]), "none": ([], []), "b": ([[2.5]], [1])})
    write(tmp_path / "test/a.json", {"b": ([[3.5]], [0]), "none": ([], [])}, hierarchies=["x", "y"])
    found = load(tmp_path)
    assert [(client.client_id, len(client)) for client in found.clients] == [("a", 1), ("b", 1)]
    assert [len(part) for part in found.held_out] == [0, 1]


def test_shakespeare_predicts_the_character_after_x(tmp_path: Path) -> None:
    line = " " * 76 + "To b"
    users: Data = {"THE_TRAGEDY_OF_HAMLET_HAMLET": ([line, line[1:] + "e"], ["e", "\n"])}
    found = datasets.from_leaf(write(tmp_path / "all_data.json", users, hierarchies=["HAMLET"]), window=2)
    (client,) = found.clients
    assert [found.classes[label] for label in client.examples.labels_view] == ["e", "newline"]
    rows = [[i for i, value in enumerate(row) if value] for row in client.examples.features_view.tolist()]
    at = found.classes.index
    assert rows == [[at("b"), 87 + at("space")], [at("e"), 87 + at("b")]]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[1]", "has no object; expected users, num_samples and user_data"),
        ('{"a": 1}', "has the keys a; expected users"),
        ('{"users": 1, "user_data": []}', "are not a list and an object"),
        ('{"users": ["u"], "user_data": {}}', "user 'u' has no data"),
        ('{"users": ["u"], "user_data": {"u": {"x": [[1]]}}}', "user 'u' has no lists x and y"),
        ('{"users": ["u"], "user_data": {"u": {"x": [[1]], "y": [0.5]}}}', "y is 0.5, ...; expected class indexes"),
        ('{"users": ["u"], "user_data": {"u": {"x": [[1]], "y": [-1]}}}', "labels -1 to -1; expected 0 to 4095"),
        ('{"users": ["u"], "user_data": {"u": {"x": [[1], [1, 2]], "y": [0, 1]}}}', "expected lists of numbers of one"),
        ('{"users": ["u"], "user_data": {"u": {"x": [[NaN]], "y": [0]}}}', r"features\[0, 0\] is nan"),
        ('{"users": ["u"], "user_data": {"u": {"x": [[1]], "y": [0, 1]}}}', "has 1 examples and 2 labels"),
        ('{"users": ["u"], "user_data": {"u": {"x": ["ab", 1], "y": ["c", "d"]}}}', "has 1 among texts"),
        ('{"users": ["u"], "user_data": {"u": {"x": ["ab"], "y": ["cd"]}}}', "expected one character"),
        ('{"users": ["u", "u"], "user_data": {"u": {"x": [[1]], "y": [0]}}}', "user 'u' is there twice"),
        ('{"users": [], "user_data": {}}', "no user has a training example"),
        (
            '{"users": ["a", "b"], "user_data": {"a": {"x": [[1]], "y": [0]}, "b": {"x": [[1, 2]], "y": [0]}}}',
            "has 2 fea",
        ),
    ],
)
def test_what_cannot_be_used_is_said_in_one_line(tmp_path: Path, content: str, said: str) -> None:
    (tmp_path / "x.json").write_text(content)
    with pytest.raises(DataError, match=said) as caught:
        datasets.load(str(tmp_path / "x.json"))
    assert "\n" not in str(caught.value)
    assert "x.json" in str(caught.value)


def test_a_split_by_user_makes_clients_whom_no_model_has_seen(tmp_path: Path) -> None:
    write(tmp_path / "train/a.json", {"a": ([[1.5]], [0])})
    write(tmp_path / "test/a.json", {"b": ([[2.5]], [1])})
    found = load(tmp_path)
    assert [(client.client_id, len(client)) for client in found.clients] == [("a", 1), ("b", 0)]
    assert [client.client_id for client in found.unseen] == ["b"]


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: No such file"):
        datasets.load(str(tmp_path / "none.json"))
