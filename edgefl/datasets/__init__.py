"""Data sets for simulation: named ones that are fetched and cached, and a user's own files.

``load("watch")`` gives ten people, one client dataset each; ``load("mine.csv")`` and ``load("mine.npz")`` read a file.
Importing this module imports neither NumPy nor a data set: each loads when it is asked for.
"""

from __future__ import annotations

from pathlib import Path

from edgefl.datasets.federated import FederatedDataset, pool
from edgefl.datasets.own import from_csv, from_npz
from edgefl.errors import ConfigError

__all__ = ["FederatedDataset", "from_csv", "from_npz", "load", "names", "pool"]


def names() -> tuple[str, ...]:
    """The data sets that ``load`` knows by name."""
    return ("watch",)


def load(name: str) -> FederatedDataset:
    """A data set by its name, or a user's own file by a path that ends in ``.csv`` or ``.npz``.

    Raises ``ConfigError`` for a name that is neither; ``UnavailableError`` when the data cannot be fetched,
    ``VerificationError`` when what was fetched is not what was pinned, ``StorageError`` when the cache cannot be
    used, and ``DataError`` for what is wrong inside a user's file.
    """
    if name == "watch":
        from edgefl.datasets import watch

        return watch.load()
    suffix = Path(name).suffix.lower()
    if suffix == ".csv":
        return from_csv(name)
    if suffix == ".npz":
        return from_npz(name)
    raise ConfigError(
        f"data set {name!r} is not known; expected one of: {', '.join(names())}, or a path that ends in .csv or .npz"
    )
