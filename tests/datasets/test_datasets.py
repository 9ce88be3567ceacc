"""Data sets as a user sees them: names, files of one's own, and the errors that say what to change."""

from __future__ import annotations

import subprocess
from array import array
from pathlib import Path

import numpy as np
import pytest
from script_kit import SCRIPT

from edgefl import datasets
from edgefl.errors import ConfigError, DataError
from edgefl.types import ClientDataset, DType, Examples, Quantization


def examples(rows: list[list[float]], labels: list[int]) -> Examples:
    flat = array("f", [value for row in rows for value in row])
    return Examples(len(rows[0]), flat.tobytes(), array("i", labels).tobytes())


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# The names


def test_importing_and_reading_csv_need_no_numpy(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.csv", "client,label,f\na,0,1\na,1,2\n")
    code = (
        "import sys; from edgefl import datasets; assert datasets.names();"
        f"assert datasets.load({str(file)!r}).num_classes == 2; assert 'numpy' not in sys.modules"
    )
    subprocess.run([*SCRIPT, code], check=True)


def test_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(
        ConfigError,
        match=r"'watsch'; expected one of digits, fashion_mnist, watch; did you mean 'watch'\?; or .* of images",
    ):
        datasets.load("watsch")


def test_load_takes_a_path(tmp_path: Path) -> None:
    write(tmp_path / "mine.CSV", "client,label,f\na,0,1\na,1,2\n")
    np.savez(tmp_path / "mine.npz", features=np.ones((2, 3)), labels=[0, 1], clients=["a", "b"])
    assert datasets.load(str(tmp_path / "mine.CSV")).num_features == 1
    assert datasets.load(str(tmp_path / "mine.npz")).num_features == 3


# FederatedDataset and pool


def test_pool_is_the_clients_one_after_another() -> None:
    first = ClientDataset("a", examples([[1, 2], [3, 4]], [0, 1]))
    second = ClientDataset("b", examples([[5, 6]], [1]))
    pooled = datasets.pool([first, second])
    assert pooled.features_view.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert pooled.labels_view.tolist() == [0, 1, 1]
    with pytest.raises(DataError, match="no client"):
        datasets.pool([])
    with pytest.raises(DataError, match="'c' has 1 float32 features"):
        datasets.pool([first, ClientDataset("c", examples([[1]], [0]))])


def test_a_dataset_that_contradicts_itself_is_refused() -> None:
    a = ClientDataset("a", examples([[1, 2]], [0]))
    b = ClientDataset("b", examples([[1, 2]], [1]))
    empty = ClientDataset("b", Examples(2, b"", b""))

    def make(
        clients: tuple[ClientDataset, ...],
        held_out: tuple[ClientDataset, ...] = (),
        features: int = 2,
        classes: int = 2,
    ) -> datasets.FederatedDataset:
        return datasets.FederatedDataset("x", features, classes, clients, held_out, ("no", "yes")[:classes])

    assert make((a, b), (a, empty)).num_examples == 2
    assert make((a, empty), (a, b)).unseen == (b,)
    assert make((a, b)).unseen == ()
    with pytest.raises(DataError, match="0 clients"):
        make(())
    with pytest.raises(DataError, match="2 clients of 1 ids"):
        make((a, a))
    with pytest.raises(DataError, match="other clients than the training part"):
        make((a, b), (b, a))
    with pytest.raises(DataError, match="client 'b' has no example; give it at least one, or leave it out"):
        make((a, empty))
    with pytest.raises(DataError, match="client 'b' has no example"):
        make((a, empty), (a, empty))
    with pytest.raises(DataError, match="'b' has labels 1 to 1; expected 0 to 0"):
        make((a, b), classes=1)
    with pytest.raises(DataError, match="declares 3 features"):
        make((a, b), features=3)
    with pytest.raises(DataError, match="classes has 1 names and num_classes is 2"):
        datasets.FederatedDataset("x", 2, 2, (a, b), (), ("no",))


def test_digest_changes_with_each_part() -> None:
    def digest(client_id: str, value: float, label: int, held_out: bool) -> str:
        part = ClientDataset(client_id, examples([[value]], [label]))
        return datasets.FederatedDataset("x", 1, 2, (part,), (part,) if held_out else ()).digest

    all_digests = {digest(*case) for case in [("a", 1, 0, False), ("b", 1, 0, False), ("a", 2, 0, False)]}
    all_digests |= {digest("a", 1, 1, False), digest("a", 1, 0, True)}
    assert len(all_digests) == 5
    assert digest("a", 1, 0, False) in all_digests


def test_repr_is_short() -> None:
    part = ClientDataset("a", examples([[1.0]] * 1000, [0] * 1000))
    assert len(repr(datasets.FederatedDataset("x", 1, 1, (part,), ()))) < 200


# CSV


def test_csv_in_full(tmp_path: Path) -> None:
    file = write(
        tmp_path / "mine.csv",
        "\ufeffclient,height,label,split,width\r\n"
        "pi-2,1.5,2,train,-4\r\n"
        "\r\n"
        "pi-1,1e-12,0,train,0.1\r\n"
        '"pi-2"," 7 ",1,held_out,8\r\n',
    )
    mine = datasets.from_csv(file)
    assert (mine.name, mine.num_features, mine.num_classes, mine.classes) == ("mine", 2, 3, ())
    assert [client.client_id for client in mine.clients] == ["pi-2", "pi-1"]
    assert [client.client_id for client in mine.held_out] == ["pi-2", "pi-1"]
    assert mine.clients[0].examples.features_view.tolist() == [[1.5, -4.0]]
    assert mine.clients[1].examples.features_view.tolist() == [[0.0, np.float32(0.1)]]  # below 2**-30 becomes 0
    assert mine.held_out[0].examples.features_view.tolist() == [[7.0, 8.0]]
    assert mine.held_out[0].examples.labels_view.tolist() == [1]
    assert len(mine.held_out[1]) == 0


def test_csv_with_columns_of_other_names(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.csv", "who,y,part,split\na,0,train,1\na,1,held_out,2\n")
    mine = datasets.from_csv(file, client_column="who", label_column="y", split_column="part")
    assert mine.clients[0].examples.features_view.tolist() == [[1.0]]  # 'split' is a feature here
    assert datasets.from_csv(write(tmp_path / "b.csv", "client,label,f\na,0,1\n")).held_out == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty; expected a header line"),
        ("client,label,f\n", "has no example"),
        ("client,f\na,1\n", "has no column 'label'; its columns are client, f"),
        ("client,label\na,1\n", "has no feature"),
        ("client,label,f,f\na,1,2,3\n", "two columns named 'f'"),
        (",client,label,f\n0,a,1,2\n", r"column 1 has no name; .* to_csv\(index=False\)"),
        ("client,label,f\na,0,1\na,0,blue\n", "line 3, column 'f' is 'blue'; expected a finite number"),
        ("client,label,f\na,0,\n", "line 2, column 'f' is ''"),
        ("client,label,f\na,0,nan\n", "line 2, column 'f' is 'nan'"),
        ("client,label,f\na,0,-inf\n", "line 2, column 'f' is '-inf'"),
        ("client,label,f\na,0,3.5e38\n", "line 2, column 'f' is '3.5e38'"),
        ("client,label,f\na,0,1_000\n", "line 2, column 'f' is '1_000'"),
        ("client,label,f\na,1.0,1\n", "line 2, column 'label' is '1.0'; expected a whole number, or a name"),
        ("client,label,f\na,,1\n", "line 2, column 'label' is ''; expected a whole number, or a name"),
        ("client,label,f\na,0,1\na,walk,1\n", "line 3, column 'label' is 'walk', and .* line 2, .* is '0'; expected"),
        ("client,label,f\na,0,1\na,4096,1\n", "line 3, column 'label' is '4096'; expected 0 to 4095"),
        ("client,label,f\n ,0,1\n", "line 2, column 'client' is empty"),
        ("client,label,f\na,0,1\na,0\n", "line 3 has 2 values; expected 3"),
        ("client,label,f,split\na,0,1,test\n", "line 2, column 'split' is 'test'; expected train or held_out"),
        ("client,label,f,split\na,0,1,held_out\n", "mine.csv: mine has no training example"),
        ('client,label,f\na,0,"1\n', "line 2: unexpected end of data; expected comma-separated values"),
    ],
)
def test_csv_errors_name_the_place(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        datasets.from_csv(write(tmp_path / "mine.csv", text))
    assert "\n" not in str(caught.value)


def test_csv_options_that_contradict(tmp_path: Path) -> None:
    file = write(tmp_path / "mine.csv", "client,label,f\na,0,1\n")
    with pytest.raises(DataError, match="no column 'fold'"):
        datasets.from_csv(file, split_column="fold")
    with pytest.raises(DataError, match="columns are client, client; expected different ones"):
        datasets.from_csv(file, label_column="client")


def test_csv_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.csv cannot be read: No such file"):
        datasets.load(str(tmp_path / "none.csv"))
    (tmp_path / "latin.csv").write_bytes(b"client,label,f\n\xe9,0,1\n")
    with pytest.raises(DataError, match="not UTF-8 text"):
        datasets.from_csv(tmp_path / "latin.csv")


# NPZ


def test_npz_in_full(tmp_path: Path) -> None:
    file = tmp_path / "mine.npz"
    np.savez(
        file,
        features=np.array([[1.5, 1e-12], [3, 4], [5, 6]]),
        labels=np.array([2, 0, 1], np.uint8),
        clients=np.array([7, 3, 7]),
        held_out=np.array([False, False, True]),
    )
    mine = datasets.from_npz(file)
    assert (mine.name, mine.num_features, mine.num_classes) == ("mine", 2, 3)
    assert [client.client_id for client in mine.clients] == ["7", "3"]
    assert mine.clients[0].examples.features_view.tolist() == [[1.5, 0.0]]
    assert mine.held_out[0].examples.labels_view.tolist() == [1]
    assert len(mine.held_out[1]) == 0


@pytest.mark.parametrize(("dtype", "kept"), [(np.uint8, DType.UINT8), (np.int8, DType.INT8), (np.int32, DType.FLOAT32)])
def test_npz_keeps_eight_bits(tmp_path: Path, dtype: type[np.integer], kept: DType) -> None:
    np.savez(tmp_path / "a.npz", features=np.array([[1, 100]], dtype), labels=[0], clients=["a"])
    found = datasets.from_npz(tmp_path / "a.npz")
    assert found.clients[0].examples.dtype is kept
    assert found.clients[0].examples.features_view.tolist() == [[1, 100]]
    assert found.held_out == ()


def test_npz_quantization(tmp_path: Path) -> None:
    pixels = {"features": np.ones((1, 2), np.uint8), "labels": [0], "clients": ["a"]}
    np.savez(tmp_path / "a.npz", scale=1 / 255, zero_point=3, **pixels)
    assert datasets.from_npz(tmp_path / "a.npz").clients[0].examples.quantization == Quantization(1 / 255, 3)
    np.savez(tmp_path / "b.npz", scale=1.0, **pixels | {"features": np.ones((1, 2))})
    with pytest.raises(DataError, match="has scale for float32 features"):
        datasets.from_npz(tmp_path / "b.npz")
    np.savez(tmp_path / "c.npz", scale=[1.0], **pixels)
    with pytest.raises(DataError, match="scale is float64 of shape"):
        datasets.from_npz(tmp_path / "c.npz")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": None}, "no array 'labels'; it has clients, features"),
        ({"features": [[1.0, 2.0], [np.nan, 1.0]]}, r"features\[1, 0\] is nan; expected a finite number"),
        ({"features": [[1.0, 1e39], [1.0, 1.0]]}, r"features\[0, 1\] is 1e\+39"),
        ({"features": [1.0, 2.0]}, r"features are float64 of shape \(2,\)"),
        ({"features": [["a", "b"]]}, "features are <U1"),
        ({"features": np.ones((2, 0))}, r"of shape \(2, 0\)"),
        ({"labels": [0.0, 1.0]}, r"labels is float64 of shape \(2,\); expected integers or text of shape \(2,\)"),
        ({"labels": [0]}, r"labels is int64 of shape \(1,\); expected integers or text of shape \(2,\)"),
        ({"labels": ["a", " "]}, r"labels\[1\] is ''; expected a whole number, or a name"),
        ({"labels": [4096, 0]}, r"labels\[0\] is '4096'; expected 0 to 4095"),
        ({"clients": ["a", " "]}, r"clients\[1\] is empty"),
        ({"clients": [0.5, 1.5]}, "expected integers or text"),
        ({"held_out": [0, 1]}, "held_out is int64 .* expected bool"),
        ({"held_out": [True, True]}, "a has no training example"),
    ],
)
def test_npz_errors_name_the_place(tmp_path: Path, change: dict[str, object], message: str) -> None:
    arrays: dict[str, object] = {"features": [[1.0, 2.0], [3.0, 4.0]], "labels": [0, 1], "clients": ["a", "a"]}
    np.savez(tmp_path / "a.npz", **{name: value for name, value in (arrays | change).items() if value is not None})  # type: ignore[arg-type]
    with pytest.raises(DataError, match=message):
        datasets.from_npz(tmp_path / "a.npz")


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.marker,)


def test_npz_never_unpickles(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    np.savez(tmp_path / "a.npz", features=np.ones((1, 1)), labels=[0], clients=np.array([Trap(marker)], object))
    with pytest.raises(DataError, match="expected plain arrays, no objects"):
        datasets.from_npz(tmp_path / "a.npz")
    assert not marker.exists()


def test_npz_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"none\.npz cannot be read: No such file"):
        datasets.load(str(tmp_path / "none.npz"))
    np.save(tmp_path / "a.npy", np.ones(3))
    (tmp_path / "a.npy").rename(tmp_path / "a.npz")
    with pytest.raises(DataError, match="is not an NPZ file"):
        datasets.from_npz(tmp_path / "a.npz")
    np.savez(tmp_path / "b.npz", features=np.ones((100, 3)))
    raw = bytearray((tmp_path / "b.npz").read_bytes())
    raw[500] ^= 0xFF
    (tmp_path / "b.npz").write_bytes(raw)
    with pytest.raises(DataError, match="cannot be read: Bad CRC-32"):
        datasets.from_npz(tmp_path / "b.npz")
