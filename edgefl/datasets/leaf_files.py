"""LEAF's JSON files (FEMNIST, Synthetic, Shakespeare and others of that form), as its ``preprocess.sh`` writes them.

    {"users": [u, ...], "num_samples": [n, ...], "user_data": {u: {"x": [...], "y": [...]}, ...}}

``x`` holds lists of numbers and ``y`` class indexes; or, for Shakespeare, ``x`` texts and ``y`` the character that
follows (``edgefl.datasets.characters``). A folder holds many such files, or ``train/`` and ``test/`` do, with the same
users in both. Source: github.com/TalwalkarLab/leaf, data/ (Caldas et al., "LEAF: A Benchmark for Federated Settings",
2018).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefl.datasets import characters
from edgefl.datasets.federated import FederatedDataset
from edgefl.datasets.users import Users, numbered
from edgefl.errors import DataError

if TYPE_CHECKING:
    from numpy.typing import NDArray

TRAIN, TEST = "train", "test"
"""LEAF's folders."""


def from_leaf(path: str | Path, *, window: int = characters.WINDOW) -> FederatedDataset:
    """Read a LEAF data set: a JSON file, a folder of them, or a folder with ``train`` and ``test``.

    Users come in the order of the files' names, then of the files. Without a folder ``test`` nothing is held out.
    ``window``: of texts, how many characters before the next are looked at.

    Raises ``DataError``, which names the file and the user, for what cannot be used.
    """
    path = Path(path)
    characters.check_window(window)
    parts = {False: path / TRAIN, True: path / TEST} if (path / TRAIN).is_dir() else {False: path}
    users, is_text = Users(path), False
    for test, folder in parts.items():
        for file in _files(folder):
            for user, data in _users(file):
                x, y = _examples(file, user, data)
                is_text = is_text or bool(x and isinstance(x[0], str))
                read = _characters if is_text else _numbers
                users.add(user, *read(f"{file}: user {user!r}", x, y, window), test=test)
    return users.dataset(name=path.stem, held_out=True in parts, classes=characters.classes if is_text else numbered)


def is_leaf(folder: Path) -> bool:
    """Whether ``folder`` holds JSON files as LEAF leaves them."""
    return any(folder.glob("*.json")) or any((folder / TRAIN).glob("*.json"))


def _files(path: Path) -> list[Path]:
    if path.suffix == ".json":
        return [path]
    try:
        files = sorted(file for file in path.iterdir() if file.suffix == ".json")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    if not files:
        raise DataError(f"{path} has no JSON file; expected those that LEAF's preprocess.sh writes")
    return files


def _users(file: Path) -> Iterator[tuple[str, Any]]:
    """Each user's data, in the order of ``users``."""
    try:
        content = json.loads(file.read_bytes())
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{file} is not JSON: {error}; expected a file of LEAF") from error
    if not isinstance(content, dict) or "users" not in content or "user_data" not in content:
        found = f"the keys {', '.join(map(str, content)) or 'none'}" if isinstance(content, dict) else "no object"
        raise DataError(f"{file} has {found:.80}; expected users, num_samples and user_data, as in LEAF's files")
    users, data = content["users"], content["user_data"]
    if not isinstance(users, list) or not isinstance(data, dict):
        raise DataError(f"{file}: users and user_data are not a list and an object; expected LEAF's form")
    for user in users:
        if not isinstance(user, str) or user not in data:
            raise DataError(f"{file}: user {user!r} has no data; expected user_data of each of users")
        yield user, data[user]


def _examples(file: Path, user: str, data: Any) -> tuple[list[Any], list[Any]]:
    if not isinstance(data, dict) or not all(isinstance(data.get(key), list) for key in ("x", "y")):
        raise DataError(f"{file}: user {user!r} has no lists x and y; expected LEAF's form")
    return data["x"], data["y"]


def _numbers(where: str, x: list[Any], y: list[Any], _window: int) -> tuple[NDArray[Any], NDArray[Any]]:
    import numpy as np

    labels = np.asarray(y, dtype=None if y else np.int64)
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataError(f"{where}: y is {y[0]!r:.40}, ...; expected class indexes from 0")
    try:
        features = np.asarray(x, dtype=np.float64)
    except (TypeError, ValueError):
        raise DataError(f"{where}: x is {x[0]!r:.40}, ...; expected lists of numbers of one length") from None
    return features.reshape(len(x), -1) if len(x) else np.empty((0, 0)), labels


def _characters(where: str, x: list[Any], y: list[Any], window: int) -> tuple[NDArray[Any], NDArray[Any]]:
    import numpy as np

    for text in (*x, *y):
        if not isinstance(text, str):
            raise DataError(f"{where} has {text!r:.40} among texts; expected only texts")
    wrong = next((text for text in y if len(text) != 1), None)
    if wrong is not None:
        raise DataError(f"{where}: y has {wrong!r:.40}; expected one character, that which follows x")
    labels = characters.encode("".join(y)) if y else np.empty(0, np.int32)
    return characters.last_characters(x, window), labels
