"""The SQLite file of the example store: its schema and versions, how it is opened, and what its errors mean.

Invariants: a file is made once, by whichever process is first; a file of a newer version is refused; a file of examples
of another kind than the configuration says is refused. Source: design §9 (example store).
"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path

from edgefl.errors import ConfigError, StorageError
from edgefl_device.config import ExampleSpec

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


def prepare(db: sqlite3.Connection, path: Path, spec: ExampleSpec) -> None:
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
def sqlite_errors(path: Path) -> Iterator[None]:
    """SQLite's errors become ``StorageError`` with what to do."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            raise corrupt(path, str(error)) from error
        if code == sqlite3.SQLITE_BUSY:
            raise StorageError(f"{path}: another process has held it for {BUSY_TIMEOUT_S:g} s; end it") from error
        raise StorageError(f"{path}: {error}; check free space, permissions and the card") from error


def corrupt(path: Path, detail: str) -> StorageError:
    return StorageError(
        f"{path} is corrupt ({detail}): move it away together with {path.name}-wal and {path.name}-shm; "
        "a new, empty one is made, or put a copy from a backup in its place"
    )
