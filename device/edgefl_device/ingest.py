"""Files of examples, read row by row: CSV, and NPZ without NumPy.

Invariants: nothing is guessed, nothing is unpickled, and a wrong value is named with its file, row and column. The
numbers stored are those that ``edgefl.datasets`` reads from the same file, so a simulation trains on the same bytes.

Features are matched by name. The names of a device's features are fixed by its configuration or by the first file that
names them, and from then on a file has these names, in any order, and no others.

CSV: UTF-8, comma, a header line; a column ``label`` (``edgefl_device.labels``), optionally ``split`` (``train`` or
``held_out``); all others are features.
NPZ (``numpy.savez``): ``features`` (n, num_features), ``labels`` (n,) integers or texts, optionally ``held_out`` (n,)
bool, ``feature_names`` (num_features,) texts, and the single numbers ``scale`` and ``zero_point``, which must be the
store's. Without names its features are in the order of the store's.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from edgefl.csv_rows import CsvRows, open_csv, parse_held_out, parse_whole
from edgefl.errors import ConflictError, DataError
from edgefl.protocol.messages import Split
from edgefl.types import MAX_FEATURES, DType, parse_feature
from edgefl.wording import suggestion
from edgefl_device.config import ExampleSpec
from edgefl_device.example_file import some
from edgefl_device.example_store import Batch, ExampleStore, Row
from edgefl_device.labels import Labels
from edgefl_device.npz import NpzArchive, NpzArray, open_npz

LABEL_COLUMN = "label"
SPLIT_COLUMN = "split"
FEATURE_NAMES = "feature_names"
SUFFIXES = (".csv", ".npz")

_RANGES = {DType.UINT8: (0, 255), DType.INT8: (-128, 127)}
_CODES = {DType.FLOAT32: "f", DType.UINT8: "B", DType.INT8: "b"}


@dataclass(frozen=True)
class ExampleFile:
    """An open file. ``feature_names``: in the order of the rows' values, or none; ``rows`` raise ``DataError``."""

    feature_names: tuple[str, ...]
    rows: Iterator[Row]


