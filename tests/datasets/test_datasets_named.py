"""``fashion_mnist`` and ``digits``: what they hold, and their fetch. The first run on a machine fetches 37 MB."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgefl import datasets
from edgefl.datasets import fetch
from edgefl.datasets.named import digits, fashion_mnist
from edgefl.datasets.pinned import PinnedDeb, PinnedWheel
from edgefl.errors import DataError, UnavailableError, VerificationError
from edgefl.types import DType, Examples, Quantization

PINNED = pytest.mark.parametrize(
    ("load", "pinned"),
    [(fashion_mnist.load, fashion_mnist.DEB), (digits.load, digits.WHEEL)],
    ids=["fashion_mnist", "digits"],
)


@pytest.fixture
def no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and clients that know no place to fetch from; the cache's folder."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    nowhere = tmp_path / "apt.conf"
    nowhere.write_text('Dir::Etc::sourcelist "/dev/null";\nDir::Etc::sourceparts "/dev/null";\n')
    monkeypatch.setenv("APT_CONFIG", str(nowhere))
    monkeypatch.setenv("EDGEFL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def raw_digest(examples: Examples) -> str:
    return hashlib.sha256(bytes(examples.features) + bytes(examples.labels)).hexdigest()


def test_fashion_mnist_is_whole_and_eight_bits() -> None:
    data = datasets.load("fashion_mnist")
    assert data.test is not None
    assert (len(data.train), len(data.test), data.num_features, data.num_classes) == (60_000, 10_000, 784, 10)
    assert (data.classes[0], data.classes[9]) == ("T-shirt", "ankle boot")
    for part, each in ((data.train, 6000), (data.test, 1000)):
        assert (part.dtype, part.quantization) == (DType.UINT8, Quantization(1 / 255))
        assert len(part.features) == len(part) * 784  # a byte a pixel
        assert np.bincount(np.asarray(part.labels_view)).tolist() == [each] * 10
    # The data set's first picture is an ankle boot on black.
    assert data.train.labels_view[0] == 9
    assert max(np.asarray(data.train.features_view)[0]) == 255
    assert raw_digest(data.train) == "c7d8cfe8172756709eda8bbe8b201cb44f70785b4cd9974a82408b36cc1f72e4"
    assert raw_digest(data.test) == "2589de149ea70a51076dfb7116c581fbd9b4c7b39b8e9c9f19ec089d65d659b8"


@pytest.mark.parametrize(
    ("part", "place"), [("images", 3), ("images", 7), ("images", 15), ("labels", 3), ("labels", 7)]
)
def test_a_file_with_another_header_is_not_read(part: str, place: int) -> None:
    """The digest says what was fetched; this, that what is pinned is what the reader expects."""
    files = {
        "train-images-idx3-ubyte.gz": bytearray(bytes.fromhex("00000803000000010000001c0000001c") + bytes(784)),
        "train-labels-idx1-ubyte.gz": bytearray(bytes.fromhex("0000080100000001") + b"\7"),
    }
    assert list(fashion_mnist._examples(files, "train").labels_view) == [7]
    files[f"train-{part}-idx{3 if part == 'images' else 1}-ubyte.gz"][place] ^= 2
    with pytest.raises(VerificationError, match="the headers of part 'train' are 000008"):
        fashion_mnist._examples(files, "train")


def test_digits_are_whole_and_eight_bits() -> None:
    data = datasets.load("digits")
    assert data.test is not None
    assert (len(data.train), len(data.test), data.num_features, data.num_classes) == (1437, 360, 64, 10)
    for part in (data.train, data.test):
        assert (part.dtype, part.quantization) == (DType.UINT8, Quantization(1 / 16))
        assert (np.asarray(part.features_view).min(), np.asarray(part.features_view).max()) == (0, 16)
    assert data.train.labels_view.tolist()[:10] == list(range(10))
    # The first row as the UCI repository prints it.
    assert np.asarray(data.train.features_view)[0, :16].tolist() == [
        0,
        0,
        5,
        13,
        9,
        1,
        0,
        0,
        0,
        0,
        13,
        15,
        10,
        15,
        5,
        0,
    ]
    assert raw_digest(data.train) == "84400885ae459a7290df41632e5a0f546ad33f33fdcc172b4debf044e64fd735"
    assert raw_digest(data.test) == "c91264280a3ea378cd831b9f76c1943c6b729af64169c71cf8b5e06bfcf7988e"


@PINNED
def test_without_network_one_line_says_what_to_do(
    load: Callable[[], object], pinned: PinnedDeb | PinnedWheel, no_network: Path
) -> None:
    with pytest.raises(UnavailableError) as caught:
        load()
    message = str(caught.value)
    assert "\n" not in message
    assert f"cannot fetch {pinned.requirement} (" in message
    assert f"expected {pinned.client} and a network" in message
    assert f"put {pinned.file_name} into {no_network}" in message
    assert list(no_network.iterdir()) == []


@PINNED
def test_a_corrupt_cached_file_is_not_used(
    load: Callable[[], object],
    pinned: PinnedDeb | PinnedWheel,
    no_network: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    """It is fetched anew: without a network, in vain."""
    no_network.mkdir()
    (no_network / pinned.file_name).write_bytes(b"half a file")
    with pytest.raises(UnavailableError, match=f"cannot fetch {pinned.project}"):
        load()
    assert "is not the pinned file; fetching it anew" in capfd.readouterr().err
    assert list(no_network.iterdir()) == []


def offer(no_network: Path, file: Path) -> None:
    """Let apt-get look into one folder, where ``file`` is the package, and nowhere else."""
    mirror = no_network.parent / "mirror"
    mirror.mkdir()
    shutil.copy(file, mirror / fashion_mnist.DEB.file_name)
    raw = file.read_bytes()
    (mirror / "Packages").write_text(
        f"Package: {fashion_mnist.DEB.project}\nVersion: {fashion_mnist.DEB.version}\nArchitecture: all\n"
        f"Filename: ./{fashion_mnist.DEB.file_name}\nSize: {len(raw)}\nSHA256: {hashlib.sha256(raw).hexdigest()}\n"
        "Maintainer: nobody\nDescription: a data set\n"
    )
    sources = no_network.parent / "mirror.list"
    sources.write_text(f"deb [trusted=yes] copy:{mirror} ./\n")
    # apt gives up root while it fetches, and a test's folder is its owner's alone.
    (no_network.parent / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{sources}";\nDir::Etc::sourceparts "/dev/null";\nAPT::Sandbox::User "root";\n'
    )


def test_a_package_comes_into_the_cache_by_apt_get(
    no_network: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for name in ("EDGEFL_CACHE", "APT_CONFIG"):
        monkeypatch.delenv(name)
    fetch.pinned_bytes(fashion_mnist.DEB)  # into the user's cache, when it is not there yet
    capfd.readouterr()
    offer(no_network, fetch.cache_folder() / fashion_mnist.DEB.file_name)
    monkeypatch.setenv("EDGEFL_CACHE", str(no_network))
    monkeypatch.setenv("APT_CONFIG", str(no_network.parent / "apt.conf"))
    no_network.mkdir()
    (no_network / fashion_mnist.DEB.file_name).write_bytes(b"half a file")
    assert hashlib.sha256(fetch.pinned_bytes(fashion_mnist.DEB)).hexdigest() == fashion_mnist.DEB.sha256
    assert [file.name for file in no_network.iterdir()] == [fashion_mnist.DEB.file_name]
    assert "fetching dataset-fashion-mnist=0.0~git20200523.55506a9-1 (30.9 MB) by apt-get" in capfd.readouterr().err
    assert len(fashion_mnist.load().train) == 60_000


def test_a_package_of_another_digest_is_refused(no_network: Path, tmp_path: Path) -> None:
    (tmp_path / "other.deb").write_bytes(b"!<arch>\nanother package")
    offer(no_network, tmp_path / "other.deb")
    with pytest.raises(
        VerificationError, match=f"as fetched by apt-get has SHA-256 .* expected {fashion_mnist.DEB.sha256}"
    ):
        fashion_mnist.load()
    assert list(no_network.iterdir()) == []


def test_a_machine_without_apt_get_is_told_what_it_lacks(no_network: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(no_network))
    with pytest.raises(UnavailableError, match=r"\(no command 'apt-get' here\); .* or put dataset-fashion-mnist"):
        fashion_mnist.load()


# CentralDataset


def grey(rows: int, *labels: int, features: int = 1) -> Examples:
    return Examples(features, bytes(rows * features), np.array(labels, np.int32).tobytes(), DType.UINT8)


def test_a_central_set_that_contradicts_itself_is_refused() -> None:
    def make(train: Examples, test: Examples | None = None, **columns: dict[str, tuple[str, ...]]) -> None:
        datasets.CentralDataset("x", 2, train, test, **columns)

    make(grey(2, 0, 1), grey(0), train_columns={"who": ("a", "b")}, test_columns={"who": ()})
    with pytest.raises(DataError, match="x has no training example"):
        make(grey(0))
    with pytest.raises(DataError, match="test part of x has other features"):
        make(grey(1, 0), grey(1, 0, features=2))
    with pytest.raises(DataError, match="test part of x has labels 2 to 2; expected 0 to 1"):
        make(grey(1, 0), grey(1, 2))
    with pytest.raises(DataError, match="training part of x has labels -1 to 0"):
        make(grey(2, 0, -1))
    with pytest.raises(DataError, match="column 'who' has 1 values for 2 training examples"):
        make(grey(2, 0, 1), train_columns={"who": ("a",)})
    with pytest.raises(DataError, match="other columns"):
        make(grey(1, 0), grey(1, 0), train_columns={"who": ("a",)})
