"""Data sets for simulation: named ones that are fetched and cached, and a user's own files.

``load("watch")`` gives ten people, one client dataset each; ``load("fashion_mnist")`` and ``load("digits")`` give a set
in one place, of which ``partition`` makes clients; ``load("mine.csv")`` reads a file (CSV, NPZ or Parquet) or a folder
of images, and the files of LEAF and of TensorFlow Federated; ``from_hugging_face`` takes a data set of Hugging Face.
Importing this module imports neither NumPy nor a data set: each loads when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, cast, overload

from edgefl.datasets.central import CLIENT, CentralDataset, pooled
from edgefl.datasets.csv_file import from_csv, read_csv
from edgefl.datasets.federated import FederatedDataset, pool
from edgefl.datasets.hugging_face import from_hugging_face
from edgefl.datasets.image_folder import from_images
from edgefl.datasets.leaf_files import from_leaf, is_leaf
from edgefl.datasets.named import DATASETS
from edgefl.datasets.npz_file import from_npz, read_npz
from edgefl.datasets.own import by_clients
from edgefl.datasets.parquet_file import from_parquet, read_parquet
from edgefl.datasets.partition import partition
from edgefl.datasets.partitioners import by_class, by_column, by_size, dirichlet, iid
from edgefl.datasets.relabel import with_classes
from edgefl.datasets.tff_files import SUFFIX as TFF_FILE
from edgefl.datasets.tff_files import from_tff
from edgefl.datasets.unseen import hold_out_clients
from edgefl.errors import ConfigError

__all__ = [
    "CentralDataset",
    "FederatedDataset",
    "by_class",
    "by_column",
    "by_size",
    "dirichlet",
    "from_csv",
    "from_hugging_face",
    "from_images",
    "from_leaf",
    "from_npz",
    "from_parquet",
    "from_tff",
    "hold_out_clients",
    "iid",
    "load",
    "names",
    "partition",
    "pool",
    "pooled",
    "with_classes",
]


def names() -> tuple[str, ...]:
    """The data sets that ``load`` knows by name."""
    return DATASETS.names()


@overload
def load(name: Literal["watch"], *, classes: tuple[str, ...] = ()) -> FederatedDataset: ...
@overload
def load(name: Literal["fashion_mnist", "digits"], *, classes: tuple[str, ...] = ()) -> CentralDataset: ...
@overload
def load(name: str, *, client_column: str, classes: tuple[str, ...] = ()) -> FederatedDataset: ...
@overload
def load(
    name: str, *, client_column: None = None, classes: tuple[str, ...] = ()
) -> FederatedDataset | CentralDataset: ...


def load(
    name: str, *, client_column: str | None = None, classes: tuple[str, ...] = ()
) -> FederatedDataset | CentralDataset:
    """A data set by its name, or a user's own by a path: a .csv, .npz or .parquet file, or a folder of images.

    A path may also be of LEAF (a .json file or a folder of them: ``from_leaf``) or of TensorFlow Federated (.h5,
    .sqlite, .sqlite.lzma, and a part after a colon, as ``emnist_all.sqlite:digits_only``: ``from_tff``).

    ``client_column``  of a .csv or .parquet file: the column that names the client, else ``client`` if there is one.
    ``classes``        the names of the classes in index order; without it, a named data set
                       and a folder of images have their own order, and a file's names are sorted.
    A data set that has clients comes as ``FederatedDataset``, one that has none as ``CentralDataset``.

    Raises ``ConfigError`` for a name that is none of these; ``UnavailableError`` when the data cannot be fetched or a
    package to read it is not installed, ``VerificationError`` when what was fetched is not what was pinned,
    ``StorageError`` when the cache cannot be used, and ``DataError`` for what is wrong inside a user's file.
    """
    path = Path(name)
    suffix = path.suffix.lower()
    if client_column is not None and suffix not in (".csv", ".parquet"):
        raise ConfigError(f"data set {name!r} has no column {client_column!r}; expected a .csv or .parquet file")
    if name in names():  # also where a folder of that name stands
        return with_classes(_named(name), classes)
    if suffix == ".csv":
        data = read_csv(path, client_column=client_column, classes=classes)
    elif suffix == ".npz":
        data = read_npz(path, classes=classes)
    elif suffix == ".parquet":
        data = read_parquet(path, client_column=client_column, classes=classes)
    elif (tff := TFF_FILE.fullmatch(name)) is not None:
        return with_classes(from_tff(tff["file"], part=tff["part"]), classes)
    elif suffix == ".json" or (path.is_dir() and is_leaf(path)):
        return with_classes(from_leaf(path), classes)
    elif path.is_dir():
        data = with_classes(from_images(path), classes)
    else:
        return with_classes(_named(name), classes)
    column = client_column or CLIENT
    return by_clients(path, data, column) if column in data.train_columns else data


def _named(name: str) -> FederatedDataset | CentralDataset:
    try:
        load_it = cast(Callable[[], FederatedDataset | CentralDataset], DATASETS.load(name))
    except ConfigError as error:
        raise ConfigError(
            f"{error}; or a path that ends in .csv, .npz, .parquet, .json, .h5 or .sqlite, or a folder of images"
        ) from error
    return load_it()