def add_file(store: ExampleStore, spec: ExampleSpec, path: Path, batch: Batch | None = None) -> int:
    """Append the examples of one file, all or none; returns how many. ``batch``: their source, if not ``path``.

    Raises ``DataError`` that names the file, the row and what was expected; ``ConflictError`` when the same examples
    are there; ``StorageError``.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path} is not a file of examples; expected a name that ends in {' or '.join(SUFFIXES)}")
    batch = batch or Batch(str(path))
    known = store.feature_names
    open_file = _open_csv if suffix == ".csv" else _open_npz
    try:
        with open_file(path, spec, known) as file:
            return store.append_many(file.rows, replace(batch, feature_names=file.feature_names))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except ConflictError as error:
        raise ConflictError(f"{path}: {error}") from error


def match_features(path: Path, found: Sequence[str], known: tuple[str, ...], spec: ExampleSpec) -> list[int]:
    """Where in ``found`` each of the store's features stands; as ``found`` stands where the store knows no names.

    Raises ``DataError`` that names what is unknown, with the nearest, and what is missing.
    """
    if not known and len(found) != spec.num_features:
        raise DataError(f"{path} has {len(found)} features ({some(found)}); expected {spec.num_features}")
    if not known:
        return list(range(len(found)))
    missing = [name for name in known if name not in found]
    unknown = [name for name in found if name not in known]
    if not missing and not unknown:
        place = {name: index for index, name in enumerate(found)}
        return [place[name] for name in known]
    faults = []
    if unknown:
        near = suggestion(unknown[0], missing or known)
        faults.append(f"the unknown features {some(unknown)}" + (f" ({near})" if near else ""))
    if missing:
        faults.append(f"no {some(missing)}")
    raise DataError(f"{path} has {' and '.join(faults)}; expected the features of this device: {some(known)}")


# CSV


@contextmanager
def _open_csv(path: Path, spec: ExampleSpec, known: tuple[str, ...]) -> Iterator[ExampleFile]:
    with open_csv(path) as table:
        if LABEL_COLUMN not in table.names:
            raise DataError(f"{path} has no column {LABEL_COLUMN!r}; its header is {', '.join(table.names)[:200]!r}")
        columns = [i for i, name in enumerate(table.names) if name not in (LABEL_COLUMN, SPLIT_COLUMN)]
        order = match_features(path, [table.names[i] for i in columns], known, spec)
        features = [columns[i] for i in order]
        yield ExampleFile(tuple(table.names[i] for i in features), _csv_rows(table, spec, features))


def _csv_rows(table: CsvRows, spec: ExampleSpec, features: list[int]) -> Iterator[Row]:
    names = table.names
    label, split = names.index(LABEL_COLUMN), names.index(SPLIT_COLUMN) if SPLIT_COLUMN in names else None
    labels, found = Labels(spec), False
    for where, cells in table:
        found = True
        yield Row(
            array(_CODES[spec.dtype], [_parse(where, names[i], cells[i], spec.dtype) for i in features]),
            labels.index(cells[label], f"{where}, column {LABEL_COLUMN!r}"),
            Split.TRAIN if split is None else _parse_split(where, cells[split]),
            where,
        )
    if not found:
        raise DataError(f"{table.path} has no example; expected one per line below the header")


def _parse(where: str, column: str, text: str, dtype: DType) -> float:
    place = f"{where}, column {column!r}"
    if dtype is not DType.FLOAT32:
        return parse_whole(text, place, *_RANGES[dtype])
    return parse_feature(text, place)


def _parse_split(where: str, text: str) -> Split:
    return Split.HELD_OUT if parse_held_out(text, f"{where}, column {SPLIT_COLUMN!r}") else Split.TRAIN


# NPZ


@contextmanager
def _open_npz(path: Path, spec: ExampleSpec, known: tuple[str, ...]) -> Iterator[ExampleFile]:
    with open_npz(path) as archive:
        _check_names(path, archive.names)
        names: tuple[str, ...] = ()
        order = list(range(spec.num_features))
        if FEATURE_NAMES in archive.names:
            found = _read_feature_names(path, archive)
            order = match_features(path, found, known, spec)
            names = tuple(found[i] for i in order)
        yield ExampleFile(names, _npz_rows(path, archive, spec, order))


def _npz_rows(path: Path, archive: NpzArchive, spec: ExampleSpec, order: list[int]) -> Iterator[Row]:
    features, labels = archive.array("features"), archive.array("labels", texts=True)
    held_out = archive.array("held_out") if "held_out" in archive.names else None
    count = _check_shapes(path, spec, features, labels, held_out)
    for name, wanted in (("scale", spec.scale), ("zero_point", spec.zero_point)):
        if name in archive.names:
            _check_single(path, name, archive.array(name), wanted)
    meanings = Labels(spec)
    texts = labels.texts() if labels.kind == "U" else (str(int(row[0])) for row in labels.rows())
    held = held_out.rows() if held_out is not None else None
    in_order = order == list(range(spec.num_features))
    for index, values in enumerate(features.rows()):
        if index >= count:
            break
        label = meanings.index(next(texts), f"{path}: labels[{index}]")
        split = Split.HELD_OUT if held is not None and next(held)[0] else Split.TRAIN
        converted = _convert(path, index, values, spec.dtype)
        if not in_order:
            converted = array(converted.typecode, [converted[i] for i in order])
        yield Row(converted, label, split, f"{path}: row {index}")


def _read_feature_names(path: Path, archive: NpzArchive) -> tuple[str, ...]:
    found = archive.array(FEATURE_NAMES, texts=True)
    if found.kind != "U" or len(found.shape) != 1 or found.shape[0] > MAX_FEATURES:
        raise DataError(f"{path}: {FEATURE_NAMES} is {found.dtype!r} of shape {found.shape}; expected a list of texts")
    names = tuple(name.strip() for name in found.texts())
    for index, name in enumerate(names):
        if not name or name in (*names[:index], LABEL_COLUMN, SPLIT_COLUMN):
            raise DataError(
                f"{path}: {FEATURE_NAMES}[{index}] is {name!r}; expected unique names that are not empty, "
                f"nor {LABEL_COLUMN!r} or {SPLIT_COLUMN!r}"
            )
    return names


def _check_names(path: Path, names: tuple[str, ...]) -> None:
    for name in ("features", "labels"):
        if name not in names:
            raise DataError(f"{path} has no array {name!r}; it has {', '.join(names) or 'none'}")
    for name in names:
        if name not in ("features", "labels", "held_out", FEATURE_NAMES, "scale", "zero_point"):
            raise DataError(
                f"{path} has an array {name!r}; expected features, labels, held_out and {FEATURE_NAMES} of this one "
                "device, and scale and zero_point"
            )


def _check_shapes(
    path: Path, spec: ExampleSpec, features: NpzArray, labels: NpzArray, held_out: NpzArray | None
) -> int:
    if len(features.shape) != 2 or features.shape[1] != spec.num_features or not features.shape[0]:
        raise DataError(f"{path}: features have the shape {features.shape}; expected (n, {spec.num_features}), n > 0")
    if spec.dtype is not DType.FLOAT32 and features.kind == "f":
        raise DataError(f"{path}: features are {features.dtype}; expected {spec.dtype.value} or other whole numbers")
    count = features.shape[0]
    for name, found, kinds, expected in (
        ("labels", labels, "iuU", "integers or texts"),
        ("held_out", held_out, "b", "bool"),
    ):
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
