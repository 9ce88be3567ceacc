"""The files in which TensorFlow Federated keeps its simulation data: HDF5 (until 0.17) and SQLite (since).

    NAME_train.h5, NAME_test.h5   examples/CLIENT/pixels, label          (fed_emnist, fed_emnist_digitsonly)
                                  examples/CLIENT/snippets               (shakespeare)
    NAME.sqlite, NAME.sqlite.lzma tables examples (split_name, client_id, serialized_example_proto) and
                                  client_metadata (client_id, split_name, num_examples); a tf.train.Example has the
                                  same fields (``edgefl.datasets.tf_example``)

``pixels`` or ``image`` go with ``label``; ``snippets`` are texts, of which the next character is the class
(``edgefl.datasets.characters``). Clients come in the order of their ids, as in TFF. h5py is imported for HDF5 alone.
Source: TFF's hdf5_client_data.py, sql_client_data.py, emnist.py and shakespeare.py.
"""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefl.datasets import characters
from edgefl.datasets.federated import FederatedDataset
from edgefl.datasets.tf_example import parse_example
from edgefl.datasets.users import WHITE, Users, numbered
from edgefl.errors import ConfigError, DataError, StorageError, UnavailableError

if TYPE_CHECKING:
    import sqlite3

    from numpy.typing import NDArray

SUFFIX = re.compile(r"(?P<file>.*(?P<kind>\.h5|\.hdf5|\.sqlite|\.sqlite\.lzma))(:(?P<part>[\w-]+))?", re.DOTALL)
"""A path of one of these files; of an SQLite file with several parts, the part after a colon."""

PIXELS = ("pixels", "image")
LABEL, TEXT = "label", "snippets"

DIGITS = 10
"""Classes of EMNIST's digits alone."""

EMNIST = (*string.digits, *string.ascii_uppercase, *string.ascii_lowercase)

Record = dict[str, Any]
"""The fields of a client's examples by name, each with one value per row."""


def from_tff(
    path: str | Path, *, part: str | None = None, num_clients: int | None = None, window: int = characters.WINDOW
) -> FederatedDataset:
    """Read a file of TFF's simulation data. The test part of ``NAME_train.h5`` is ``NAME_test.h5`` in the same folder.

    ``part``         of an SQLite file with several: ``digits_only`` or ``all`` of ``emnist_all.sqlite``.
    ``num_clients``  the first so many clients, in the order of their ids; None for all. All of EMNIST's digits take
                     270 MB, all of Shakespeare about 1 GB.
    ``window``       of texts, how many characters before the next are looked at.

    Raises ``DataError``, which names the file, for what cannot be used, ``ConfigError`` for a part that is not there,
    ``UnavailableError`` for an HDF5 file when h5py is not installed, and ``StorageError`` when a compressed file cannot
    be unpacked into the temporary folder.
    """
    path = Path(path)
    characters.check_window(window)
    if num_clients is not None and num_clients < 1:
        raise ConfigError(f"num_clients is {num_clients}; expected at least 1")
    found = SUFFIX.fullmatch(path.name)
    if found is None:
        raise ConfigError(f"{path} is not a file of TFF; expected .h5, .hdf5, .sqlite or .sqlite.lzma")
    if found["kind"] in (".h5", ".hdf5"):
        if part is not None:
            raise ConfigError(f"{path} has one part; expected none to be chosen, {part!r} was")
        return _from_hdf5(path, num_clients, window)
    with _unpacked(path) as database:
        return _from_sqlite(path, database, part, num_clients, window)


