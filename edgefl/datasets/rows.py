"""A data set as rows to ask a model about: in the order of the file, with labels as they stand there, if there are any.

Training reads labels as classes (``edgefl.datasets.load``); here only the one who asks knows the classes, and a file
without labels can be asked about.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edgefl.classes import class_name
from edgefl.csv_rows import open_csv, parse_held_out
from edgefl.datasets.federated import FederatedDataset, pool
from edgefl.datasets.own import LABEL, special_columns
from edgefl.errors import DataError
from edgefl.types import DType, Examples, Quantization, parse_feature


@dataclass(frozen=True)
class Rows:
    """``examples``  their labels mean nothing.
    ``labels``    one text for each row; None where there are none.
    ``held_out``  whether each row is held out; None where the data set does not say.
    ``place``     where the label of a row stands, for errors.
    """

    examples: Examples
    labels: tuple[str, ...] | None = field(repr=False)
    held_out: tuple[bool, ...] | None = field(repr=False)
    place: Callable[[int], str] = field(repr=False)

    def __len__(self) -> int:
        return len(self.examples)


def load_rows(name: str) -> Rows:
    """The rows of what ``edgefl.datasets.load`` reads. Raises what it raises; labels are not looked at."""
    path = Path(name)
    reader = {".csv": _from_csv, ".npz": _from_npz, ".parquet": _from_parquet}.get(path.suffix.lower())
    return _from_dataset(name) if reader is None else reader(path)


def _from_csv(path: Path) -> Rows:
    features, labels, held_out, places = array("f"), list[str](), list[bool](), list[str]()
    with open_csv(path) as rows:
        label, split, columns = _columns(path, rows.names)
        chosen = [rows.names.index(name) for name in columns]
        for where, row in rows:
            features.extend(parse_feature(row[at], f"{where}, column {rows.names[at]!r}") for at in chosen)
            places.append(f"{where}, column {label!r}")
            if label is not None:
                labels.append(row[rows.names.index(label)].strip())
            if split is not None:
                held_out.append(parse_held_out(row[rows.names.index(split)], f"{where}, column {split!r}"))
    examples = _examples(path, len(columns), features.tobytes(), len(places))
    return Rows(
        examples,
        None if label is None else tuple(labels),
        None if split is None else tuple(held_out),
        places.__getitem__,
    )


def _from_parquet(path: Path) -> Rows:
    from edgefl.datasets import parquet_file
    from edgefl.datasets.npz_file import as_trainable

    table = parquet_file.open_table(path)
    label, split, columns = _columns(path, table.column_names)
    if not table.num_rows:
        raise DataError(f"{path} has no example; expected one per row")
    features, dtype = as_trainable(path, parquet_file.feature_columns(path, table, columns))
    return Rows(
        _examples(path, features.shape[1], features.tobytes(), len(features), dtype),
        None if label is None else tuple(parquet_file.texts(path, table, label)),
        None if split is None else tuple(parquet_file.held_out_rows(path, table, split)),
        lambda row: f"{path}: column {label!r}, row {row}",
    )


def _from_npz(path: Path) -> Rows:
    from edgefl.datasets import npz_file

    arrays = npz_file.open_arrays(path)
    features, dtype, quantization = npz_file.read_features(path, arrays)
    count = len(features)
    labels = held_out = None
    if "labels" in arrays:
        found = npz_file.check_vector(path, "labels", arrays["labels"], "iuU", count)
        labels = tuple(str(label).strip() for label in found.tolist())
    if "held_out" in arrays:
        held_out = tuple(npz_file.check_vector(path, "held_out", arrays["held_out"], "b", count).tolist())
    examples = _examples(path, features.shape[1], features.tobytes(), count, dtype, quantization)
    return Rows(examples, labels, held_out, lambda row: f"{path}: labels[{row}]")


def _from_dataset(name: str) -> Rows:
    """Training examples first, then those held out, as the data set has them."""
    from edgefl.datasets import load

    data = load(name)
    if isinstance(data, FederatedDataset):
        parts = [pool(clients) for clients in (data.clients, data.held_out) if clients]
    else:
        parts = [data.train] + ([] if data.test is None else [data.test])
    first = parts[0]
    examples = Examples(
        first.num_features,
        b"".join(part.features for part in parts),
        b"".join(part.labels for part in parts),
        first.dtype,
        first.quantization,
    )
    return Rows(
        examples,
        tuple(class_name(data.classes, label) for label in examples.labels_view),
        tuple(index >= len(first) for index in range(len(examples))) if len(parts) > 1 else None,
        lambda row: f"{name}: the label of example {row}",
    )


def _columns(path: Path, names: Sequence[str]) -> tuple[str | None, str | None, list[str]]:
    """The label's and the split's column, if they are there, and those of the features."""
    _, split, special = special_columns(path, names, None, LABEL if LABEL in names else None, None)
    return LABEL if LABEL in names else None, split, [name for name in names if name not in special]


def _examples(
    path: Path,
    num_features: int,
    features: bytes,
    count: int,
    dtype: DType = DType.FLOAT32,
    quantization: Quantization | None = None,
) -> Examples:
    if not count:
        raise DataError(f"{path} has no example; expected one per line below the header")
    return Examples(num_features, features, bytes(4 * count), dtype, quantization or Quantization())
