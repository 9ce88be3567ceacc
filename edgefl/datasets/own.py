"""A user's own data for simulation: one CSV or one NPZ file in, one ``FederatedDataset`` out.

Invariants: nothing is guessed and nothing is unpickled. Every value that cannot be trained on (not a number, not
finite as float32, a label that is not a whole number from 0) is refused with its place in the file; magnitudes below
2**-30 are written as 0 (design §4.2). Clients come in the order of their first row. CSV needs no NumPy.
"""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefl.datasets.federated import FederatedDataset
from edgefl.errors import DataError
from edgefl.types import MAX_CLASSES, MIN_MAGNITUDE, ClientDataset, DType, Examples, Quantization

if TYPE_CHECKING:
    from numpy.typing import NDArray

SPLIT_COLUMN = "split"
TRAIN, HELD_OUT = "train", "held_out"
_FLOAT32_MAX = (2 - 2.0**-23) * 2.0**127


@dataclass(frozen=True)
class _Columns:
    """Where things stand in a row of a CSV file."""

    names: tuple[str, ...]
    client: int
    label: int
    split: int | None
    features: tuple[int, ...]


@dataclass
class _Rows:
    """The growing examples of one part of one client."""

    features: array[float] = field(default_factory=lambda: array("f"))
    labels: array[int] = field(default_factory=lambda: array("i"))