class _Reader:
    """Gathers records of either kind of file."""

    def __init__(self, path: Path, window: int) -> None:
        self._path = path
        self._users = Users(path)
        self._window = window
        self._is_text = False
        self._is_image = False

    def add(self, client: str, record: Record, *, test: bool) -> None:
        where = f"{self._path}: client {client!r}"
        if TEXT in record:
            self._is_text = True
            features, labels = self._texts(where, record[TEXT])
        else:
            features, labels = self._pictures(where, record)
        self._users.add(client, features, labels, test=test)

    def _texts(self, where: str, snippets: list[bytes]) -> tuple[NDArray[Any], NDArray[Any]]:
        import numpy as np

        if not len(snippets):
            return np.empty((0, 0)), np.empty(0, np.int32)
        try:
            pairs = [characters.examples_of(bytes(one).decode(), self._window) for one in snippets]
        except (TypeError, UnicodeDecodeError):
            raise DataError(f"{where} has a snippet that is not UTF-8 text; expected only texts") from None
        return np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs])

    def _pictures(self, where: str, record: Record) -> tuple[NDArray[Any], NDArray[Any]]:
        import numpy as np

        key = next((name for name in PIXELS if name in record), None)
        if key is None or LABEL not in record:
            raise DataError(
                f"{where} has the fields {', '.join(sorted(record)) or 'none'}; expected {' or '.join(PIXELS)} and "
                f"{LABEL}, or {TEXT}"
            )
        try:
            labels, pixels = np.asarray(record[LABEL]).reshape(-1), np.asarray(record[key])
        except ValueError:  # rows of several lengths
            raise DataError(f"{where} has pictures of several sizes; expected one") from None
        if labels.dtype.kind not in "iu":
            raise DataError(f"{where}: {LABEL} is of type {labels.dtype}; expected integers")
        if pixels.dtype.kind not in "fiu" or pixels.ndim < 2:
            raise DataError(f"{where}: {key} is {pixels.dtype} of shape {pixels.shape}; expected one picture per row")
        self._is_image = self._is_image or key == "image"
        if pixels.dtype.kind in "iu":  # bytes, or what tf.train.Example makes of them
            pixels = pixels / np.float32(WHITE)
        return pixels.reshape(len(pixels), -1), labels

    def dataset(self, name: str, *, held_out: bool) -> FederatedDataset:
        def classes(largest: int) -> tuple[int, tuple[str, ...]]:
            if self._is_text:
                return characters.classes(largest)
            if self._is_image or largest >= len(EMNIST):
                return numbered(largest)
            return (DIGITS, ()) if largest < DIGITS else (len(EMNIST), EMNIST)

        return self._users.dataset(name=name, held_out=held_out, classes=classes, in_order=sorted)


# ------------------------------------------------------------------------------------------------ HDF5


def _from_hdf5(path: Path, num_clients: int | None, window: int) -> FederatedDataset:
    try:
        import h5py
    except ImportError as error:
        raise UnavailableError(f"cannot read {path}: {error}; install h5py, or EdgeFL with its extra 'data'") from None
    name = path.stem.removesuffix("_train")
    test = path.with_name(f"{name}_test{path.suffix}")
    files = {False: path} | ({True: test} if name != path.stem and test.exists() else {})
    reader = _Reader(path, window)
    taken: set[str] = set()
    for is_test, file in files.items():
        try:
            with h5py.File(file, "r") as content:
                groups = _groups(file, content)
                clients = sorted(groups)
                if not is_test:
                    taken.update(clients[:num_clients])
                for client in clients:
                    if client in taken or num_clients is None:
                        reader.add(client, _hdf5_record(file, client, groups[client]), test=is_test)
        except OSError as error:
            raise DataError(f"{file} cannot be read: {' '.join(str(error).split())}; expected an HDF5 file") from error
    return reader.dataset(name, held_out=True in files)


def _groups(file: Path, content: Any) -> Any:
    groups = content.get("examples")
    if not hasattr(groups, "keys"):
        found = ", ".join(content) or "nothing"
        raise DataError(f"{file} has {found:.80}; expected the group examples, with a group for each client")
    return groups


def _hdf5_record(file: Path, client: str, group: Any) -> Record:
    if not hasattr(group, "items") or not all(hasattr(field, "shape") for field in group.values()):
        raise DataError(f"{file}: client {client!r} is not a group of arrays; expected TFF's form")
    return {name: field[()] for name, field in group.items()}


# ------------------------------------------------------------------------------------------------ SQLite


@contextmanager
def _unpacked(path: Path) -> Iterator[Path]:
    """The database itself; of a compressed one, a temporary file."""
    if path.suffix != ".lzma":
        yield path
        return
    import lzma
    import shutil
    import tempfile

    with tempfile.TemporaryDirectory(prefix="edgefl-") as folder:
        database = Path(folder) / path.stem
        try:
            with lzma.open(path, "rb") as packed, database.open("wb") as file:
                shutil.copyfileobj(packed, file, 1 << 20)
        except (lzma.LZMAError, EOFError) as error:
            raise DataError(f"{path} cannot be unpacked: {error}; expected a whole LZMA file") from error
        except OSError as error:
            if error.filename == str(path):
                raise DataError(f"{path} cannot be read: {error.strerror}") from error
            raise StorageError(
                f"{path} cannot be unpacked in {folder}: {error.strerror}; unlzma it yourself"
            ) from error
        yield database


