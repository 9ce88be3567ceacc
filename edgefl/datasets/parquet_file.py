"""A Parquet file of the user's: one example per row, read by pyarrow, which is imported only here.

What all readers refuse: ``edgefl.datasets.own``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefl.datasets.central import CLIENT, CentralDataset
from edgefl.datasets.federated import FederatedDataset
from edgefl.datasets.npz_file import as_trainable, number_labels
from edgefl.datasets.own import HELD_OUT, LABEL, TRAIN, Kind, Part, by_clients, make_central, special_columns
from edgefl.errors import DataError, UnavailableError

if TYPE_CHECKING:
    from numpy.typing import NDArray


def from_parquet(
    path: str | Path,
    *,
    client_column: str = CLIENT,
    label_column: str = LABEL,
    split_column: str | None = None,
    classes: tuple[str, ...] = (),
) -> FederatedDataset:
    """Read a Parquet file with one example per row, and a client for each value of a column.

    The columns mean what they mean in a CSV file. A feature column holds a number, or a list of numbers that is equally
    long in every row: several features. When all of them are uint8, or all int8, features stay 8-bit, with scale 1;
    else they are kept as float32.

    Raises ``DataError``, which names the column and the row (counted from 0), for what cannot be used, and
    ``UnavailableError`` when pyarrow is not installed.
    """
    data = read_parquet(
        path, client_column=client_column, label_column=label_column, split_column=split_column, classes=classes
    )
    return by_clients(Path(path), data, client_column)


def read_parquet(
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
    table = open_table(path)
    names = table.column_names
    client_column, split_column, special = special_columns(path, names, client_column, label_column, split_column)
    if not table.num_rows:
        raise DataError(f"{path} has no examples; expected one per row")
    features, dtype = as_trainable(path, feature_columns(path, table, [name for name in names if name not in special]))
    labels, places = _labels(path, table, label_column)
    clients = None if client_column is None else texts(path, table, client_column)
    held_out = None if split_column is None else held_out_rows(path, table, split_column)

    def part(rows: list[int]) -> Part:
        chosen = () if clients is None else tuple(clients[row] for row in rows)
        return Part(features[rows].tobytes(), labels[rows].tobytes(), chosen)

    kept = [False] * table.num_rows if held_out is None else held_out
    return make_central(
        path,
        Kind(features.shape[1], dtype),
        part([row for row, held in enumerate(kept) if not held]),
        None if held_out is None else part([row for row, held in enumerate(kept) if held]),
        places,
        client_column=client_column,
        classes=classes,
    )


def open_table(path: Path) -> Any:
    """The file's ``pyarrow.Table``, without nulls."""
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:  # absent, or not made for the NumPy that is here
        raise UnavailableError(
            f"cannot read {path}: {error}; install EdgeFL with its extra 'data', or save the file as CSV"
        ) from None
    try:
        # An open file: given a path, pyarrow words a missing file over two lines, and also takes a folder.
        with path.open("rb") as file:
            table = pyarrow.parquet.ParquetFile(file).read()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except pyarrow.ArrowException as error:
        raise DataError(f"{path} cannot be read: {error}; expected a Parquet file") from error
    for name in table.column_names:
        values = table.column(name).combine_chunks()
        if values.null_count:
            row = values.is_null().to_pylist().index(True)
            raise DataError(f"{path}: column {name!r}, row {row} has no value; expected one in every row")
    return table


def feature_columns(path: Path, table: Any, names: list[str]) -> NDArray[Any]:
    """(n, num_features), of the type that holds all columns."""
    import numpy as np

    return np.concatenate([_feature_column(path, table.column(name), name) for name in names], axis=1)


def _feature_column(path: Path, column: Any, name: str) -> NDArray[Any]:
    """(n, 1) of a column of numbers, (n, k) of a column of lists of k numbers."""
    import pyarrow

    values, width = column.combine_chunks(), 1
    types = pyarrow.types
    if types.is_list(values.type) or types.is_large_list(values.type) or types.is_fixed_size_list(values.type):
        lengths = [len(row) for row in values]
        width = lengths[0]
        uneven = next((row for row, length in enumerate(lengths) if length != width), None)
        if uneven is not None or not width:
            row = uneven or 0
            raise DataError(
                f"{path}: column {name!r}, row {row} has {lengths[row]} numbers, row 0 has {width}; "
                "expected the same in every row, at least 1"
            )
        values = values.flatten()
        if values.null_count:
            row = values.is_null().to_pylist().index(True) // width
            raise DataError(f"{path}: column {name!r}, row {row} has a list with no value in a place; expected numbers")
    if not (types.is_integer(values.type) or types.is_floating(values.type)):
        raise DataError(f"{path}: column {name!r} is of type {column.type}; expected numbers, or lists of numbers")
    found: NDArray[Any] = values.to_numpy(zero_copy_only=False).reshape(-1, width)
    return found


def _labels(path: Path, table: Any, name: str) -> tuple[NDArray[Any], dict[str, str]]:
    import numpy as np
    import pyarrow

    values = table.column(name)
    whole = pyarrow.types.is_integer(values.type)
    found = values.to_numpy() if whole else np.array(texts(path, table, name))
    return number_labels(found, f"{path}: column {name!r}, row %d")


def texts(path: Path, table: Any, name: str) -> list[str]:
    """A column of texts or whole numbers, as texts that are not empty."""
    import pyarrow

    values = table.column(name)
    types = pyarrow.types
    kind = values.type.value_type if types.is_dictionary(values.type) else values.type
    if not (types.is_string(kind) or types.is_large_string(kind) or types.is_integer(kind)):
        raise DataError(f"{path}: column {name!r} is of type {values.type}; expected text or integers")
    texts = [str(value).strip() for value in values.to_pylist()]
    if "" in texts:
        raise DataError(f"{path}: column {name!r}, row {texts.index('')} is empty; expected a text")
    return texts


def held_out_rows(path: Path, table: Any, name: str) -> list[bool]:
    values = texts(path, table, name)
    for row, value in enumerate(values):
        if value not in (TRAIN, HELD_OUT):
            raise DataError(f"{path}: column {name!r}, row {row} is {value!r}; expected {TRAIN} or {HELD_OUT}")
    return [value == HELD_OUT for value in values]
