"""What the readers of a user's own files share: the names of the special columns, and the making of the data set.

Invariants of all readers: nothing is guessed and nothing is unpickled. Every value that cannot be trained on (not a
number, not finite as float32, a label that names no class, an index below the largest that has no example) is refused
with its place in the file; magnitudes below 2**-30 are written as 0 (design §4.2). What labels mean:
``edgefl.classes``. Free of NumPy.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from edgefl.classes import class_index, infer_classes
from edgefl.datasets.central import CLIENT, CentralDataset
from edgefl.datasets.federated import FederatedDataset
from edgefl.datasets.partition import partition
from edgefl.datasets.partitioners import by_column
from edgefl.errors import DataError
from edgefl.types import MAX_CLASSES, DType, Examples, Quantization

LABEL, SPLIT = "label", "split"
"""Columns that hold the label, and whether a row is for training."""

TRAIN, HELD_OUT = "train", "held_out"
"""The values of a split."""

MAX_LABEL = MAX_CLASSES - 1


@dataclass(frozen=True)
class Kind:
    """What the examples of a file are."""

    num_features: int
    dtype: DType = DType.FLOAT32
    quantization: Quantization = field(default_factory=Quantization)


@dataclass(frozen=True)
class Part:
    """The examples of one part, as ``Examples`` holds them, and the client of each; no client where none is known.

    A label is the number of its text in a list of all label texts: only ``make_central`` knows the whole list, and so
    what they mean.
    """

    features: bytes
    labels: bytes
    clients: tuple[str, ...]


def special_columns(
    path: Path, names: Sequence[str], client: str | None, label: str | None, split: str | None
) -> tuple[str | None, str | None, tuple[str, ...]]:
    """The client's and the split's column, by default those of the usual names if they are there; and all special ones.
    ``label`` is None where labels are not needed and there are none.

    Raises ``DataError`` for names that are not unique, not there, or leave no feature.
    """
    for index, name in enumerate(names):
        if name in names[:index]:
            raise DataError(f"{path} has two columns named {name!r}; expected unique names")
    if client is None and CLIENT in names:
        client = CLIENT
    if split is None and SPLIT in names:
        split = SPLIT
    special = tuple(name for name in (client, label, split) if name is not None)
    for name in special:
        if name not in names:
            raise DataError(f"{path} has no column {name!r}; its columns are {', '.join(names) or 'none'} (rename one)")
    if len(set(special)) != len(special):
        raise DataError(f"the special columns are {', '.join(special)}; expected different ones")
    if len(names) == len(special):
        raise DataError(f"{path} has no feature columns; expected at least one besides {', '.join(special)}")
    return client, split, special


def make_central(
    path: Path,
    kind: Kind,
    train: Part,
    test: Part | None,
    labels: Mapping[str, str],
    *,
    client_column: str | None,
    classes: tuple[str, ...] = (),
) -> CentralDataset:
    """The data set of a file. ``classes``: a declared list, else what the labels say.

    ``labels``: all label texts, in the order by which the parts number them, each with the place where it stands first.

    Raises ``DataError``, which names the file.
    """
    indexes, num_classes, classes = _meaning(path, labels, classes)
    with naming(path):
        parts = [_relabelled(part, indexes) for part in ([train] if test is None else [train, test])]
        columns = [{} if client_column is None else {client_column: part.clients} for part in parts]
        return CentralDataset(
            name=path.stem,
            num_classes=num_classes,
            classes=classes,
            train=_examples(kind, parts[0]),
            test=None if test is None else _examples(kind, parts[1]),
            train_columns=columns[0],
            test_columns=columns[1] if test is not None else {},
            source=path.name,
        )


def _meaning(
    path: Path, labels: Mapping[str, str], declared: tuple[str, ...]
) -> tuple[list[int], int, tuple[str, ...]]:
    """The index of each text of ``labels``; how many classes there are; and their names."""
    if declared:
        return [class_index(text, declared, where) for text, where in labels.items()], len(declared), declared
    names = infer_classes(labels)
    if names:
        if len(names) > MAX_CLASSES:
            raise DataError(f"{path} has {len(names)} different labels; expected at most {MAX_CLASSES} classes")
        places = {name: index for index, name in enumerate(names)}
        return [places[text] for text in labels], len(names), names
    for text, where in labels.items():
        if int(text) > MAX_LABEL:
            raise DataError(f"{where} is {text!r}; expected 0 to {MAX_LABEL}")
    indexes = [int(text) for text in labels]
    used = set(indexes)
    missing = next((index for index in range(max(used)) if index not in used), None)
    if missing is not None:
        raise DataError(
            f"{path}: class {missing} has no example, and class {max(used)} has; expected labels from 0 on, without "
            "a gap, or a declared list of classes"
        )
    return indexes, max(used) + 1, ()


def _relabelled(part: Part, indexes: Sequence[int]) -> Part:
    labels = array("i", [indexes[label] for label in memoryview(part.labels).cast("i")])
    return replace(part, labels=labels.tobytes())


def by_clients(path: Path, data: CentralDataset, column: str = CLIENT) -> FederatedDataset:
    """``data`` with a client for each value of ``column``. Raises ``DataError``, which names the file."""
    with naming(path):
        return partition(data, by_column(column))


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Put the file's name before what was wrong with its content."""
    try:
        yield
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


def _examples(kind: Kind, part: Part) -> Examples:
    return Examples(kind.num_features, part.features, part.labels, kind.dtype, kind.quantization)
