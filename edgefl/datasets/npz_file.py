"""An NPZ file of the user's (``numpy.savez``): one example per row.

What all readers refuse: ``edgefl.datasets.own``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefl.datasets.central import CLIENT, CentralDataset
from edgefl.datasets.federated import FederatedDataset
from edgefl.datasets.own import Kind, Part, by_clients, make_central
from edgefl.errors import DataError
from edgefl.types import MIN_MAGNITUDE, DType, Quantization

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def from_npz(path: str | Path, *, classes: tuple[str, ...] = ()) -> FederatedDataset:
    """Read an NPZ file with one example per row, and a client for each value of ``clients``.

    ``features``  (n, num_features): float or integer. uint8 and int8 are kept as they are, all others as float32.
    ``labels``    (n,) integer or text: what the labels of a CSV file are, as texts.
    ``clients``   (n,) integer or text: the client's id.
    ``held_out``  (n,) bool, optional: True keeps a row for evaluation. Without it nothing is held out.
    ``scale``, ``zero_point``  optional single numbers: what 8-bit features mean, ``scale * (stored - zero_point)``.

    ``classes`` fixes the order of the classes' names; without it they are sorted (``edgefl.classes``).

    Raises ``DataError``, which names the array and the row (counted from 0), for what cannot be used.
    """
    path = Path(path)
    arrays = open_arrays(path)
    _need(path, arrays, "features", "labels", "clients")
    return by_clients(path, _read(path, arrays, classes))


def read_npz(path: str | Path, *, classes: tuple[str, ...] = ()) -> CentralDataset:
    """The same file in one place; ``clients``, if the file has it, is the column ``client``."""
    path = Path(path)
    arrays = open_arrays(path)
    _need(path, arrays, "features", "labels")
    return _read(path, arrays, classes)


def _need(path: Path, arrays: dict[str, NDArray[Any]], *wanted: str) -> None:
    for name in wanted:
        if name not in arrays:
            raise DataError(f"{path} has no array {name!r}; it has {', '.join(sorted(arrays)) or 'none'}")


def _read(path: Path, arrays: dict[str, NDArray[Any]], classes: tuple[str, ...]) -> CentralDataset:
    features, dtype, quantization = read_features(path, arrays)
    count = len(features)
    labels, places = number_labels(check_vector(path, "labels", arrays["labels"], "iuU", count), f"{path}: labels[%d]")
    clients: list[str] | None = None
    if "clients" in arrays:
        found = check_vector(path, "clients", arrays["clients"], "iuU", count)
        clients = [str(client).strip() for client in found.tolist()]
        if "" in clients:
            raise DataError(f"{path}: clients[{clients.index('')}] is empty; expected the client's id")
    held_out = check_vector(path, "held_out", arrays["held_out"], "b", count) if "held_out" in arrays else None

    def part(rows: NDArray[Any] | slice) -> Part:
        chosen = [] if clients is None else (clients if isinstance(rows, slice) else [clients[i] for i in rows])
        return Part(features[rows].tobytes(), labels[rows].tobytes(), tuple(chosen))

    return make_central(
        path,
        Kind(features.shape[1], dtype, quantization),
        part(slice(None) if held_out is None else (~held_out).nonzero()[0]),
        None if held_out is None else part(held_out.nonzero()[0]),
        places,
        client_column=None if clients is None else CLIENT,
        classes=classes,
    )


def number_labels(labels: NDArray[Any], where: str) -> tuple[NDArray[np.int32], dict[str, str]]:
    """The labels (n,) as numbers of their texts, and the texts with their places, as ``make_central`` takes them.

    ``where``: the place of a row, which stands for ``%d``.
    """
    import numpy as np

    values, first, inverse = np.unique(labels, return_index=True, return_inverse=True)
    places: dict[str, str] = {}
    for value, row in zip(values.tolist(), first.tolist(), strict=True):
        places.setdefault(str(value).strip(), where.replace("%d", str(row)))  # a path may have a %
    numbers = {text: number for number, text in enumerate(places)}
    table = np.array([numbers[str(value).strip()] for value in values.tolist()], "<i4")
    return table[inverse], places


def open_arrays(path: Path) -> dict[str, NDArray[Any]]:
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


def read_features(path: Path, arrays: dict[str, NDArray[Any]]) -> tuple[NDArray[Any], DType, Quantization]:
    """(n, num_features) of a type that the kernels take, and what 8-bit values mean. Raises ``DataError``."""
    _need(path, arrays, "features")
    features, dtype = _check_features(path, arrays["features"])
    return features, dtype, _quantization(path, arrays, dtype)


def _check_features(path: Path, features: NDArray[Any]) -> tuple[NDArray[Any], DType]:

    if features.ndim != 2 or features.dtype.kind not in "fiu" or 0 in features.shape:
        raise DataError(
            f"{path}: features are {features.dtype} of shape {features.shape}; expected numbers "
            "of shape (n, num_features), neither of them 0"
        )
    return as_trainable(path, features)


def as_trainable(path: Path, features: NDArray[Any]) -> tuple[NDArray[Any], DType]:
    """``features`` (n, num_features) of numbers as the kernels take them; 8-bit integers stay what they are.

    Raises ``DataError``, which names the file and the place, for what float32 cannot hold.
    """
    import numpy as np

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


def check_vector(path: Path, name: str, vector: NDArray[Any], kinds: str, count: int) -> NDArray[Any]:
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
