"""Inference by the release that this device runs. The model runs in a child process; this one loads no runtime.

The features are raw: standardization and 8-bit scaling are part of the model file (``scale * (stored - zero_point)``
is computed here, because the file takes float32).
"""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass

from edgefl.classes import class_name, listed
from edgefl.errors import DataError, NotFoundError, VerificationError
from edgefl.models.tflite_metadata import read_classes
from edgefl.models.tflite_runner import float32_rows, predict_tflite
from edgefl.protocol.messages import Split
from edgefl.types import MAX_FLOAT32, MIN_MAGNITUDE, DType
from edgefl_device.config import DeviceConfig, ExampleSpec
from edgefl_device.content import InstalledRelease, ReleaseStore
from edgefl_device.example_store import ExampleStore

BEST_SHOWN = 5
"""Named classes in a line for people."""


@dataclass(frozen=True)
class Prediction:
    """One row: its ``index`` in the store (-1: given by hand) and ``label`` (None: not known), and what the model says.

    A tie between classes is won by the lowest.
    """

    index: int
    label: int | None
    predicted: int
    probabilities: tuple[float, ...]


@dataclass(frozen=True)
class Predictions:
    """``classes``: the names that the release gives its classes, else those of the configuration; () for none."""

    release: InstalledRelease
    runtime: str
    classes: tuple[str, ...]
    rows: tuple[Prediction, ...]


def predict_stored(
    config: DeviceConfig, release: str, split: Split, *, index: int | None = None, limit: int | None = None
) -> Predictions:
    """Predict stored examples: number ``index`` of ``split``, or the first ``limit`` (None: all).

    Raises ``NotFoundError`` when there is no such example or release; ``VerificationError`` for a model file that is
    not what its manifest says, and what ``predict_tflite`` and the store raise.
    """
    with ExampleStore.open(config.store_path, config.examples) as store:
        examples = store.load(split)
    count = len(examples)
    if not count:
        raise NotFoundError(f"this device has no {split.value} examples; add some with 'edgefl-device add'")
    if index is not None and not 0 <= index < count:
        raise NotFoundError(f"index is {index}; expected 0 to {count - 1} ({split.value})")
    first, last = (0, count if limit is None else min(limit, count)) if index is None else (index, index + 1)
    labels = list(examples.labels_view[first:last])
    return _predict(config, release, float32_rows(examples, first, last), labels, first)


def predict_given(config: DeviceConfig, release: str, text: str) -> Predictions:
    """Predict one row of features given as comma-separated numbers, as the applications measure them."""
    spec = config.examples
    cells = next(csv.reader([text]), [])
    if len(cells) != spec.num_features:
        raise DataError(f"--features has {len(cells)} values; expected {spec.num_features}")
    values = array("f")
    for column, cell in enumerate(cells):
        try:
            value = float(cell)
        except ValueError:
            value = math.nan
        if not -MAX_FLOAT32 <= value <= MAX_FLOAT32:
            raise DataError(f"--features, value {column} is {cell!r}; expected a finite number")
        if spec.dtype is not DType.FLOAT32:
            value = _meaning(spec, value)
        values.append(value if abs(value) >= MIN_MAGNITUDE else 0.0)
    return _predict(config, release, values.tobytes(), [None], -1)


def as_dict(found: Predictions) -> dict[str, object]:
    """For programs: numbers as ever, and names where the classes have some."""
    info, classes = found.release.info, found.classes
    rows = []
    for row in found.rows:
        body = asdict(row)
        if classes and row.label is not None:
            body["label_class"] = class_name(classes, row.label)
        if classes:
            body["predicted_class"] = class_name(classes, row.predicted)
        rows.append(body)
    result: dict[str, object] = {"release": info.name, "version": info.version, "runtime": found.runtime, "rows": rows}
    return result | ({"classes": list(classes)} if classes else {})


def lines(found: Predictions) -> Iterator[str]:
    """For people: one line per row."""
    info, classes = found.release.info, found.classes
    yield f"release {info.name} version {info.version}"
    for row in found.rows:
        place = "given" if row.index < 0 else f"example {row.index}"
        label = "" if row.label is None else f"label {class_name(classes, row.label)}, "
        shares = _shares(row.probabilities, classes)
        yield f"{place}: {label}predicted {class_name(classes, row.predicted)}, probabilities {shares}"


def _shares(probabilities: tuple[float, ...], classes: tuple[str, ...]) -> str:
    """All in index order; of named classes the likeliest, each with its name."""
    if not classes:
        return " ".join(f"{value:.4f}" for value in probabilities)
    best = sorted(range(len(classes)), key=lambda index: -probabilities[index])[:BEST_SHOWN]
    return ", ".join(f"{classes[index]} {probabilities[index]:.4f}" for index in best)


def _predict(
    config: DeviceConfig, release: str, features: bytes, labels: list[int] | list[None], first: int
) -> Predictions:
    store = ReleaseStore(config.device.state_dir / "releases")
    found = store.get(release)
    model = store.read(found)
    result = predict_tflite(model, features, config.examples.num_features, sha256=found.info.sha256)
    if result.num_classes != config.examples.num_classes:
        raise VerificationError(
            f"release {found.info.name} {found.info.version} has {result.num_classes} classes; "
            f"the configuration says {config.examples.num_classes}"
        )
    classes, ours = read_classes(model), config.examples.classes
    if classes and ours and classes != ours:
        raise VerificationError(
            f"release {found.info.name} {found.info.version} has the classes {listed(classes)}; the configuration has "
            f"{listed(ours)}: give both the same names in the same order"
        )
    rows = []
    flat = memoryview(result.probabilities).cast("f")
    for number, label in enumerate(labels):
        start = number * result.num_classes
        row = tuple(flat[start : start + result.num_classes])
        rows.append(Prediction(-1 if first < 0 else first + number, label, row.index(max(row)), row))
    return Predictions(found, result.runtime, classes or ours, tuple(rows))


def _meaning(spec: ExampleSpec, stored: float) -> float:
    low, high = (0, 255) if spec.dtype is DType.UINT8 else (-128, 127)
    if stored != int(stored) or not low <= stored <= high:
        raise DataError(f"--features has {stored!r}; expected whole numbers from {low} to {high}")
    return spec.scale * (stored - spec.zero_point)
