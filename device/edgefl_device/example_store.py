"""The device's examples: a SQLite file that applications append to and the agent reads.

Invariants
----------
- What is in the store can be trained on: shape, dtype and label range as declared, finite, 0 or at least 2**-30 in
  magnitude (what is smaller is stored as 0).
- ``load`` gives the examples in the order in which they were appended: training is a function of that order.
- The store holds at most ``quota_bytes``; the oldest go first. What is older than ``max_age_days`` goes too.
- Any number of processes may append and read at once (write-ahead log, busy timeout).

Few writes: a batch is one transaction with one fsync; a single ``append`` is not synced, so that a power cut may lose
the last ones, but never the file's integrity.

Source: design §4.2 (range of features), §9 (example store).
"""

from __future__ import annotations

import contextlib
import io
import math
import sqlite3
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgefl.errors import ConfigError, DataError, StorageError
from edgefl.protocol.messages import Split
from edgefl.types import MIN_MAGNITUDE, DType, Examples
from edgefl_device.aging import Aging
from edgefl_device.config import ExampleSpec
from edgefl_device.files import make_folder

if TYPE_CHECKING:
    from typing_extensions import Buffer

SCHEMA_VERSION = 1
BUSY_TIMEOUT_S = 30.0
"""How long a writer waits for another; a batch's own transaction takes far less, even on a slow card."""

CACHE_KIB = 512
"""SQLite's page cache: rows are read once, in order, so a larger one would only cost memory (its default is 2 MB)."""

_SCHEMA = (
    "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE examples (id INTEGER PRIMARY KEY, split INTEGER NOT NULL, added INTEGER NOT NULL, "
    "label INTEGER NOT NULL, features BLOB NOT NULL)",
    "CREATE INDEX examples_by_age ON examples (split, added)",
)
_FORMATS = {DType.FLOAT32: "f", DType.UINT8: "B", DType.INT8: "b"}
_SPLITS = {Split.TRAIN: 0, Split.HELD_OUT: 1}


@dataclass(frozen=True)
class Row:
    """One example to append. ``features``: ``num_features`` values of the store's dtype, or their bytes.

    ``where`` stands before an error's text, so that it names the place the row came from.
    """

    features: Buffer
    label: int
    split: Split = Split.TRAIN
    where: str = ""


