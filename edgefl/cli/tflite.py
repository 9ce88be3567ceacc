"""A ``.tflite`` file that runs here, off the device: what ``edgefl predict`` and ``edgefl evaluate`` share.

The file runs in a child process, some rows at a time, so that neither a damaged file nor a large data set takes this
process with it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from edgefl.datasets.rows import Rows
from edgefl.errors import DataError, VerificationError
from edgefl.models.tflite_metadata import read_classes
from edgefl.models.tflite_runner import float32_rows, predict_tflite

MAX_MODEL_BYTES = 256 << 20
"""As a release on a device."""

CHUNK_BYTES = 16 << 20
"""Features for one child: its start is then a small part, and a slow machine ends in the time that it is given."""


@dataclass(frozen=True)
class TfliteModel:
    """``classes``: the names that the file gives its classes; () where it gives none."""

    path: str
    content: bytes = dataclasses.field(repr=False)
    classes: tuple[str, ...]


@dataclass(frozen=True)
class Answer:
    """What the model says of row ``row``. A tie between classes is won by the lowest."""

    row: int
    predicted: int
    probabilities: tuple[float, ...]

    @property
    def probability(self) -> float:
        return self.probabilities[self.predicted]


def load_tflite(path: str) -> TfliteModel:
    """Raises ``DataError`` for a file that cannot be read, ``VerificationError`` for one that is not TFLite."""
    try:
        with Path(path).open("rb") as file:
            content = file.read(MAX_MODEL_BYTES + 1)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; expected a .tflite file") from None
    if len(content) > MAX_MODEL_BYTES:
        raise DataError(f"{path} has more than {MAX_MODEL_BYTES} bytes; expected a .tflite file of a softmax layer")
    try:
        return TfliteModel(path, content, read_classes(content))
    except VerificationError as error:
        raise VerificationError(f"{path}: {error}") from None


def answers(model: TfliteModel, rows: Rows, chosen: Sequence[int]) -> Iterator[Answer]:
    """Of the ``chosen`` rows, in their order.

    Raises ``DataError`` for rows that do not fit the model, and what ``predict_tflite`` raises.
    """
    width = rows.examples.num_features
    step = max(1, CHUNK_BYTES // (4 * width))
    for start in range(0, len(chosen), step):
        part = chosen[start : start + step]
        features = b"".join(float32_rows(rows.examples, first, last) for first, last in _spans(part))
        try:
            found = predict_tflite(model.content, features, width)
        except (DataError, VerificationError) as error:
            raise type(error)(f"{model.path}: {error}") from None
        if model.classes and found.num_classes != len(model.classes):
            raise VerificationError(
                f"{model.path} names {len(model.classes)} classes and gives {found.num_classes} probabilities; "
                "expected as many"
            )
        flat = memoryview(found.probabilities).cast("f")
        for index, row in enumerate(part):
            shares = tuple(flat[index * found.num_classes : (index + 1) * found.num_classes])
            yield Answer(row, shares.index(max(shares)), shares)


def _spans(rows: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Rising row numbers as spans [first, last) without gaps."""
    first = last = -1
    for row in chain(rows, (-1,)):
        if row != last:
            if first >= 0:
                yield first, last
            first = row
        last = row + 1
