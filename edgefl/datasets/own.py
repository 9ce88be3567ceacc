"""What the readers of a user's own files share: the names of the special columns, and the making of the data set.

Invariants of all readers: nothing is guessed and nothing is unpickled. Every value that cannot be trained on (not a
number, not finite as float32, a label that is not a whole number from 0, a class that has no example) is refused with
its place in the file; magnitudes below 2**-30 are written as 0 (design §4.2). Free of NumPy.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

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
    """The examples of one part, as ``Examples`` holds them, and the client of each; no client where none is known."""

    features: bytes
    labels: bytes
    clients: tuple[str, ...]


def special_columns(
    path: Path, names: Sequence[str], client: str | None, label: str, split: str | None
) -> tuple[str | None, str | None, tuple[str, ...]]:
    """The client's and the split's column, by default those of the usual names if they are there; and all special ones.

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
            raise DataError(f"{path} has no column {name!r}; its columns are {', '.join(names) or 'none'}")
    if len(set(special)) != len(special):
        raise DataError(f"the special columns are {', '.join(special)}; expected different ones")
    if len(names) == len(special):
        raise DataError(f"{path} has no feature; expected at least one column beside {', '.join(special)}")
    return client, split, special


def make_central(
    path: Path, kind: Kind, train: Part, test: Part | None, *, client_column: str | None, names: tuple[str, ...] = ()
) -> CentralDataset:
    """The data set of a file. ``names``: the classes' names, else their numbers, as many as the largest label says.

    Raises ``DataError``, which names the file.
    """
    with naming(path):
        parts = [train] if test is None else [train, test]
        used = {label for part in parts for label in memoryview(part.labels).cast("i")}
        missing = next((label for label in range(max(used, default=-1) + 1) if label not in used), None)
        if missing is not None:
            raise DataError(
                f"class {missing} has no example, and class {max(used)} has; expected labels from 0 on, without a gap"
            )
        columns = [{} if client_column is None else {client_column: part.clients} for part in parts]
        return CentralDataset(
            name=path.stem,
            label_names=names or tuple(str(label) for label in range(len(used))),
            train=_examples(kind, train),
            test=None if test is None else _examples(kind, test),
            train_columns=columns[0],
            test_columns=columns[1] if test is not None else {},
            source=path.name,
        )


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
