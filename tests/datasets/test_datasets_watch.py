"""The ``watch`` data set: its windows, its features, its fetch. The first run on a machine fetches 11 MB by pip."""

from __future__ import annotations

import base64
import hashlib
import math
import os
import pickle
import subprocess
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from script_kit import SCRIPT

from edgefl import datasets
from edgefl.datasets import fetch
from edgefl.datasets.named import watch
from edgefl.errors import ConfigError, StorageError, UnavailableError, VerificationError


@pytest.fixture(scope="module")
def people() -> datasets.FederatedDataset:
    return datasets.load("watch")


@pytest.fixture
def wheel() -> Path:
    """The pinned wheel's file in the user's cache."""
    fetch.pinned_bytes(watch.WHEEL)
    return fetch.cache_folder() / watch.WHEEL.file_name


@pytest.fixture
def cache(tmp_path: Path, wheel: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache that does not exist yet."""
    del wheel  # asked for before the cache moves
    folder = tmp_path / "cache"
    monkeypatch.setenv("EDGEFL_CACHE", str(folder))
    return folder


def offer(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """Let pip look into one folder and nowhere else."""
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))


# Windows


def test_no_window_crosses_the_cut() -> None:
    for length in [*range(3000), 10_000]:
        cut = length * 7 // 10
        grid = range(0, length - 199, 100)
        assert [*watch.training_starts(length)] == [start for start in grid if start + 200 <= cut], length
        assert [*watch.held_out_starts(length)] == [start for start in grid if start >= cut], length


def test_no_example_holds_a_step_of_the_other_part() -> None:
    """Through the function that cuts the real series: each step of a channel is its own number."""
    for length in (947, 1000, 1010, 1428, 1429, 2618):
        series = watch.Series(1, 0, np.repeat(np.arange(length, dtype=np.float64)[:, None], 6, axis=1))
        cut = length * 7 // 10
        lowest, highest = (watch.FEATURE_NAMES.index(name) for name in ("ax min", "ax max"))
        training = np.asarray(watch._examples([(series, watch.training_starts(length))]).features_view)
        held_out = np.asarray(watch._examples([(series, watch.held_out_starts(length))]).features_view)
        assert training[:, highest].max() < cut <= held_out[:, lowest].min()
        assert (training[:, highest] - training[:, lowest] == 199).all()
        assert (held_out[:, highest] - held_out[:, lowest] == 199).all()


def test_windows_by_hand() -> None:
    assert list(watch.training_starts(1000)) == [0, 100, 200, 300, 400, 500]
    assert list(watch.held_out_starts(1000)) == [700, 800]
    assert list(watch.training_starts(1001)) == [0, 100, 200, 300, 400, 500]
    assert list(watch.held_out_starts(1010)) == [800]  # the cut is at 707


def test_counts_of_the_real_data(people: datasets.FederatedDataset) -> None:
    assert (people.num_features, people.num_classes) == (75, 7)
    assert people.classes == ("PEN", "ABD", "FEL", "IR", "ER", "TRAP", "ROW")
    assert [client.client_id for client in people.clients] == [f"person-{index}" for index in range(10)]
    assert [len(client) for client in people.clients] == [182, 175, 91, 88, 157, 152, 171, 156, 156, 167]
    assert [len(client) for client in people.held_out] == [60, 56, 24, 20, 50, 48, 53, 45, 46, 53]
    for parts, counts in (
        (people.clients, [154, 250, 253, 229, 233, 186, 190]),
        (people.held_out, [40, 79, 84, 74, 73, 48, 57]),
    ):
        assert np.bincount(np.asarray(datasets.pool(parts).labels_view)).tolist() == counts


def test_windows_without_the_cut(wheel: Path) -> None:
    series, _ = watch._read(wheel.read_bytes())
    assert len(series) == 140
    assert sum(len(range(0, len(one.values) - 199, 100)) for one in series) == 2229


def test_real_features_are_what_the_kernels_take(people: datasets.FederatedDataset) -> None:
    features = np.asarray(datasets.pool(people.clients + people.held_out).features_view)
    assert features.dtype == np.float32
    assert np.isfinite(features).all()
    assert np.abs(features).max() < 29
    assert np.abs(features[features != 0]).min() >= 2.0**-30
    assert np.asarray(datasets.pool(people.clients).features_view).std(axis=0).min() > 0.03


def test_loading_twice_gives_the_same_bytes(people: datasets.FederatedDataset) -> None:
    assert watch.load().digest == people.digest


# Features


def feature(windows: NDArray[np.float64], name: str) -> list[float]:
    values = watch.extract(windows)
    assert values.shape == (len(windows), 75)
    assert values.dtype == np.float32
    column: list[float] = values[:, watch.FEATURE_NAMES.index(name)].tolist()
    return column


def test_feature_names() -> None:
    assert len(set(watch.FEATURE_NAMES)) == 75
    assert watch.FEATURE_NAMES[:6] == ("ax mean", "ax spread", "ax min", "ax max", "ax step", "ax band 0")
    assert watch.FEATURE_NAMES[11:13] == ("ax band 6", "ay mean")


def test_features_of_a_constant() -> None:
    window = np.tile([3.0, 4.0, 12.0, 1.0, 0.0, -1.0], (2, 200, 1))
    for name, expected in {
        "ax mean": 3,
        "ay min": 4,
        "az max": 12,
        "wz mean": -1,
        "wy mean": 0,
        "|a| mean": 13,
    }.items():
        assert feature(window, name) == [expected, expected]
    for name in ("ax spread", "wz step", "|a| spread", "|a| step"):
        assert feature(window, name) == [0, 0]
    for band in range(7):
        assert feature(window, f"ax band {band}") == pytest.approx([math.log(1e-6)] * 2)


def test_features_of_a_ramp() -> None:
    window = np.zeros((1, 200, 6))
    window[0, :, 4] = 0.5 * np.arange(200) - 10.0
    assert feature(window, "wy mean") == [39.75]
    assert feature(window, "wy min") == [-10]
    assert feature(window, "wy max") == [89.5]
    assert feature(window, "wy step") == [0.5]
    assert feature(window, "wy spread") == pytest.approx([0.5 * math.sqrt((200**2 - 1) / 12)])


@pytest.mark.parametrize(
    ("cycles", "band"), [(1, 0), (2, 1), (3, 1), (4, 2), (7, 2), (8, 3), (16, 4), (31, 4), (32, 5), (64, 6), (99, 6)]
)
def test_a_sine_is_in_its_band(cycles: int, band: int) -> None:
    window = np.zeros((1, 200, 6))
    window[0, :, 5] = 7 + 2 * np.sin(2 * np.pi * cycles * np.arange(200) / 200)
    for other in range(7):
        energy = 2.0 if other == band else 0.0  # amplitude² / 2
        assert feature(window, f"wz band {other}") == pytest.approx([math.log(energy + 1e-6)], abs=1e-5)
        assert feature(window, f"wy band {other}") == pytest.approx([math.log(1e-6)])


def test_band_energies_add_up_to_the_variance() -> None:
    window = np.random.default_rng(5).normal(3, 2, (1, 200, 6))
    energies = [math.exp(feature(window, f"az band {band}")[0]) - 1e-6 for band in range(7)]
    assert sum(energies) == pytest.approx(window[0, :, 2].var(), rel=1e-5)
    alternating = np.zeros((1, 200, 6))
    alternating[0, :, 0] = np.resize([1.0, -1.0], 200)  # the highest frequency there is
    assert math.exp(feature(alternating, "ax band 6")[0]) == pytest.approx(1, rel=1e-5)


def test_small_features_become_zero() -> None:
    window = np.full((1, 200, 6), 2.0**-31)
    assert feature(window, "ax mean") == [0]
    assert feature(window * 2, "ax mean") == [2.0**-30]
    assert feature(-window, "ax min") == [0]


def test_no_window_gives_no_example() -> None:
    assert len(watch._examples([(watch.Series(1, 0, np.zeros((150, 6))), range(0))])) == 0
    assert watch.extract(np.empty((0, 200, 6))).shape == (0, 75)


# The fetch


def test_where_the_cache_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEFL_CACHE", str(tmp_path / "own"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert fetch.cache_folder() == tmp_path / "own"
    monkeypatch.delenv("EDGEFL_CACHE")
    assert fetch.cache_folder() == tmp_path / "xdg" / "edgefl"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert fetch.cache_folder() == tmp_path / "home" / ".cache" / "edgefl"


def test_fetch_fills_the_cache_and_then_reads_it(
    wheel: Path, cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    offer(monkeypatch, wheel.parent)
    fetch.pinned_bytes(watch.WHEEL)
    assert [file.name for file in cache.iterdir()] == [watch.WHEEL.file_name]  # nothing else is left behind
    captured = capfd.readouterr()
    assert captured.err == "edgefl: fetching seglearn==1.2.5 (11.3 MB) by pip\n"
    assert captured.out == ""
    offer(monkeypatch, tmp_path)  # pip would find nothing now
    fetch.pinned_bytes(watch.WHEEL)
    assert capfd.readouterr().err == ""


def test_without_network_one_line_says_what_to_do(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    offer(monkeypatch, tmp_path / "empty")
    with pytest.raises(UnavailableError) as caught:
        datasets.load("watch")
    message = str(caught.value)
    assert "\n" not in message
    assert "No matching distribution found for seglearn==1.2.5" in message
    assert f"pip download --no-deps --only-binary :all: -d {cache} seglearn==1.2.5" in message
    assert f"put seglearn-1.2.5-py3-none-any.whl into {cache}" in message
    assert list(cache.iterdir()) == []


def test_without_pip_the_same(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # A package path that holds a broken "pip" hides the real one.
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "pip.py").write_text("raise ModuleNotFoundError('No module named pip')\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "path"))
    with pytest.raises(UnavailableError, match=rf"No module named pip\); .* or put .* into {cache}"):
        datasets.load("watch")


def test_an_address_in_what_pip_said_is_not_repeated() -> None:
    assert fetch._reason("noise\nERROR: Could not reach https://me:secret@host/simple now\n\n") == (
        "Could not reach (address) now"
    )
    assert fetch._reason("") == "it said nothing"


def test_a_cache_that_cannot_be_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEFL_CACHE", str(tmp_path / "file"))
    with pytest.raises(StorageError, match=r"file cannot be used: .*; set EDGEFL_CACHE"):
        datasets.load("watch")


class Trap:
    """Unpickled, it makes a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return Path.touch, (self.marker,)


def tampered_wheel(folder: Path, marker: Path) -> Path:
    """A wheel that pip accepts, of the right name and version, whose data is a trap."""
    folder.mkdir()
    info = "seglearn-1.2.5.dist-info"
    trap = folder / "trap.npy"
    np.save(trap, np.array(Trap(marker), object), allow_pickle=True)
    files = {
        watch.MEMBER: trap.read_bytes(),
        f"{info}/METADATA": b"Metadata-Version: 2.1\nName: seglearn\nVersion: 1.2.5\n",
        f"{info}/WHEEL": b"Wheel-Version: 1.0\nGenerator: hand\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{name},sha256={base64.urlsafe_b64encode(hashlib.sha256(raw).digest()).decode().rstrip('=')},{len(raw)}\n"
        for name, raw in files.items()
    )
    path = folder / watch.WHEEL.file_name
    with zipfile.ZipFile(path, "w") as archive:
        for name, raw in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n".encode()}.items():
            archive.writestr(name, raw)
    return path


def test_the_trap_of_these_tests_works(tmp_path: Path) -> None:
    wheel = tampered_wheel(tmp_path / "evil", tmp_path / "marker")
    with pytest.raises((TypeError, AttributeError, pickle.UnpicklingError)):
        watch._read(wheel.read_bytes())
    assert (tmp_path / "marker").exists()


def test_a_wheel_of_another_digest_is_refused_before_it_is_unpickled(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tampered_wheel(tmp_path / "evil", tmp_path / "marker")
    offer(monkeypatch, tmp_path / "evil")
    with pytest.raises(VerificationError, match=f"expected {watch.WHEEL.sha256}; nothing of it was used"):
        datasets.load("watch")
    assert not (tmp_path / "marker").exists()
    assert list(cache.iterdir()) == []


def test_the_progress_display_survives_folders_that_pip_removes_meanwhile(tmp_path: Path) -> None:
    (tmp_path / "a.whl").write_bytes(bytes(7))
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            (tmp_path / "unpack").mkdir()
            (tmp_path / "unpack").rmdir()

    other = threading.Thread(target=come_and_go)
    other.start()
    try:
        assert {fetch._bytes_below(tmp_path, ".whl") for _ in range(3000)} == {7}
    finally:
        stop.set()
        other.join()


def test_a_corrupt_cached_file_is_removed_and_fetched_anew(
    wheel: Path,
    cache: Path,
    people: datasets.FederatedDataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    tampered_wheel(tmp_path / "evil", tmp_path / "marker").parent.rename(cache)
    offer(monkeypatch, wheel.parent)
    assert datasets.load("watch").digest == people.digest
    assert f"{cache / watch.WHEEL.file_name} is not the pinned file; fetching it anew" in capfd.readouterr().err
    assert not (tmp_path / "marker").exists()
    assert hashlib.sha256((cache / watch.WHEEL.file_name).read_bytes()).hexdigest() == watch.WHEEL.sha256


def test_a_corrupt_cached_file_is_removed_even_without_a_network(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir()
    (cache / watch.WHEEL.file_name).write_bytes(b"half a whe")
    (tmp_path / "empty").mkdir()
    offer(monkeypatch, tmp_path / "empty")
    with pytest.raises(UnavailableError):
        datasets.load("watch")
    assert list(cache.iterdir()) == []


def test_two_loads_at_once(
    wheel: Path, cache: Path, people: datasets.FederatedDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(monkeypatch, wheel.parent)
    code = "from edgefl import datasets; print(datasets.load('watch').digest)"
    loads = [
        subprocess.Popen([*SCRIPT, code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    for load in loads:
        out, err = load.communicate(timeout=120)
        assert (load.returncode, out) == (0, f"{people.digest}\n"), err
    assert [file.name for file in cache.iterdir()] == [watch.WHEEL.file_name]


def test_no_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDGEFL_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ConfigError, match="set EDGEFL_CACHE"):
        fetch.cache_folder()