def _from_sqlite(
    path: Path, database: Path, part: str | None, num_clients: int | None, window: int
) -> FederatedDataset:
    import sqlite3

    if not database.is_file():
        raise DataError(f"{path} cannot be read: {'it is a folder' if database.is_dir() else 'there is no such file'}")
    reader = _Reader(path, window)
    try:
        connection = sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
        try:
            train, test = _splits(path, connection, part)
            for split in (train, test):
                if split is not None:
                    for client, record in _records(path, connection, split, train, num_clients):
                        reader.add(client, record, test=split == test)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise DataError(
            f"{path} cannot be read: {error}; expected TFF's tables examples and client_metadata"
        ) from error
    name = path.name.partition(".sqlite")[0]
    return reader.dataset(name if part is None else f"{name}-{part}", held_out=test is not None)


def _splits(path: Path, connection: sqlite3.Connection, part: str | None) -> tuple[str, str | None]:
    """The names of the training and the test split of ``part``, as ``all_train`` and ``all_test``."""
    splits = {str(row[0]) for row in connection.execute("SELECT DISTINCT split_name FROM client_metadata")}
    if not splits:
        raise DataError(f"{path} has no client; expected rows in client_metadata")
    parts = {split.removesuffix("train").rstrip("_"): split for split in splits if split.endswith("train")}
    if len(splits) == 1:
        parts = parts or {"": next(iter(splits))}  # TFF writes 'N/A'
    choices = ", ".join(sorted(parts)) or ", ".join(sorted(splits))
    if part is None and len(parts) == 1:
        part = next(iter(parts))
    if part is None:
        raise ConfigError(f"{path} has the parts {choices}; choose one: {path}:{min(parts, default='NAME')}")
    if part not in parts:
        raise ConfigError(f"{path} has no part {part!r}; expected one of {choices}")
    test = f"{parts[part].removesuffix('train')}test"
    return parts[part], test if parts[part].endswith("train") and test in splits else None


def _records(
    path: Path, connection: sqlite3.Connection, split: str, train: str, num_clients: int | None
) -> Iterator[tuple[str, Record]]:
    """Each client of ``split`` that is among the first ``num_clients`` of ``train`` by id, when its examples are whole.

    One pass over the table, whatever indexes it has: a client is handed on when it has as many as the metadata says.
    """
    chosen = "SELECT client_id FROM client_metadata WHERE split_name = ? GROUP BY client_id ORDER BY client_id LIMIT ?"
    of = train if num_clients is not None else split
    wanted = {row[0] for row in connection.execute(chosen, (of, -1 if num_clients is None else num_clients))}
    counts = dict(
        connection.execute("SELECT client_id, num_examples FROM client_metadata WHERE split_name = ?", (split,))
    )
    gathered: dict[str, list[Record]] = {}
    rows = connection.execute("SELECT client_id, serialized_example_proto FROM examples WHERE split_name = ?", (split,))
    for client, proto in rows:
        if client in wanted:
            records = gathered.setdefault(client, [])
            records.append(_record(path, client, proto))
            if len(records) == counts.get(client):
                yield client, _joined(gathered.pop(client))
    if gathered:
        client, records = next(iter(gathered.items()))
        raise DataError(
            f"{path}: client {client!r} has {len(records)} examples in split {split!r}, and {counts.get(client)} by "
            "client_metadata; expected the same"
        )


def _joined(records: list[Record]) -> Record:
    return {name: [record.get(name) for record in records] for name in records[0]}


def _record(path: Path, client: str, proto: object) -> Record:
    """The fields of one example: arrays of numbers, or the first bytes of a text."""
    import numpy as np

    if not isinstance(proto, bytes):
        raise DataError(f"{path}: client {client!r} has an example that is not bytes; expected a tf.train.Example")
    try:
        fields = parse_example(proto)
    except DataError as error:
        raise DataError(f"{path}: client {client!r} has an example that is {error}") from error
    return {
        name: (values[0] if values else b"") if isinstance(values, list) else np.asarray(values)
        for name, values in fields.items()
    }
