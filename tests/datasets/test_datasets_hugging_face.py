"""``from_hugging_face`` on an object with the public interface of a ``datasets.Dataset``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from PIL import Image

from edgefl import datasets
from edgefl.datasets import CentralDataset, FederatedDataset
from edgefl.errors import ConfigError, DataError
from edgefl.types import DType


@dataclass
class Value:
    dtype: str


@dataclass
class ClassLabel:
    names: list[str]
    dtype: str = "int64"


@dataclass
class Sequence:
    feature: Any


@dataclass
class Dataset:
    """A column is an iterable of Python's values, as it is in ``datasets`` without a format."""

    features: dict[str, Any]
    columns: dict[str, list[Any]] = field(default_factory=dict)

    @property
    def column_names(self) -> list[str]:
        return list(self.features)

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def __getitem__(self, name: str) -> Any:
        return iter(self.columns[name])


def pictures(labels: list[int], **changed: list[Any]) -> Dataset:
    chance = np.random.default_rng(len(labels))
    images = [Image.fromarray(chance.integers(0, 256, (4, 5)).astype(np.uint8)) for _ in labels]
    columns = {"image": images, "writer": [f"w{n % 2}" for n in range(len(labels))], "label": labels}
    features = {"image": object(), "writer": Value("string"), "label": ClassLabel(list("abcd"))}
    return Dataset(features, columns | changed)


def test_images_of_writers_with_names_of_classes() -> None:
    train, test = pictures([3, 0, 1]), pictures([2, 2])
    found = datasets.from_hugging_face(
        train, client="writer", label="label", features="image", held_out=test, name="femnist"
    )
    assert isinstance(found, FederatedDataset)
    assert (found.name, found.num_features, found.classes) == ("femnist", 20, tuple("abcd"))
    assert [client.client_id for client in found.clients] == ["w0", "w1"]
    examples = found.clients[0].examples
    assert (examples.dtype, examples.quantization.scale) == (DType.UINT8, float(np.float32(1 / 255)))
    assert examples.features == train.columns["image"][0].tobytes() + train.columns["image"][2].tobytes()
    assert examples.labels_view.tolist() == [3, 1]
    assert found.held_out[1].examples.features == test.columns["image"][1].tobytes()


def test_columns_of_numbers_and_of_lists() -> None:
    features = {"a": Value("float64"), "b": Sequence(Sequence(Value("int16"))), "label": Value("int32")}
    columns = {"a": [0.5, 1e-12], "b": [[[1, 2], [3, 4]], [[5, 6], [7, 8]]], "label": [0, 1]}
    found = datasets.from_hugging_face(Dataset(features, columns), label="label", features=["b", "a"])
    assert isinstance(found, CentralDataset)
    assert found.train.features_view.tolist() == [[1, 2, 3, 4, 0.5], [5, 6, 7, 8, 0]]
    assert (found.num_classes, found.classes) == (2, ())


def test_labels_of_text_are_names() -> None:
    features = {"v": Value("float32"), "label": Value("string")}
    columns = {"v": [1.5, 2.5, 3.5], "label": ["walk", "run", "walk"]}
    found = datasets.from_hugging_face(Dataset(features, columns), label="label", features="v")
    assert isinstance(found, CentralDataset)
    assert (found.classes, found.train.labels_view.tolist()) == (("run", "walk"), [1, 0, 1])


def test_an_index_is_an_index_where_names_are_numbers() -> None:
    features = {"v": Value("float32"), "label": ClassLabel(["7", "1", "0"])}
    found = datasets.from_hugging_face(
        Dataset(features, {"v": [1.5, 2.5], "label": [0, 1]}), label="label", features="v"
    )
    assert isinstance(found, CentralDataset)
    assert (found.classes, found.train.labels_view.tolist()) == (("7", "1", "0"), [0, 1])


def test_bytes_stay_bytes() -> None:
    features = {"v": Sequence(Value("uint8")), "label": Value("int64")}
    found = datasets.from_hugging_face(Dataset(features, {"v": [[1, 255]], "label": [0]}), label="label", features="v")
    assert isinstance(found, CentralDataset)
    assert (found.train.dtype, found.train.features, found.train.quantization.scale) == (DType.UINT8, b"\x01\xff", 1.0)


@pytest.mark.parametrize(
    ("changed", "options", "kind", "said"),
    [
        ({}, {"features": "x"}, ConfigError, "has no column 'x'; its columns are image, writer, label"),
        ({}, {"client": "x"}, ConfigError, "has no column 'x'"),
        ({}, {"features": []}, ConfigError, "features is empty"),
        ({}, {"features": "writer"}, DataError, "column 'writer', row 0 is 'w0'; expected a number"),
        ({"label": [0, None]}, {}, DataError, "column 'label', row 1 is None; expected a whole number or a text"),
        ({"label": [0, -1]}, {}, DataError, "column 'label', row 1 is -1; expected 0 to 3"),
        ({"label": [0, 4]}, {}, DataError, "column 'label', row 1 is 4; expected 0 to 3"),
        ({"writer": ["a", None]}, {}, DataError, "column 'writer', row 1 is None; expected the client's id"),
        ({"image": [[1, 2], [1]]}, {}, DataError, r"row 1 is of shape \(1,\), row 0 of \(2,\)"),
        ({"image": [[1], None]}, {}, DataError, "row 1 is None; expected a number"),
        ({"image": [[1.0], [float("inf")]]}, {}, DataError, "is inf; expected a finite number"),
        ({"image": [Image.new("P", (2, 2))] * 2}, {}, DataError, "Pillow's mode P"),
        ({"image": [Image.new("L", (2, 2)), Image.new("L", (2, 3))]}, {}, DataError, "expected one shape"),
        ({"image": [], "label": [], "writer": []}, {}, DataError, "has no example"),
    ],
)
def test_what_cannot_be_used_names_its_place(
    changed: dict[str, list[Any]], options: dict[str, Any], kind: type[Exception], said: str
) -> None:
    given: dict[str, Any] = {"client": "writer", "label": "label", "features": "image"} | options
    with pytest.raises(kind, match=said) as caught:
        datasets.from_hugging_face(pictures([0, 1], **changed), **given)
    assert "\n" not in str(caught.value)


def test_held_out_rows_have_the_shape_of_those_for_training() -> None:
    wide = pictures([0], image=[Image.new("L", (9, 9))])
    with pytest.raises(DataError, match="other shapes than those for training"):
        datasets.from_hugging_face(pictures([0]), label="label", features="image", held_out=wide)
