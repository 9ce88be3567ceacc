"""A CSV file of the user's: one example per row. What all readers refuse: ``edgefl.datasets.own``. No NumPy."""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from edgefl.csv_rows import CsvRows, open_csv, parse_held_out
from edgefl.datasets.central import CLIENT, CentralDataset
from edgefl.datasets.federated import FederatedDataset
from edgefl.datasets.own import LABEL, Kind, Part, by_clients, make_central, special_columns
from edgefl.errors import DataError
from edgefl.types import parse_feature


@dataclass(frozen=True)
class _Columns:
    """Where things stand in a row."""

    names: tuple[str, ...]
    client: int | None
    label: int
    split: int | None
    features: tuple[int, ...]

    @property
    def client_name(self) -> str | None:
        return None if self.client is None else self.names[self.client]


@dataclass
class _Rows:
    """The growing examples of one part."""

    features: array[float] = field(default_factory=lambda: array("f"))
    labels: array[int] = field(default_factory=lambda: array("i"))
    clients: list[str] = field(default_factory=list)

    def part(self) -> Part:
        return Part(self.features.tobytes(), self.labels.tobytes(), tuple(self.clients))


def from_csv(
    path: str | Path,
    *,
    client_column: str = CLIENT,
    label_column: str = LABEL,
    split_column: str | None = None,
    classes: tuple[str, ...] = (),
) -> FederatedDataset:
    """Read a CSV file (UTF-8, comma, a header line) with one example per row, and a client for each value of a column.

    ``client_column`` holds the client's id, ``label_column`` the class: whole numbers from 0, or names
    (``edgefl.classes``), whose order ``classes`` fixes; without it they are sorted. ``split_column`` holds ``train``
    or ``held_out``; when it is not given, a column named ``split`` is taken if there is one, and without one nothing
    is held out. All other columns are features, in the order of the file, kept as float32. Clients come in the order
    of their first training row, then those that have held-out rows alone.

    Raises ``DataError``, which names the line and the column, for what cannot be used.
    """
    data = read_csv(
        path, client_column=client_column, label_column=label_column, split_column=split_column, classes=classes
    )
    return by_clients(Path(path), data, client_column)


def read_csv(
    path: str | Path,
    *,
    client_column: str | None = None,
    label_column: str = LABEL,
    split_column: str | None = None,
    classes: tuple[str, ...] = (),
) -> CentralDataset:
    """The same file in one place; its clients are a column. When ``client_column`` is not given, a column named
    ``client`` is taken if there is one, and without one there are no clients."""
    path = Path(path)
    with open_csv(path) as rows:
        columns = _find_columns(path, rows.names, client_column, label_column, split_column)
        return _read_rows(rows, columns, classes)


def _read_rows(rows: CsvRows, columns: _Columns, classes: tuple[str, ...]) -> CentralDataset:
    path, training, held_out = rows.path, _Rows(), _Rows()
    seen: dict[str, int] = {}
    places: dict[str, str] = {}
    for where, row in rows:
        part = held_out if _is_held_out(where, columns, row) else training
        if columns.client is not None:
            client = row[columns.client].strip()
            if not client:
                raise DataError(f"{where}, column {columns.client_name!r} is empty; expected the client's id")
            part.clients.append(client)
        label = row[columns.label].strip()
        if label not in seen:
            seen[label] = len(seen)
            places[label] = f"{where}, column {columns.names[columns.label]!r}"
        part.labels.append(seen[label])
        part.features.extend(_parse_features(where, columns, row))
    if not training.labels and not held_out.labels:
        raise DataError(f"{path} has no example; expected one per line below the header")
    return make_central(
        path,
        Kind(len(columns.features)),
        training.part(),
        held_out.part() if columns.split is not None else None,
        places,
        client_column=columns.client_name,
        classes=classes,
    )


def _find_columns(
    path: Path, names: tuple[str, ...], client_column: str | None, label_column: str, split_column: str | None
) -> _Columns:
    client_column, split_column, special = special_columns(path, names, client_column, label_column, split_column)
    features = tuple(index for index, name in enumerate(names) if name not in special)
    split = names.index(split_column) if split_column is not None else None
    client = names.index(client_column) if client_column is not None else None
    return _Columns(names, client, names.index(label_column), split, features)


def _is_held_out(where: str, columns: _Columns, row: list[str]) -> bool:
    if columns.split is None:
        return False
    return parse_held_out(row[columns.split], f"{where}, column {columns.names[columns.split]!r}")


def _parse_features(where: str, columns: _Columns, row: list[str]) -> Iterator[float]:
    for index in columns.features:
        yield parse_feature(row[index], f"{where}, column {columns.names[index]!r}")
