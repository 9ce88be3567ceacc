"""A user's own Parquet file and folder of images, and what CSV and NPZ have in common with them."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from script_kit import SCRIPT

from edgefl import datasets
from edgefl.errors import ConfigError, DataError
from edgefl.types import DType, Quantization


def parquet(folder: Path, **columns: Any) -> Path:
    pq.write_table(pa.table(columns), folder / "mine.parquet")
    return folder / "mine.parquet"


# Parquet


def test_parquet_in_full(tmp_path: Path) -> None:
    file = parquet(
        tmp_path,
        client=["pi-2", "pi-1", "pi-2"],
        height=[1.5, 1e-12, 7.0],
        label=pa.array([2, 0, 1], pa.uint8()),
        split=pa.array(["train", "train", "held_out"]).dictionary_encode(),
        box=pa.array([[1, 2], [3, 4], [5, 6]], pa.list_(pa.int16())),
    )
    mine = datasets.from_parquet(file)
    assert (mine.name, mine.num_features, mine.num_classes) == ("mine", 3, 3)
    assert [client.client_id for client in mine.clients] == ["pi-2", "pi-1"]
    assert mine.clients[0].examples.features_view.tolist() == [[1.5, 1.0, 2.0]]
    assert mine.clients[1].examples.features_view.tolist() == [[0.0, 3.0, 4.0]]  # below 2**-30 becomes 0
    assert mine.held_out[0].examples.features_view.tolist() == [[7.0, 5.0, 6.0]]
    assert mine.held_out[0].examples.labels_view.tolist() == [1]
    assert len(mine.held_out[1]) == 0


def test_parquet_and_csv_of_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    csv = tmp_path / "mine.csv"
    csv.write_text("who,label,a,b\nx,0,0.1,2\ny,1,-3,4.5\nx,1,5,6\n", encoding="utf-8")
    file = parquet(tmp_path, who=["x", "y", "x"], label=[0, 1, 1], a=[0.1, -3, 5], b=[2, 4.5, 6])
    as_csv, as_parquet = datasets.load(str(csv), client_column="who"), datasets.load(str(file), client_column="who")
    assert isinstance(as_csv, datasets.FederatedDataset)
    assert isinstance(as_parquet, datasets.FederatedDataset)
    assert as_csv.digest == as_parquet.digest


@pytest.mark.parametrize(("kind", "dtype"), [(pa.uint8(), DType.UINT8), (pa.int8(), DType.INT8)])
def test_parquet_keeps_eight_bits(tmp_path: Path, kind: pa.DataType, dtype: DType) -> None:
    found = datasets.load(str(parquet(tmp_path, label=[0], pixels=pa.array([[1, 100]], pa.list_(kind, 2)))))
    assert isinstance(found, datasets.CentralDataset)
    assert found.train.dtype is dtype
    assert found.train.features_view.tolist() == [[1, 100]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"label": None}, "has no column 'label'; its columns are client, f"),
        ({"client": None}, "has no column 'client'; its columns are label, f"),
        ({"f": None}, "has no feature columns; expected at least one besides client, label"),
        ({"f": [1.0, float("nan")]}, r"features\[1, 0\] is nan; expected a finite number"),
        ({"f": [1.0, 1e39]}, r"features\[1, 0\] is 1e\+39"),
        ({"f": ["a", "b"]}, "column 'f' is of type string; expected numbers, or lists of numbers"),
        ({"f": [[1.0, 2.0], [1.0]]}, "column 'f', row 1 has 1 numbers, row 0 has 2; expected the same in every row"),
        ({"f": pa.array([[], []], pa.list_(pa.int8()))}, "column 'f', row 0 has 0 numbers"),
        ({"f": [[1.0, 2.0], [None, 1.0]]}, "column 'f', row 1 has a list with no value in a place"),
        ({"f": [["a"], ["b"]]}, "column 'f' is of type list<.*string>; expected numbers"),
        ({"f": [1.0, None]}, "column 'f', row 1 has no value"),
        ({"label": [0.0, 1.0]}, "column 'label' is of type double; expected text or integers"),
        ({"label": ["x", "-1"]}, "column 'label', row 0 is 'x', and .*row 1 is '-1'; expected whole numbers, or names"),
        ({"label": [4096, 0]}, "column 'label', row 0 is '4096'; expected 0 to 4095"),
        ({"label": [0, 2]}, "class 1 has no example, and class 2 has; expected labels from 0 on, without a gap"),
        ({"client": ["a", " "]}, "column 'client', row 1 is empty"),
        ({"client": [0.5, 1.5]}, "column 'client' is of type double; expected text or integers"),
        ({"split": ["train", "test"]}, "column 'split', row 1 is 'test'; expected train or held_out"),
        ({"split": ["held_out", "held_out"]}, "has no training example"),
    ],
)
def test_parquet_errors_name_the_place(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    columns: dict[str, Any] = {"client": ["a", "a"], "label": [0, 1], "f": [1.0, 2.0]}
    file = parquet(tmp_path, **{name: value for name, value in (columns | change).items() if value is not None})
    with pytest.raises(DataError, match=message) as caught:
        datasets.from_parquet(file)
    assert str(caught.value).startswith(str(file))
    assert "\n" not in str(caught.value)


def test_parquet_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.parquet cannot be read: No such file"):
        datasets.load(str(tmp_path / "none.parquet"))
    with pytest.raises(DataError, match="has no example"):
        datasets.load(str(parquet(tmp_path, label=pa.array([], pa.int64()), f=pa.array([], pa.float64()))))
    (tmp_path / "text.parquet").write_text("client,label,f\n")
    with pytest.raises(DataError, match=r"text\.parquet cannot be read: .*; expected a Parquet file") as caught:
        datasets.load(str(tmp_path / "text.parquet"))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("package", "name", "hint"),
    [("pyarrow", "mine.parquet", "pyarrow"), ("PIL", "folder", "install Pillow")],
)
def test_what_is_missing_is_named(tmp_path: Path, package: str, name: str, hint: str) -> None:
    """``import edgefl.datasets`` needs neither package; a file that does says which."""
    (tmp_path / "folder").mkdir()
    code = (
        f"import sys; sys.modules[{package!r}] = None\n"
        "from edgefl import datasets; from edgefl.errors import UnavailableError\n"
        "assert not {'pyarrow', 'PIL', 'numpy'} & {m for m, found in sys.modules.items() if found}\n"
        f"try: datasets.load({str(tmp_path / name)!r})\n"
        "except UnavailableError as error: print(error)\n"
    )
    done = subprocess.run([*SCRIPT, code], check=True, capture_output=True, text=True)
    assert hint in done.stdout
    assert "extra 'data'" in done.stdout
    assert done.stdout.count("\n") == 1


# Images


def picture(path: Path, value: int = 7, size: tuple[int, int] = (3, 2), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode != "RGB" else (value, 0, 255)).save(path)


def test_a_folder_of_grey_images(tmp_path: Path) -> None:
    for name, value in (("cat/b.png", 2), ("cat/a.png", 1), ("dog/c.png", 255)):
        picture(tmp_path / name, value)
    (tmp_path / ".thumbnails").mkdir()
    found = datasets.load(str(tmp_path))
    assert isinstance(found, datasets.CentralDataset)
    assert (found.classes, found.num_features, found.test) == (("cat", "dog"), 6, None)
    assert (found.train.dtype, found.train.quantization) == (DType.UINT8, Quantization(1 / 255))
    assert found.train.features_view.tolist() == [[1] * 6, [2] * 6, [255] * 6]
    assert found.train.labels_view.tolist() == [0, 0, 1]


def test_a_folder_of_colour_images_with_a_held_out_part(tmp_path: Path) -> None:
    picture(tmp_path / "train" / "cat" / "a.png", 1, mode="RGB")
    picture(tmp_path / "train" / "dog" / "a.png", 2, mode="RGB")
    picture(tmp_path / "held_out" / "cat" / "b.png", 3, mode="RGB")
    picture(tmp_path / "held_out" / "dog" / "b.png", 4, mode="RGB")
    found = datasets.from_images(tmp_path)
    assert found.test is not None
    assert found.train.features_view.tolist()[0] == [1, 0, 255] * 6
    assert found.test.labels_view.tolist() == [0, 1]
    people = datasets.partition(found, datasets.iid(2))
    assert [len(part) for part in people.held_out] == [1, 1]


def test_pixels_stand_row_by_row(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    Image.fromarray(np.array([[1, 2, 3], [4, 5, 6]], np.uint8)).save(tmp_path / "x" / "a.png")
    assert datasets.from_images(tmp_path).train.features_view.tolist() == [[1, 2, 3, 4, 5, 6]]


def test_images_that_cannot_be_used(tmp_path: Path) -> None:
    def refused(name: str, message: str) -> None:
        with pytest.raises(DataError, match=message) as caught:
            datasets.from_images(tmp_path / name)
        assert "\n" not in str(caught.value)

    (tmp_path / "nothing").mkdir()
    refused("nothing", "nothing has nothing; expected only folders, one per class")
    refused("absent", "absent cannot be read: No such file")
    (tmp_path / "empty" / "cat").mkdir(parents=True)
    refused("empty", "cat has no image; expected at least one in each class")
    picture(tmp_path / "stray" / "a.png")
    refused("stray", r"stray has the file 'a\.png'; expected only folders")
    picture(tmp_path / "sizes" / "cat" / "a.png")
    picture(tmp_path / "sizes" / "cat" / "b.png", size=(2, 3))
    refused("sizes", r"b\.png is 2 x 3 L, .*a\.png is 3 x 2 L; expected images of one size and kind")
    picture(tmp_path / "kinds" / "cat" / "a.png")
    picture(tmp_path / "kinds" / "dog" / "a.png", mode="RGB")
    refused("kinds", "a.png is 3 x 2 RGB, .*a.png is 3 x 2 L")
    picture(tmp_path / "palette" / "cat" / "a.png", mode="P")
    refused("palette", r"a\.png is of Pillow's mode P; expected 8-bit grey \(L\) or RGB")
    picture(tmp_path / "text" / "cat" / "a.png")
    (tmp_path / "text" / "cat" / "notes.txt").write_text("hello")
    refused("text", r"notes\.txt is not an image that Pillow can read")
    picture(tmp_path / "cut" / "cat" / "a.png", size=(60, 60))
    whole = (tmp_path / "cut" / "cat" / "a.png").read_bytes()
    (tmp_path / "cut" / "cat" / "a.png").write_bytes(whole[: len(whole) - 30])
    refused("cut", r"a\.png cannot be read: .*; expected a whole image")
    picture(tmp_path / "parts" / "train" / "cat" / "a.png")
    picture(tmp_path / "parts" / "held_out" / "dog" / "a.png")
    refused("parts", "held_out has the classes dog, train has cat; expected the same")
    picture(tmp_path / "huge" / "cat" / "a.png", size=(2000, 2000))
    refused("huge", "a.png is 2000 x 2000 L; expected at most")


# All of them


def test_files_without_clients_come_in_one_place(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("label,f\n0,1\n1,2\n")
    np.savez(tmp_path / "mine.npz", features=np.ones((2, 1)), labels=[0, 1])
    parquet(tmp_path, label=[0, 1], f=[1.0, 2.0])
    for name in ("mine.csv", "mine.npz", "mine.parquet"):
        found = datasets.load(str(tmp_path / name))
        assert isinstance(found, datasets.CentralDataset)
        assert len(datasets.partition(found, datasets.iid(2)).clients) == 2


def test_label_gaps_are_refused(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("client,label,f\na,0,1\na,3,2\n")
    np.savez(tmp_path / "mine.npz", features=np.ones((2, 1)), labels=[0, 3], clients=["a", "a"])
    for name in ("mine.csv", "mine.npz"):
        with pytest.raises(DataError, match=f"{name}: class 1 has no example, and class 3 has"):
            datasets.load(str(tmp_path / name))


@pytest.mark.parametrize("name", ["watch", "fashion_mnist", "mine.npz"])
def test_only_tables_have_a_client_column(name: str) -> None:
    with pytest.raises(ConfigError, match=r"has no column 'who'; expected a \.csv or \.parquet file"):
        datasets.load(name, client_column="who")


def test_a_name_with_a_percent_sign_is_a_name(tmp_path: Path) -> None:
    np.savez(tmp_path / "100% of it.npz", features=np.ones((2, 1)), labels=[0, 1])
    assert datasets.load(str(tmp_path / "100% of it.npz")).num_classes == 2
