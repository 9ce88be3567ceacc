"""A copy of the database while the server runs, made by SQLite's backup API through a connection of its own.

Invariants: the copy is one moment of the database, whole, checked and durable before it has its name; a file that has
that name already stays as it is. The server is not held up.

Source: https://www.sqlite.org/backup.html.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from pathlib import Path

from edgefl.errors import ConflictError, NotFoundError
from edgefl_server.sqlite_file import (
    DATABASE_NAME,
    check_application,
    connect,
    damaged,
    open_reader,
    storage_errors,
    sync,
)


def back_up(data_dir: Path, destination: Path) -> int:
    """Copy the database of ``data_dir`` to the new file ``destination``; returns the copy's size in bytes.

    Raises ``NotFoundError`` without a database, ``ConflictError`` when ``destination`` exists, ``StorageError``.
    """
    source = data_dir / DATABASE_NAME
    if not source.exists():
        raise NotFoundError(f"no database {source}; check data_dir in the configuration")
    if destination.exists():
        raise ConflictError(f"{destination} exists; choose another name, or move it away")
    fresh = destination.with_name(destination.name + ".new")
    with storage_errors(destination, "cannot be made"):
        fresh.unlink(missing_ok=True)
        try:
            copy_database(source, fresh)
            sync(fresh)
            os.link(fresh, destination)  # unlike a rename, never over a file that came meanwhile
        except FileExistsError:
            raise ConflictError(f"{destination} exists; choose another name, or move it away") from None
        finally:
            fresh.unlink(missing_ok=True)
        sync(destination.parent)
        return destination.stat().st_size


def copy_database(source: Path, fresh: Path) -> None:
    """Make ``fresh`` a whole, checked copy of ``source`` in one file, readable by its owner alone."""
    os.close(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    with contextlib.closing(open_reader(source, connect)) as reader, contextlib.closing(connect(fresh)) as copy:
        check_application(reader, source)
        # In one step: reading holds up no writer in WAL mode, and a copy in steps begins anew at each commit.
        reader.backup(copy)
        # One file: a copy in WAL mode would leave -wal and -shm next to it wherever it is opened.
        copy.execute("PRAGMA journal_mode = DELETE")
        _check(copy, source)


def _check(copy: sqlite3.Connection, source: Path) -> None:
    verdict = copy.execute("PRAGMA quick_check(1)").fetchone()[0]
    if verdict != "ok":
        raise damaged(source, f"its copy fails the check: {verdict}")