class ExampleStore:
    """An open example store. One object belongs to one thread at a time; processes need no agreement.

    ``with ExampleStore.open(path, spec) as store: store.append(features, label)``
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, spec: ExampleSpec, clock: Callable[[], float]):
        self._db = connection
        self._path = path
        self._spec = spec
        self._clock = clock
        self._aging = Aging(connection, spec.max_age_days)

    @classmethod
    def open(cls, path: Path, spec: ExampleSpec, *, clock: Callable[[], float] = time.time) -> ExampleStore:
        """Open the store at ``path``, making it where there is none. ``clock`` gives seconds since 1970.

        Raises ``ConfigError`` when the store holds examples of another kind than ``spec``; ``StorageError`` when it is
        corrupt, of a newer version, or cannot be opened.
        """
        make_folder(path.parent)
        with _sqlite_errors(path):
            # The owner may hand the store from thread to thread; it never uses it from two at once.
            db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
            try:
                _prepare(db, path, spec)
            except BaseException:
                db.close()
                raise
        return cls(db, path, spec, clock)

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> ExampleStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, features: Buffer, label: int, split: Split = Split.TRAIN) -> None:
        """Append one example. Raises ``DataError`` (nothing is stored) or ``StorageError``."""
        packed = pack_features(self._spec, features)
        check_label(self._spec, label)
        with self._transaction():
            self._db.execute(
                "INSERT INTO examples (split, added, label, features) VALUES (?, ?, ?, ?)",
                (_SPLITS[split], self._now(), label, packed),
            )
            self._drop_old()

    def append_many(self, rows: Iterable[Row], *, source: str = "") -> int:
        """Append all ``rows`` or none, durably; returns how many. ``source`` is kept with them: see ``last_source``.

        Rows are taken one at a time and staged outside the store, so neither memory nor other writers are held up.
        Raises ``DataError`` that names the first wrong row, counted from 0, or its ``where``.
        """
        count = 0
        with _sqlite_errors(self._path):
            self._db.execute("CREATE TEMP TABLE staged (split INTEGER, label INTEGER, features BLOB)")
            try:
                self._db.execute("BEGIN")  # touches the temporary file only: no lock on the store
                for row in rows:
                    self._stage(row, count)
                    count += 1
                self._db.execute("COMMIT")
                self._db.execute("PRAGMA synchronous = FULL")
                with self._transaction():
                    self._take_staged(source)
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._db.execute("PRAGMA synchronous = NORMAL")
                self._db.execute("DROP TABLE temp.staged")
        return count

    def count(self, split: Split) -> int:
        """How many examples of ``split`` there are."""
        with _sqlite_errors(self._path):
            row = self._db.execute("SELECT count(*) FROM examples WHERE split = ?", (_SPLITS[split],)).fetchone()
        return int(row[0])

    def load(self, split: Split) -> Examples:
        """All examples of ``split``, in the order in which they were appended."""
        features, labels = io.BytesIO(), array("i")
        with _sqlite_errors(self._path):
            query = "SELECT features, label FROM examples WHERE split = ? ORDER BY id"
            for raw, label in self._db.execute(query, (_SPLITS[split],)):
                if not isinstance(raw, bytes) or len(raw) != self._spec.row_bytes:
                    raise _corrupt(self._path, "an example has a wrong size")
                features.write(raw)
                labels.append(label)
        # getvalue() hands over the buffer without a copy.
        return Examples(
            self._spec.num_features, features.getvalue(), labels.tobytes(), self._spec.dtype, self._spec.quantization
        )

    def enforce_retention(self) -> int:
        """Drop what is too old; returns how many. Writes nothing when nothing is, but now and then what time it is."""
        with _sqlite_errors(self._path):
            if not self._aging.is_due(self._now()):
                return 0
            with self._transaction():
                return self._aging.drop_expired(self._now())

    def trusts_clock(self) -> bool:
        """Whether examples have a greatest age, and the clock may be believed (``edgefl_device.aging``)."""
        with _sqlite_errors(self._path):
            return self._aging.trusts(self._now())

    @property
    def last_source(self) -> str:
        """The ``source`` of the last batch that gave one: it became durable together with its rows."""
        with _sqlite_errors(self._path):
            row = self._db.execute("SELECT value FROM meta WHERE key = 'last_source'").fetchone()
        return str(row[0]) if row else ""

    def _stage(self, row: Row, index: int) -> None:
        try:
            packed = pack_features(self._spec, row.features)
            check_label(self._spec, row.label)
        except DataError as error:
            raise DataError(f"{row.where or f'row {index}'}: {error}") from None
        self._db.execute("INSERT INTO staged VALUES (?, ?, ?)", (_SPLITS[row.split], row.label, packed))

    def _take_staged(self, source: str) -> None:
        self._db.execute(
            "INSERT INTO examples (split, added, label, features) "
            "SELECT split, ?, label, features FROM staged ORDER BY rowid",
            (self._now(),),
        )
        if source:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES ('last_source', ?)", (source,))
        self._drop_old()

    def _drop_old(self) -> None:
        if self._aging.is_due(self._now()):
            self._aging.drop_expired(self._now())
        total = int(self._db.execute("SELECT count(*) FROM examples").fetchone()[0])
        if total > self._spec.max_examples:
            self._db.execute(
                "DELETE FROM examples WHERE id IN (SELECT id FROM examples ORDER BY id LIMIT ?)",
                (total - self._spec.max_examples,),
            )

    def _now(self) -> int:
        return int(self._clock())

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with _sqlite_errors(self._path):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                raise


def pack_features(spec: ExampleSpec, features: Buffer) -> bytes:
    """The stored form of one example's features. Raises ``DataError`` that names the first wrong value."""
    view = memoryview(features)
    raw_bytes = isinstance(features, (bytes, bytearray)) or (view.format == "B" and spec.dtype is DType.FLOAT32)
    kind = (view.format or "B").removeprefix("<")
    if not raw_bytes and kind != _FORMATS[spec.dtype]:
        raise DataError(f"features of buffer format {view.format!r}; expected {spec.dtype.value}")
    if not view.c_contiguous or view.nbytes != spec.row_bytes:
        found = view.nbytes / spec.dtype.size_bytes
        raise DataError(f"{found:g} features; expected {spec.num_features} ({spec.dtype.value}), contiguous")
    raw = bytes(view)
    if spec.dtype is not DType.FLOAT32:
        return raw
    values = memoryview(raw).cast("f")
    small = False
    for index, value in enumerate(values):
        if not MIN_MAGNITUDE <= abs(value) < math.inf:
            if value != value or abs(value) == math.inf:
                raise DataError(f"features[{index}] is {value!r}; expected a finite number")
            small = True
    if not small:
        return raw
    return array("f", [value if abs(value) >= MIN_MAGNITUDE else 0.0 for value in values]).tobytes()


