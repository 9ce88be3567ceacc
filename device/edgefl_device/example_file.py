"""The SQLite file of the example store: its schema and versions, how it is opened, and what its errors mean.

Invariants: a file is made, or brought to this version, once, by the process that comes first; a file of a newer
version is refused; so is a file of examples of another kind than the configuration says. Names of features and classes
that the configuration declares are kept in the file: stored numbers must not change their meaning with it.

Source: design §9 (example store).
"""

from __future__ import annotations

import contextlib
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from edgefl.errors import ConfigError, StorageError
from edgefl_device.config import ExampleSpec

BUSY_TIMEOUT_S = 30.0
"""How long a writer waits for another; a batch's own transaction takes far less, even on a slow card."""

CACHE_KIB = 512
"""SQLite's page cache: rows are read once, in order, so a larger one would only cost memory (its default is 2 MB)."""

FEATURE_NAMES, CLASS_NAMES = "feature_names", "class_names"
"""Keys of the table ``meta``: JSON lists, in the order of the stored values; absent until they are known."""

_MIGRATIONS = (
    (
        "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
        "CREATE TABLE examples (id INTEGER PRIMARY KEY, split INTEGER NOT NULL, added INTEGER NOT NULL, "
        "label INTEGER NOT NULL, features BLOB NOT NULL)",
        "CREATE INDEX examples_by_age ON examples (split, added)",
    ),
    (
        # Where examples came from. A source goes with its last example, so there are never more of them.
        "CREATE TABLE sources (id INTEGER PRIMARY KEY, name TEXT NOT NULL, added INTEGER NOT NULL, "
        "digest BLOB NOT NULL, stamp TEXT NOT NULL, num_left INTEGER NOT NULL)",
        "ALTER TABLE examples ADD COLUMN source INTEGER NOT NULL DEFAULT 0",
        "CREATE TRIGGER examples_forget AFTER DELETE ON examples WHEN OLD.source > 0 BEGIN "
        "UPDATE sources SET num_left = num_left - 1 WHERE id = OLD.source; "
        "DELETE FROM sources WHERE id = OLD.source AND num_left = 0; END",
        # Everything but the features: counts and lists read no example.
        "DROP INDEX examples_by_age",
        "CREATE INDEX examples_by_age ON examples (split, added, label, source)",
        # The file that an inbox of version 1 took last may still have to be moved away.
        "INSERT INTO sources (name, added, digest, stamp, num_left) "
        "SELECT '', 0, x'', value, 0 FROM meta WHERE key = 'last_source'",
        "DELETE FROM meta WHERE key = 'last_source'",
    ),
)
"""The statements that lead from each version to the next. Entries are only appended."""

SCHEMA_VERSION = len(_MIGRATIONS)


def prepare(db: sqlite3.Connection, path: Path, spec: ExampleSpec) -> None:
    """Make the file ready for use. Raises as ``ExampleStore.open`` says, and SQLite's errors."""
    db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    db.execute("PRAGMA synchronous = NORMAL")
    db.execute("PRAGMA journal_size_limit = 1048576")
    db.execute("PRAGMA secure_delete = ON")  # an example that goes, for whatever reason, is overwritten
    if _version(db) == 0:
        _use_log(db)
    if _version(db) < SCHEMA_VERSION:
        _migrate(db)
    version = _version(db)
    if version != SCHEMA_VERSION:
        raise StorageError(
            f"{path} has version {version}; this program knows {SCHEMA_VERSION}: update it, or use another state_dir"
        )
    _check_kind(db, path, spec)
    for key, declared in ((FEATURE_NAMES, spec.features), (CLASS_NAMES, spec.classes)):
        if declared:
            _declare(db, path, key, declared)


def read_names(db: sqlite3.Connection, key: str) -> tuple[str, ...]:
    """The names under ``key``; none while they are not known."""
    row = db.execute("SELECT value FROM meta WHERE key = ?", (key,)).fetchone()
    return tuple(json.loads(row[0])) if row else ()


def write_names(db: sqlite3.Connection, key: str, names: tuple[str, ...]) -> None:
    """Keep the names under ``key``, unless there are some."""
    db.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", (key, json.dumps(names, ensure_ascii=False)))


def forget_names(db: sqlite3.Connection, key: str) -> None:
    db.execute("DELETE FROM meta WHERE key = ?", (key,))


def _check_kind(db: sqlite3.Connection, path: Path, spec: ExampleSpec) -> None:
    wanted = {
        "num_features": str(spec.num_features),
        "num_classes": str(spec.num_classes),
        "dtype": spec.dtype.value,
        "scale": spec.scale.hex(),
        "zero_point": str(spec.zero_point),
    }
    query = "SELECT value FROM meta WHERE key = ?"
    if db.execute(query, ("dtype",)).fetchone() is None:
        # The first process to look says what the examples are; one that comes at the same time is compared with it.
        with immediate(db):
            db.executemany("INSERT OR IGNORE INTO meta VALUES (?, ?)", wanted.items())
    for key, value in wanted.items():
        row = db.execute(query, (key,)).fetchone()
        found = row[0] if row else None
        if found != value:
            text = [float.fromhex(v) if key == "scale" and v else v for v in (found, value)]
            raise ConfigError(
                f"{path} holds examples of {key} {text[0]}; the configuration says {text[1]}: "
                "correct it, or use another state_dir"
            )


def _declare(db: sqlite3.Connection, path: Path, key: str, declared: tuple[str, ...]) -> None:
    found = read_names(db, key)
    if found != declared:
        with immediate(db):
            if db.execute("SELECT 1 FROM examples LIMIT 1").fetchone() is None:
                forget_names(db, key)  # they named nothing that is still there
            write_names(db, key, declared)
        found = read_names(db, key)
    if found != declared:
        index = next(i for i, pair in enumerate(zip(found, declared, strict=True)) if pair[0] != pair[1])
        raise ConfigError(
            f"{path} holds examples whose {key.replace('_', ' ')} are {some(found)}; the configuration says "
            f"{some(declared)} (number {index} differs): correct it, or use another state_dir"
        )


def some(names: Sequence[str], limit: int = 8) -> str:
    """The first ``limit`` names, quoted, for an error."""
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(repr, names[:limit])) + more


def _use_log(db: sqlite3.Connection) -> None:
    """Switch to write-ahead logging."""
    deadline = time.monotonic() + BUSY_TIMEOUT_S
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            # SQLite does not wait here: two processes that change the mode at once would wait for each other.
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _migrate(db: sqlite3.Connection) -> None:
    """Bring the schema to this version in one transaction, unless another process was faster."""
    with immediate(db):
        for statements in _MIGRATIONS[_version(db) :]:
            for statement in statements:
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {max(_version(db), SCHEMA_VERSION)}")


def _version(db: sqlite3.Connection) -> int:
    return int(db.execute("PRAGMA user_version").fetchone()[0])


@contextlib.contextmanager
def immediate(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


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
