"""Opening a server's database file: lock, creation, checks, migration; and SQLite's errors as ours.

A new database is made under another name, synced, and renamed: a file of the right name always has its schema, so one
without is damaged and is never silently begun anew.

Source: design §5 (fencing), §6 (databases carry a version); https://www.sqlite.org/wal.html.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from edgefl.errors import FencedError, StorageError
from edgefl_server.schema import APPLICATION_ID, MIGRATIONS, TABLES

DATABASE_NAME = "edgefl.db"
LOCK_NAME = "edgefl.lock"

ConnectionFactory = Callable[[Path], sqlite3.Connection]
"""Opens one connection. A simulation passes one that loses what was not synced."""

BUSY_TIMEOUT_S = 5.0
"""How long a statement waits for another connection's lock: a person's ``sqlite3`` shell, a backup."""

PAGE_BYTES = 16384
"""A report of 31 kB in 2 pages rather than 8: half the processor time of writing it (measured; 58 µs for 100)."""

WAL_CHECKPOINT_PAGES = 1000
"""16 MB of log between checkpoints: as much as the largest group commit of reports of 31 kB."""

READ_CACHE_KIB = 2048
"""SQLite's page cache of each connection; the whole database is never wanted in memory."""


def connect(path: Path) -> sqlite3.Connection:
    """The connection factory of a real server: transactions are begun and ended by hand."""
    return sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)


@contextlib.contextmanager
def storage_errors(path: Path, doing: str) -> Iterator[None]:
    """SQLite's and the file system's errors become ``StorageError`` in one line that says what to do."""
    try:
        yield
    except sqlite3.OperationalError as error:
        # A full disk, an I/O error, a lock that somebody holds, a file without permission.
        raise StorageError(
            f"{path}: {doing}: {error}; free space, check the disk and the permissions, then start the server again"
        ) from error
    except (sqlite3.IntegrityError, sqlite3.InterfaceError, OverflowError) as error:
        raise StorageError(
            f"{path}: {doing}: {error}; this is a defect of the server: report it with its log"
        ) from error
    except (sqlite3.DatabaseError, sqlite3.Warning) as error:
        raise damaged(path, f"{doing}: {error}") from error
    except OSError as error:
        raise StorageError(f"{path}: {doing}: {error.strerror}; check the path and its permissions") from error


def damaged(path: Path, what: str) -> StorageError:
    return StorageError(
        f"{path}: damaged or not an EdgeFL database ({' '.join(what.split())}); "
        "restore it from a backup, or move it away to begin anew"
    )


def take_lock(data_dir: Path) -> int:
    """Make ``data_dir``, lock it for this process, and return the lock's file descriptor.

    Raises ``FencedError`` when another process holds it, ``StorageError`` when it cannot be taken.
    """
    path = data_dir / LOCK_NAME
    with storage_errors(path, "cannot be opened"):
        data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        with storage_errors(path, "cannot be locked"):
            _hold(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _hold(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        owner = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip() or "unknown"
        raise FencedError(
            f"{path}: held by another server (process {owner}); stop it first, or give this one another data_dir"
        ) from None
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)


def open_database(path: Path, factory: ConnectionFactory) -> sqlite3.Connection:
    """The writing connection to a database that is whole and of the newest version. Raises ``StorageError``."""
    if not path.exists():
        _create(path, factory)
    with storage_errors(path, "cannot be opened"):
        connection = factory(path)
    try:
        with storage_errors(path, "cannot be read"):
            _check_identity(connection, path)
            _check_pages(connection, path)
        with storage_errors(path, "cannot be prepared"):
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(f"PRAGMA wal_autocheckpoint = {WAL_CHECKPOINT_PAGES}")
            connection.execute(f"PRAGMA cache_size = -{READ_CACHE_KIB}")
            migrate(connection, MIGRATIONS)
            check_tables(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _sync_descriptor(descriptor: int) -> None:
    os.fsync(descriptor)


def rewrite_log(path: Path, sync: Callable[[int], None] = _sync_descriptor) -> None:
    """Write the bytes of the log that the last server left behind once more, in place, and ``sync`` their descriptor.

    Where that server ended at an fsync error, the kernel shows the log's pages as written and will never write them: a
    commit found there would be acknowledged, and lost with the next power cut (Rebello et al., "Can Applications
    Recover from fsync Failures?", USENIX ATC 2020). The caller holds SQLite's write lock, so nobody else writes the
    log meanwhile; the bytes are the same, so readers see no difference.
    """
    try:
        log = os.open(path.with_name(path.name + "-wal"), os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    try:
        offset = 0
        while data := os.pread(log, 1 << 20, offset):
            offset += os.pwrite(log, data, offset)
        sync(log)
    finally:
        os.close(log)


def open_reader(path: Path, factory: ConnectionFactory) -> sqlite3.Connection:
    """A connection that can only read, for threads besides the writer's."""
    with storage_errors(path, "cannot be opened"):
        connection = factory(path)
        try:
            connection.execute("PRAGMA query_only = ON")
            connection.execute(f"PRAGMA cache_size = -{READ_CACHE_KIB}")
        except BaseException:
            connection.close()
            raise
    return connection


def migrate(connection: sqlite3.Connection, steps: Sequence[Sequence[str]]) -> None:
    """Run the steps that the database has not had yet, in one transaction."""
    version = _pragma(connection, "user_version")
    if version >= len(steps):
        return
    connection.execute("BEGIN IMMEDIATE")
    for step in steps[version:]:
        for statement in step:
            connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {len(steps)}")
    connection.execute("COMMIT")


def _create(path: Path, factory: ConnectionFactory) -> None:
    fresh = path.with_name(path.name + ".new")
    with storage_errors(path, "cannot be made"):
        for leftover in (fresh, fresh.with_name(fresh.name + "-journal")):
            leftover.unlink(missing_ok=True)
        connection = factory(fresh)
        try:
            connection.execute(f"PRAGMA page_size = {PAGE_BYTES}")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
            migrate(connection, MIGRATIONS)
        finally:
            connection.close()
        fresh.chmod(0o600)
        fresh.rename(path)
        sync(path.parent)


def sync(path: Path) -> None:
    """Make a file's bytes, or a folder's names, durable."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_application(connection: sqlite3.Connection, path: Path) -> None:
    """Raises ``StorageError`` when the database is another program's."""
    application = _pragma(connection, "application_id")
    if application != APPLICATION_ID:
        raise damaged(path, f"application id {application:#x}, expected {APPLICATION_ID:#x}")


def _check_identity(connection: sqlite3.Connection, path: Path) -> None:
    check_application(connection, path)
    version = _pragma(connection, "user_version")
    if version > len(MIGRATIONS):
        raise StorageError(
            f"{path}: schema version {version}, but this server knows up to {len(MIGRATIONS)}; "
            "install the newer edgefl-server that wrote it"
        )


def _check_pages(connection: sqlite3.Connection, path: Path) -> None:
    verdict = connection.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise damaged(path, verdict)


def check_tables(connection: sqlite3.Connection, path: Path) -> None:
    """Raises ``StorageError`` unless a database of the newest version has all that it must have."""
    found = {row[0] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    missing = [table for table in TABLES if table not in found]
    if missing:
        raise damaged(path, f"no table {', '.join(missing)}")
    if connection.execute("SELECT count(*) FROM server").fetchone()[0] != 1:
        raise damaged(path, "no epoch in table server")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])