def check_label(spec: ExampleSpec, label: int) -> None:
    """Raises ``DataError`` for a label that is not a class of the store."""
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < spec.num_classes:
        raise DataError(f"label is {label!r}; expected a whole number from 0 to {spec.num_classes - 1}")


def _prepare(db: sqlite3.Connection, path: Path, spec: ExampleSpec) -> None:
    db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA journal_size_limit = 1048576")
    wanted = {
        "num_features": str(spec.num_features),
        "num_classes": str(spec.num_classes),
        "dtype": spec.dtype.value,
        "scale": spec.scale.hex(),
        "zero_point": str(spec.zero_point),
    }
    if _version(db) == 0:
        _make(db, wanted)
    version = _version(db)
    if version != SCHEMA_VERSION:
        raise StorageError(
            f"{path} has version {version}; this program knows {SCHEMA_VERSION}: update it, or use another state_dir"
        )
    found = dict(db.execute("SELECT key, value FROM meta").fetchall())
    for key, value in wanted.items():
        if found.get(key) != value:
            text = [float.fromhex(v) if key == "scale" and v else v for v in (found.get(key), value)]
            raise ConfigError(
                f"{path} holds examples of {key} {text[0]}; the configuration says {text[1]}: "
                "correct it, or use another state_dir"
            )


def _make(db: sqlite3.Connection, wanted: dict[str, str]) -> None:
    """Make the schema, unless another process was faster."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            break
        except sqlite3.OperationalError as error:
            # SQLite does not wait here: two processes that change the mode at once would wait for each other.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
    db.execute("BEGIN IMMEDIATE")
    try:
        if _version(db) == 0:
            for statement in _SCHEMA:
                db.execute(statement)
            db.executemany("INSERT INTO meta VALUES (?, ?)", wanted.items())
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    finally:
        db.execute("COMMIT")


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


@contextlib.contextmanager
def _sqlite_errors(path: Path) -> Iterator[None]:
    """SQLite's errors become ``StorageError`` with what to do."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise _corrupt(path, str(error)) from error
        if code == sqlite3.SQLITE_BUSY:
            raise StorageError(f"{path}: another process has held it for {BUSY_TIMEOUT_S:g} s; end it") from error
        raise StorageError(f"{path}: {error}; check free space, permissions and the card") from error


def _corrupt(path: Path, detail: str) -> StorageError:
    return StorageError(
        f"{path} is corrupt ({detail}): move it away together with {path.name}-wal and {path.name}-shm; "
        "a new, empty one is made, or put a copy from a backup in its place"
    )
