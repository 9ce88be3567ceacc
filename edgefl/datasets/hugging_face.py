"""A ``datasets.Dataset`` of Hugging Face, with a column that says whose each example is.

The library is not imported: an object with its public interface will do. Used are ``len(ds)``, ``ds.column_names``,
``ds.features[NAME]`` (with ``names`` for a ``ClassLabel``), and ``ds[NAME]``, the values of a column in order. What all
readers refuse: ``edgefl.datasets.own``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgefl.datasets.central import CLIENT, CentralDataset
from edgefl.datasets.federated import FederatedDataset
from edgefl.datasets.image_folder import BYTES_A_PIXEL, WHITE
from edgefl.datasets.npz_file import as_trainable, number_labels
from edgefl.datasets.own import Kind, Part, by_clients, make_central
from edgefl.errors import ConfigError, DataError
from edgefl.types import DType, Quantization

if TYPE_CHECKING:
    from numpy.typing import NDArray


class HuggingFaceDataset(Protocol):
    """What is used of a ``datasets.Dataset``."""

    @property
    def column_names(self) -> Sequence[str]: ...

    @property
    def features(self) -> Mapping[str, Any]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, name: str, /) -> Iterable[Any]: ...


def from_hugging_face(
    ds: HuggingFaceDataset,
    *,
    label: str,
    features: str | Sequence[str],
    client: str | None = None,
    held_out: HuggingFaceDataset | None = None,
    name: str = "hugging-face",
) -> FederatedDataset | CentralDataset:
    """The examples of ``ds``, and a client for each value of the column ``client``; without one, a set in one place.

    ``label``     a column of class indexes or names, as in other files (``edgefl.classes``). Those of a ``ClassLabel``
                  are the classes.
    ``features``  a column of images (8-bit grey or RGB, all of one size), or one or several columns of numbers, or of
                  lists of numbers, nested or not, of one shape.
    ``held_out``  the rows for evaluation, as ``dataset_dict["test"]``: the same columns.

        parts = load_dataset("flwrlabs/femnist")
        people = from_hugging_face(parts["train"], client="writer_id", label="character", features="image")

    Raises ``ConfigError`` for a column that is not there, and ``DataError``, which names the column and the row
    (counted from 0), for what cannot be used.
    """
    import numpy as np

    columns = (features,) if isinstance(features, str) else tuple(features)
    if not columns:
        raise ConfigError("features is empty; expected the name of a column, or several")
    parts = [ds] if held_out is None else [ds, held_out]
    for part in parts:
        for column in (label, *columns, *(() if client is None else (client,))):
            if column not in part.column_names:
                raise ConfigError(f"{name} has no column {column!r}; its columns are {', '.join(part.column_names)}")
        if not len(part):
            raise DataError(f"{name} has no example; expected at least one row in each part")
    path = Path(name)
    names = tuple(getattr(ds.features[label], "names", None) or ())
    kind, found = _read(path, parts, columns)
    texts = [text for part in parts for text in _labels(path, part, label, names)]
    numbers, places = number_labels(np.array(texts), f"{path}: column {label!r}, row %d")
    cut = len(parts[0])
    made = []
    for part, rows, own in zip(parts, found, (numbers[:cut], numbers[cut:]), strict=False):
        clients = () if client is None else _clients(path, part, client)
        made.append(Part(rows.tobytes(), own.tobytes(), clients))
    test = made[1] if held_out is not None else None
    data = make_central(path, kind, made[0], test, places, client_column=client and CLIENT, classes=names)
    return data if client is None else by_clients(path, data)


def _read(path: Path, parts: Sequence[HuggingFaceDataset], columns: Sequence[str]) -> tuple[Kind, list[NDArray[Any]]]:
    """Of each part the rows, (n, num_features), of one kind for all parts."""
    import numpy as np

    read = [[_column(path, part, name) for name in columns] for part in parts]
    if len({tuple(one.shape[1] for one in part) for part in read}) > 1:
        raise DataError(f"{path}: the held-out rows have other shapes than those for training; expected the same")
    pictures = all(one.dtype == np.uint8 for part in read for one in part)
    joined = [np.concatenate(part, axis=1) for part in read]
    if pictures:
        is_image = all(_is_image(next(iter(parts[0][name]))) for name in columns)
        scale = Quantization(1 / WHITE) if is_image else Quantization()
        return Kind(joined[0].shape[1], DType.UINT8, scale), joined
    floats = [as_trainable(path, one.astype(np.float64))[0] for one in joined]
    return Kind(floats[0].shape[1]), floats


def _column(path: Path, ds: HuggingFaceDataset, name: str) -> NDArray[Any]:
    """(n, k): uint8 of images and of a column of that type, else numbers."""
    import numpy as np

    rows: list[NDArray[Any]] = []
    for row, value in enumerate(ds[name]):
        where = f"{path}: column {name!r}, row {row}"
        rows.append(_pixels(where, value) if _is_image(value) else _numbers(where, value))
        if rows[-1].shape != rows[0].shape:
            raise DataError(f"{where} is of shape {rows[-1].shape}, row 0 of {rows[0].shape}; expected one shape")
    found: NDArray[Any] = np.stack(rows).reshape(len(rows), -1)
    if _dtype(ds.features[name]) == "uint8":  # a list of Python's integers does not say so itself
        found = found.astype(np.uint8)
    return found


def _is_image(value: Any) -> bool:
    return all(hasattr(value, name) for name in ("mode", "size", "tobytes"))


def _pixels(where: str, image: Any) -> NDArray[Any]:
    import numpy as np

    if image.mode not in BYTES_A_PIXEL:
        raise DataError(f"{where} is of Pillow's mode {image.mode}; expected 8-bit grey (L) or RGB: convert it")
    width, height = image.size
    return np.frombuffer(image.tobytes(), np.uint8).reshape(height, width, BYTES_A_PIXEL[image.mode])


def _numbers(where: str, value: Any) -> NDArray[Any]:
    import numpy as np

    try:
        found = np.asarray(value)
    except ValueError:
        found = np.empty(0, object)
    if found.dtype.kind not in "fiu" or not found.size:
        raise DataError(f"{where} is {value!r:.40}; expected a number, numbers or an image")
    return found


def _dtype(feature: Any) -> str:
    """The type of the numbers in a column, as its ``Value`` says; of lists and arrays, that of their elements."""
    for _ in range(8):
        inner = getattr(feature, "feature", None)
        if inner is None:
            break
        feature = inner
    return str(getattr(feature, "dtype", ""))


def _labels(path: Path, ds: HuggingFaceDataset, name: str, names: Sequence[str]) -> list[str]:
    """The text of each label: the name of a class index where the column has names."""
    import numpy as np

    texts = []
    for row, value in enumerate(ds[name]):
        whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
        if not whole and not isinstance(value, str):
            raise DataError(f"{path}: column {name!r}, row {row} is {value!r:.40}; expected a whole number or a text")
        if whole and names and not 0 <= value < len(names):
            raise DataError(f"{path}: column {name!r}, row {row} is {value}; expected 0 to {len(names) - 1}")
        texts.append(names[int(value)] if whole and names else str(value).strip())
    return texts


def _clients(path: Path, ds: HuggingFaceDataset, name: str) -> tuple[str, ...]:
    clients = []
    for row, value in enumerate(ds[name]):
        text = "" if value is None else str(value).strip()
        if not text:
            raise DataError(f"{path}: column {name!r}, row {row} is {value!r}; expected the client's id")
        clients.append(text)
    return tuple(clients)