def from_csv(
    path: str | Path,
    *,
    client_column: str = "client",
    label_column: str = "label",
    split_column: str | None = None,
) -> FederatedDataset:
    """Read a CSV file (UTF-8, comma, a header line) with one example a row.

    ``client_column`` holds the client's id, ``label_column`` a whole number from 0. ``split_column`` holds ``train``
    or ``held_out``; when it is not given, a column named ``split`` is taken if there is one, and without one nothing
    is held out. All other columns are features, in the order of the file, kept as float32. The number of classes is
    the largest label plus one.

    Raises ``DataError``, which names the line and the column, for what cannot be used.
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            try:
                return _read_csv(path, reader, client_column, label_column, split_column)
            except csv.Error as error:
                raise DataError(f"{path}, line {reader.line_num}: {error}; expected comma-separated values") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error


def from_npz(path: str | Path) -> FederatedDataset:
    """Read an NPZ file (``numpy.savez``) with one example a row.

    ``features``  (n, num_features): float or integer. uint8 and int8 are kept as they are, all others as float32.
    ``labels``    (n,) integer, from 0.
    ``clients``   (n,) integer or text: the client's id.
    ``held_out``  (n,) bool, optional: True keeps a row for evaluation. Without it nothing is held out.
    ``scale``, ``zero_point``  optional single numbers: what 8-bit features mean, ``scale * (stored - zero_point)``.

    Raises ``DataError``, which names the array and the row (counted from 0), for what cannot be used.
    """
    path = Path(path)
    arrays = _open_npz(path)
    for name in ("features", "labels", "clients"):
        if name not in arrays:
            raise DataError(f"{path} has no array {name!r}; it has {', '.join(sorted(arrays)) or 'none'}")
    features, dtype = _check_features(path, arrays["features"])
    count = len(features)
    labels = _check_vector(path, "labels", arrays["labels"], "iu", count)
    clients = _check_vector(path, "clients", arrays["clients"], "iuU", count)
    held_out = _check_vector(path, "held_out", arrays["held_out"], "b", count) if "held_out" in arrays else None
    wrong = ((labels < 0) | (labels >= MAX_CLASSES)).nonzero()[0]
    if len(wrong):
        raise DataError(f"{path}: labels[{wrong[0]}] is {labels[wrong[0]]}; expected 0 to {MAX_CLASSES - 1}")

    rows_of: dict[str, tuple[list[int], list[int]]] = {}
    kept = held_out.tolist() if held_out is not None else [False] * count
    for row, client in enumerate(clients.tolist()):
        client_id = str(client).strip()
        if not client_id:
            raise DataError(f"{path}: clients[{row}] is empty; expected the client's id")
        rows_of.setdefault(client_id, ([], []))[kept[row]].append(row)
    quantization = _quantization(path, arrays, dtype)

    def datasets(part: int) -> list[ClientDataset]:
        return [
            ClientDataset(
                client,
                Examples(
                    features.shape[1],
                    features[rows[part]].tobytes(),
                    labels[rows[part]].astype("<i4").tobytes(),
                    dtype,
                    quantization,
                ),
            )
            for client, rows in rows_of.items()
        ]

    return _assemble(
        path, features.shape[1], int(labels.max()) + 1, datasets(0), datasets(1) if held_out is not None else []
    )


def _assemble(
    path: Path, num_features: int, num_classes: int, clients: Iterable[ClientDataset], held_out: Iterable[ClientDataset]
) -> FederatedDataset:
    with _naming(path):
        return FederatedDataset(
            name=path.stem,
            num_features=num_features,
            num_classes=num_classes,
            label_names=tuple(str(label) for label in range(num_classes)),
            clients=tuple(clients),
            held_out=tuple(held_out),
            source=path.name,
        )


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Put the file's name before what was wrong with its content."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


# CSV


def _read_csv(
    path: Path, reader: Any, client_column: str, label_column: str, split_column: str | None
) -> FederatedDataset:
    """``reader`` is a ``csv.reader`` (its type has no public name)."""
    columns = _find_columns(path, next(reader, []), client_column, label_column, split_column)
    training: dict[str, _Rows] = {}
    held_out: dict[str, _Rows] = {}
    num_classes = 0
    for row in reader:
        if not row:
            continue  # a blank line
        where = f"{path}, line {reader.line_num}"
        if len(row) != len(columns.names):
            raise DataError(f"{where} has {len(row)} values; expected {len(columns.names)}, one a column")
        client = row[columns.client].strip()
        if not client:
            raise DataError(f"{where}, column {client_column!r} is empty; expected the client's id")
        label = _parse_label(where, label_column, row[columns.label])
        rows = training.setdefault(client, _Rows()), held_out.setdefault(client, _Rows())
        part = rows[_is_held_out(where, columns, row)]
        part.features.extend(_parse_features(where, columns, row))
        part.labels.append(label)
        num_classes = max(num_classes, label + 1)
    if not training:
        raise DataError(f"{path} has no example; expected one a line below the header")

    def datasets(parts: dict[str, _Rows]) -> list[ClientDataset]:
        return [
            ClientDataset(client, Examples(len(columns.features), rows.features.tobytes(), rows.labels.tobytes()))
            for client, rows in parts.items()
        ]

    kept = datasets(held_out) if columns.split is not None else []
    return _assemble(path, len(columns.features), num_classes, datasets(training), kept)


def _find_columns(
    path: Path, header: list[str], client_column: str, label_column: str, split_column: str | None
) -> _Columns:
    names = [name.strip() for name in header]
    if not names:
        raise DataError(
            f"{path} is empty; expected a header line with {client_column!r}, {label_column!r} and features"
        )
    for index, name in enumerate(names):
        if not name:
            raise DataError(
                f"{path}: column {index + 1} has no name; name it, or leave it out (pandas: to_csv(index=False))"
            )
        if name in names[:index]:
            raise DataError(f"{path} has two columns named {name!r}; expected unique names")
    if split_column is None and SPLIT_COLUMN in names:
        split_column = SPLIT_COLUMN
    special = [client_column, label_column, *([split_column] if split_column is not None else [])]
    for name in special:
        if name not in names:
            raise DataError(f"{path} has no column {name!r}; its columns are {', '.join(names)}")
    if len(set(special)) != len(special):
        raise DataError(f"client, label and split columns are {', '.join(special)}; expected different ones")
    features = tuple(index for index, name in enumerate(names) if name not in special)
    if not features:
        raise DataError(f"{path} has no feature; expected at least one column beside {', '.join(special)}")
    split = names.index(split_column) if split_column is not None else None
    return _Columns(tuple(names), names.index(client_column), names.index(label_column), split, features)


def _is_held_out(where: str, columns: _Columns, row: list[str]) -> bool:
    if columns.split is None:
        return False
    value = row[columns.split].strip()
    if value not in (TRAIN, HELD_OUT):
        raise DataError(
            f"{where}, column {columns.names[columns.split]!r} is {value!r}; expected {TRAIN} or {HELD_OUT}"
        )
    return value == HELD_OUT


def _parse_label(where: str, column: str, text: str) -> int:
    text = text.strip()
    # int() would also take "1_000" and digits of other scripts.
    if not (text.isascii() and text.isdigit()) or int(text) >= MAX_CLASSES:
        raise DataError(f"{where}, column {column!r} is {text!r}; expected a whole number from 0 to {MAX_CLASSES - 1}")
    return int(text)


def _parse_features(where: str, columns: _Columns, row: list[str]) -> Iterator[float]:
    for index in columns.features:
        text = row[index]
        try:
            value = float(text)
        except ValueError:
            value = math.nan
        # The array rounds to float32, where a large value would become infinite; float() would take "1_000".
        if not -_FLOAT32_MAX <= value <= _FLOAT32_MAX or "_" in text:
            raise DataError(
                f"{where}, column {columns.names[index]!r} is {text!r}; expected a finite number in float32's range"
            )
        yield value if abs(value) >= MIN_MAGNITUDE else 0.0


# NPZ


def _open_npz(path: Path) -> dict[str, NDArray[Any]]:
    import zipfile
    import zlib

    import numpy as np

    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise DataError(f"{path} is not an NPZ file; write it by numpy.savez")
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise DataError(f"{path} cannot be read: {error}; expected plain arrays, no objects") from error


def _check_features(path: Path, features: NDArray[Any]) -> tuple[NDArray[Any], DType]:
    import numpy as np

    if features.ndim != 2 or features.dtype.kind not in "fiu" or 0 in features.shape:
        raise DataError(
            f"{path}: features are {features.dtype} of shape {features.shape}; expected numbers "
            "of shape (n, num_features), neither of them 0"
        )
    if features.dtype in (np.uint8, np.int8):
        return features, DType.UINT8 if features.dtype == np.uint8 else DType.INT8
    with np.errstate(over="ignore"):
        values = features.astype("<f4")
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        row, column = wrong[0]
        raise DataError(
            f"{path}: features[{row}, {column}] is {features[row, column]}; expected a finite number in float32's range"
        )
    values[np.abs(values) < MIN_MAGNITUDE] = 0.0
    return values, DType.FLOAT32


def _check_vector(path: Path, name: str, vector: NDArray[Any], kinds: str, count: int) -> NDArray[Any]:
    if vector.shape != (count,) or vector.dtype.kind not in kinds:
        expected = {"iu": "integers", "iuU": "integers or text", "b": "bool"}[kinds]
        raise DataError(
            f"{path}: {name} is {vector.dtype} of shape {vector.shape}; expected {expected} of shape ({count},)"
        )
    return vector


def _quantization(path: Path, arrays: dict[str, NDArray[Any]], dtype: DType) -> Quantization:
    given = {name: arrays[name] for name in ("scale", "zero_point") if name in arrays}
    if given and dtype is DType.FLOAT32:
        raise DataError(f"{path} has {' and '.join(given)} for float32 features; expected them with uint8 or int8 only")
    for name, value in given.items():
        if value.ndim or value.dtype.kind not in ("fiu" if name == "scale" else "iu"):
            raise DataError(f"{path}: {name} is {value.dtype} of shape {value.shape}; expected a single number")
    scale = float(given["scale"]) if "scale" in given else 1.0
    return Quantization(scale, int(given["zero_point"]) if "zero_point" in given else 0)
