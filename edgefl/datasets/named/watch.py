"""``watch``: seven shoulder exercises of ten people, seen by a smartwatch; a device is a person.

140 series of six channels (acceleration in g, rotation in rad/s) at 50 Hz: each person, each exercise, each side.
Windows of 200 steps start at 0, 100, 200, … of each series. Its cut lies at 70 %: a window that ends at or before the
cut trains, one that starts at or after it is held out, and one that crosses the cut is in neither, so no held-out
step was ever trained on. Without the cut there are 2,229 windows; with it 1,495 train and 455 are held out.

Each window gives 75 float32 features (``FEATURE_NAMES``). The largest magnitude in the data set is below 29. They are
not standardized: mean and spread are for the fleet to find without pooling.

Source: D. M. Burns et al., "Shoulder physiotherapy exercise recognition: machine learning the inertial signals from a
smartwatch", Physiological Measurement 39(7), 2018; as packed in the wheel of seglearn 1.2.5 (BSD).
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgefl.datasets.federated import FederatedDataset
from edgefl.datasets.fetch import pinned_bytes
from edgefl.datasets.pinned import PinnedWheel
from edgefl.types import MIN_MAGNITUDE, ClientDataset, Examples

WHEEL = PinnedWheel(
    project="seglearn",
    version="1.2.5",
    file_name="seglearn-1.2.5-py3-none-any.whl",
    sha256="ec6b952c85c9627050102854b372d85951563d3b990df677d7c55547e87413dd",
    size_bytes=11_320_941,
)
MEMBER = "seglearn/data/watch_dataset.npy"

WINDOW = 200
STRIDE = 100
"""Steps: 4 s and 2 s at 50 Hz."""

CHANNELS = ("ax", "ay", "az", "wx", "wy", "wz")
NUM_ACCELERATION = 3

BAND_EDGES = (1, 2, 4, 8, 16, 32, 64, WINDOW // 2 + 1)
"""First bin of each octave, and one past the last bin. A bin is 0.25 Hz; bin 0, the mean, is a feature of its own."""

ENERGY_FLOOR = 1e-6
"""Added before the logarithm, so that silence is a number: (0.001 g)², below the sensor's noise."""

_BAND_NAMES = tuple(f"band {band}" for band in range(len(BAND_EDGES) - 1))
FEATURE_NAMES = (
    *(f"{channel} {what}" for channel in CHANNELS for what in ("mean", "spread", "min", "max", "step", *_BAND_NAMES)),
    *("|a| mean", "|a| spread", "|a| step"),
)
"""``spread`` is the standard deviation, ``step`` the mean absolute difference of neighbours, ``band b`` the natural
logarithm of the energy in octave ``b`` (over all bands, the energies add up to the variance)."""

NUM_FEATURES = len(FEATURE_NAMES)


@dataclass(frozen=True)
class Series:
    """One recording: ``values`` (T, 6) float64, of one person doing one exercise."""

    subject: int
    label: int
    values: NDArray[np.float64]


def training_starts(length: int) -> range:
    """Starts of the windows that lie wholly before the cut of a series of ``length`` steps."""
    return range(0, _cut(length) - WINDOW + 1, STRIDE)


def held_out_starts(length: int) -> range:
    """Starts of the windows, on the same grid, that lie wholly after the cut."""
    first = -(-_cut(length) // STRIDE) * STRIDE
    return range(first, length - WINDOW + 1, STRIDE)


def extract(windows: NDArray[np.float64]) -> NDArray[np.float32]:
    """The features of ``windows`` (n, 200, 6): (n, 75) float32, in the order of ``FEATURE_NAMES``.

    Magnitudes below 2**-30 are written as 0.
    """
    spectrum = np.square(np.abs(np.fft.rfft(windows, axis=1))) * (2.0 / WINDOW**2)
    spectrum[:, -1] *= 0.5  # the highest bin has no mirror image
    energy = np.add.reduceat(spectrum, BAND_EDGES[:-1], axis=1)
    # (n, 12, 6)
    per_channel = np.concatenate([_moments(windows, with_extremes=True), np.log(energy + ENERGY_FLOOR)], axis=1)
    magnitude = np.sqrt(np.square(windows[:, :, :NUM_ACCELERATION]).sum(axis=2, keepdims=True))
    columns = [
        per_channel.transpose(0, 2, 1).reshape(len(windows), len(CHANNELS) * per_channel.shape[1]),
        _moments(magnitude, with_extremes=False)[:, :, 0],
    ]
    features: NDArray[np.float32] = np.concatenate(columns, axis=1).astype(np.float32)
    features[np.abs(features) < MIN_MAGNITUDE] = 0.0
    return features


def load() -> FederatedDataset:
    """The data set; fetched on first use. The clients are ``person-0`` to ``person-9``, in the order of their numbers.

    Raises what ``edgefl.datasets.fetch.pinned_bytes`` raises.
    """
    series, classes = _read(pinned_bytes(WHEEL))
    clients, held_out = [], []
    for index, subject in enumerate(sorted({one.subject for one in series})):
        own = [one for one in series if one.subject == subject]
        client_id = f"person-{index}"
        clients.append(ClientDataset(client_id, _examples([(one, training_starts(len(one.values))) for one in own])))
        held_out.append(ClientDataset(client_id, _examples([(one, held_out_starts(len(one.values))) for one in own])))
    return FederatedDataset(
        name="watch",
        num_features=NUM_FEATURES,
        num_classes=len(classes),
        classes=classes,
        clients=tuple(clients),
        held_out=tuple(held_out),
        license="BSD-3-Clause, Copyright (c) 2018 David Burns",
        source=f"{WHEEL.project} {WHEEL.version}, {MEMBER}",
    )


def _cut(length: int) -> int:
    return length * 7 // 10


def _moments(windows: NDArray[np.float64], *, with_extremes: bool) -> NDArray[np.float64]:
    """Mean, spread, (minimum, maximum,) step over the time axis: (n, 3 or 5, channels)."""
    extremes = [windows.min(axis=1), windows.max(axis=1)] if with_extremes else []
    step = np.abs(np.diff(windows, axis=1)).mean(axis=1)
    return np.stack([windows.mean(axis=1), windows.std(axis=1), *extremes, step], axis=1)


def _examples(parts: Sequence[tuple[Series, range]]) -> Examples:
    """The windows of some series, in the order of series, then of time."""
    windows = [series.values[start : start + WINDOW] for series, starts in parts for start in starts]
    labels = [series.label for series, starts in parts for _ in starts]
    features = extract(np.stack(windows)) if windows else np.empty((0, NUM_FEATURES), np.float32)
    return Examples(NUM_FEATURES, features.tobytes(), np.array(labels, np.int32).tobytes())


def _read(wheel: bytes) -> tuple[list[Series], tuple[str, ...]]:
    """The series and the names of the classes of a wheel *whose digest was checked*: this unpickles."""
    with zipfile.ZipFile(io.BytesIO(wheel)) as archive:
        member = archive.read(MEMBER)
    table = np.load(io.BytesIO(member), allow_pickle=True).item()
    series = [
        Series(int(subject), int(label), np.asarray(values, np.float64))
        for values, label, subject in zip(table["X"], table["y"], table["subject"], strict=True)
    ]
    return series, tuple(str(name) for name in table["y_labels"])
