"""Files of examples, read row by row: CSV, and NPZ without NumPy.

Invariants: nothing is guessed, nothing is unpickled, and a wrong value is named with its file, row and column. The
numbers stored are those that ``edgefl.datasets`` reads from the same file, so a simulation trains on the same bytes.

CSV: UTF-8, comma, a header line; a column ``label`` (a whole number from 0), optionally ``split`` (``train`` or
``held_out``); all others are features, in the order of the file.
NPZ (``numpy.savez``): ``features`` (n, num_features), ``labels`` (n,) integers, optionally ``held_out`` (n,) bool and
the single numbers ``scale`` and ``zero_point``, which must be the store's.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from pathlib import Path

from edgefl.csv_rows import open_csv, parse_held_out, parse_whole
from edgefl.errors import DataError
from edgefl.protocol.messages import Split
from edgefl.types import DType, parse_feature
from edgefl_device.config import ExampleSpec
from edgefl_device.example_store import ExampleStore, Row
from edgefl_device.npz import NpzArray, open_npz

LABEL_COLUMN = "label"
SPLIT_COLUMN = "split"
SUFFIXES = (".csv", ".npz")

_RANGES = {DType.UINT8: (0, 255), DType.INT8: (-128, 127)}
_CODES = {DType.FLOAT32: "f", DType.UINT8: "B", DType.INT8: "b"}


def add_file(store: ExampleStore, spec: ExampleSpec, path: Path, *, source: str = "") -> int:
    """Append the examples of one file, all or none; returns how many. ``source``: see ``ExampleStore.append_many``.

    Raises ``DataError`` that names the file, the row and what was expected; ``StorageError``.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path} is not a file of examples; expected a name that ends in {' or '.join(SUFFIXES)}")
    try:
        rows = read_csv(path, spec) if suffix == ".csv" else read_npz(path, spec)
        count = store.append_many(rows, source=source)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    return count


# CSV


def read_csv(path: Path, spec: ExampleSpec) -> Iterator[Row]:
    """The rows of a CSV file. Raises ``DataError`` while iterating."""
    with open_csv(path) as table:
        names, found = table.names, False
        label, split, features = _find_columns(path, names, spec)
        for where, cells in table:
            found = True
            yield Row(
                array(_CODES[spec.dtype], [_parse(where, names[i], cells[i], spec.dtype) for i in features]),
                parse_whole(cells[label], f"{where}, column {LABEL_COLUMN!r}", 0, spec.num_classes - 1),
                Split.TRAIN if split is None else _parse_split(where, cells[split]),
                where,
            )
    if not found:
        raise DataError(f"{path} has no example; expected one per line below the header")


def _find_columns(path: Path, names: tuple[str, ...], spec: ExampleSpec) -> tuple[int, int | None, list[int]]:
    if LABEL_COLUMN not in names:
        raise DataError(f"{path} has no column {LABEL_COLUMN!r}; its header is {', '.join(names)[:200]!r}")
    features = [i for i, name in enumerate(names) if name not in (LABEL_COLUMN, SPLIT_COLUMN)]
    if len(features) != spec.num_features:
        raise DataError(
            f"{path} has {len(features)} feature columns ({', '.join(names[i] for i in features)[:120]}); "
            f"expected {spec.num_features}"
        )
    split = names.index(SPLIT_COLUMN) if SPLIT_COLUMN in names else None
    return names.index(LABEL_COLUMN), split, features


def _parse(where: str, column: str, text: str, dtype: DType) -> float:
    place = f"{where}, column {column!r}"
    if dtype is not DType.FLOAT32:
        return parse_whole(text, place, *_RANGES[dtype])
    return parse_feature(text, place)


def _parse_split(where: str, text: str) -> Split:
    return Split.HELD_OUT if parse_held_out(text, f"{where}, column {SPLIT_COLUMN!r}") else Split.TRAIN


# NPZ


def read_npz(path: Path, spec: ExampleSpec) -> Iterator[Row]:
    """The rows of an NPZ file. Raises ``DataError`` while iterating."""
    with open_npz(path) as archive:
        _check_names(path, archive.names)
        features, labels = archive.array("features"), archive.array("labels")
        held_out = archive.array("held_out") if "held_out" in archive.names else None
        count = _check_shapes(path, spec, features, labels, held_out)
        for name, wanted in (("scale", spec.scale), ("zero_point", spec.zero_point)):
            if name in archive.names:
                _check_single(path, name, archive.array(name), wanted)
        wide = labels.rows()
        held = held_out.rows() if held_out is not None else None
        for index, values in enumerate(features.rows()):
            if index >= count:
                break
            label = int(next(wide)[0])
            if not 0 <= label < spec.num_classes:
                raise DataError(f"{path}: labels[{index}] is {label}; expected 0 to {spec.num_classes - 1}")
            split = Split.HELD_OUT if held is not None and next(held)[0] else Split.TRAIN
            yield Row(_convert(path, index, values, spec.dtype), label, split, f"{path}: row {index}")


def _check_names(path: Path, names: tuple[str, ...]) -> None:
    for name in ("features", "labels"):
        if name not in names:
            raise DataError(f"{path} has no array {name!r}; it has {', '.join(names) or 'none'}")
    for name in names:
        if name not in ("features", "labels", "held_out", "scale", "zero_point"):
            raise DataError(
                f"{path} has an array {name!r}; expected features, labels and held_out of this one device, "
                "and scale and zero_point"
            )


def _check_shapes(
    path: Path, spec: ExampleSpec, features: NpzArray, labels: NpzArray, held_out: NpzArray | None
) -> int:
    if len(features.shape) != 2 or features.shape[1] != spec.num_features or not features.shape[0]:
        raise DataError(f"{path}: features have the shape {features.shape}; expected (n, {spec.num_features}), n > 0")
    if spec.dtype is not DType.FLOAT32 and features.kind == "f":
        raise DataError(f"{path}: features are {features.dtype}; expected {spec.dtype.value} or other whole numbers")
    count = features.shape[0]
    for name, found, kinds, expected in (("labels", labels, "iu", "integers"), ("held_out", held_out, "b", "bool")):
        if found is not None and (found.shape != (count,) or found.kind not in kinds):
            raise DataError(
                f"{path}: {name} is {found.dtype} of shape {found.shape}; expected {expected} of shape ({count},)"
            )
    return count


def _check_single(path: Path, name: str, found: NpzArray, wanted: float) -> None:
    if found.shape not in ((), (1,)):
        raise DataError(f"{path}: {name} has the shape {found.shape}; expected a single number")
    value = next(found.rows())[0]
    if value != wanted:
        raise DataError(f"{path}: {name} is {value}; the configuration says {wanted}")


def _convert(path: Path, index: int, values: array[float], dtype: DType) -> array[float]:
    code = _CODES[dtype]
    if values.typecode == code:
        return values
    if dtype is DType.FLOAT32:
        return array("f", values)  # a value beyond float32 becomes infinite, which the store refuses
    low, high = _RANGES[dtype]
    for column, value in enumerate(values):
        if not low <= value <= high:
            raise DataError(f"{path}: features[{index}, {column}] is {value}; expected {low} to {high}")
    return array(code, values)
