"""A backup takes the place of a stopped server's database, without breaking what the server that is lost has promised.

Devices may be ahead of a backup: they saw releases, took part in rounds and hold receipts of which it knows nothing. So
the restored database

- leaves out the numbers that the lost server may have used: rounds (``jumps``), sequences and release versions go on
  ``AHEAD`` after the highest that either database knows, or at the seconds since 1970 where that is more, for the same
  backup may be restored twice on empty machines. A device then never sees a version that it has seen, for other bytes
  (I7), nor trains for a round that it has a receipt of; its question after such a round is answered NOT_COUNTED;
- has abandoned the rounds that the backup was collecting: their deadlines and cohorts belong to another day;
- has a higher epoch than both databases: a server that still runs on the replaced one writes nothing (I5).

The replaced database is kept next to the new one. What was acknowledged after the backup was made is in it alone.

Invariants: the data folder has either database under its name at every moment, and the new one is whole, checked and
durable before it has it.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from edgefl.errors import ConflictError, NotFoundError
from edgefl.protocol.events import Phase
from edgefl_server.schema import RELEASE_FLOOR_SINCE
from edgefl_server.sqlite_backup import copy_database
from edgefl_server.sqlite_file import DATABASE_NAME, connect, open_database, storage_errors, sync, take_lock
from edgefl_server.sqlite_write import end_round

AHEAD = 1_000_000
"""How many numbers are left out: more than a server uses between a backup and the day it is needed."""

LATEST_S = 1 << 31
"""A clock that says more is wrong; a round's number has 32 bits."""

REPLACED_NAME = DATABASE_NAME + ".replaced"
_LOGS = ("-wal", "-shm")

REASON = "the server was restored from a backup"
"""Why the rounds that the backup was collecting are abandoned."""


@dataclass(frozen=True)
class Restored:
    """``replaced``: where the database is that was there before, None when there was none.

    ``lost_reports``: how many reports it holds that the backup does not have; None when it cannot be read.
    """

    replaced: Path | None
    lost_reports: int | None


def restore(data_dir: Path, backup: Path, *, clock: Callable[[], float] = time.time) -> Restored:
    """Put a copy of ``backup`` into ``data_dir``. ``clock``: seconds since 1970.

    Raises ``NotFoundError`` without a backup, ``FencedError`` while a server runs, ``ConflictError`` when an earlier
    replaced database is still there, ``StorageError`` for a backup that is damaged or newer than this version.
    """
    path, replaced = data_dir / DATABASE_NAME, data_dir / REPLACED_NAME
    if not backup.is_file():
        raise NotFoundError(f"no backup {backup}; `edgefl-server backup` makes one")
    lock = take_lock(data_dir)
    try:
        if path.exists() and replaced.exists():
            raise ConflictError(f"{replaced} exists, from an earlier restore; move it away first")
        fresh = path.with_name(path.name + ".restored")
        with storage_errors(fresh, "cannot be made"):
            _remove(fresh)
            copy_database(backup, fresh)
        before = _fold_log(path)
        with contextlib.closing(open_database(fresh, connect)) as db, storage_errors(fresh, "cannot be written"):
            lost = None if before is None else _reports_missing(db, path)
            _renumber(db, before or _Highest(), min(int(clock()), LATEST_S))
            db.execute("PRAGMA journal_mode = DELETE")  # one file to move
        with storage_errors(path, "cannot be replaced"):
            sync(fresh)
            there = _set_aside(path, replaced)
            fresh.rename(path)
            sync(data_dir)
        return Restored(replaced if there else None, lost if there else 0)
    finally:
        os.close(lock)


@dataclass(frozen=True)
class _Highest:
    """The numbers that the replaced database has used."""

    epoch: int = 0
    release: int = 0
    sequence: int = 0
    rounds: Mapping[str, int] = field(default_factory=dict)


def _fold_log(path: Path) -> _Highest | None:
    """Move the log of the database that is to be replaced into it, and read its numbers; None if it cannot be read.

    What has an empty log is one file, and can be moved as one.
    """
    if not path.exists():
        return None
    try:
        with contextlib.closing(connect(path)) as db:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            (epoch,) = db.execute("SELECT epoch FROM server").fetchone()
            (release,) = db.execute("SELECT coalesce(max(version), 0) FROM releases").fetchone()
            (sequence,) = db.execute("SELECT coalesce(max(sequence), 0) FROM reports").fetchone()
            rounds = dict(db.execute("SELECT name, next_round FROM tasks").fetchall())
            if db.execute("PRAGMA user_version").fetchone()[0] >= RELEASE_FLOOR_SINCE:
                floors = db.execute("SELECT release_floor, sequence_floor FROM server").fetchone()
                release, sequence = max(release, floors[0]), max(sequence, floors[1])
    except sqlite3.Error:
        return None  # a damaged database is what backups are for
    return _Highest(epoch, release, sequence, rounds)


def _reports_missing(db: sqlite3.Connection, replaced: Path) -> int | None:
    """How many reports ``replaced`` has that ``db`` does not have; None where its pages cannot be read."""
    try:
        db.execute("ATTACH ? AS replaced", (str(replaced),))
        try:
            (missing,) = db.execute(
                "SELECT count(*) FROM replaced.reports AS r WHERE NOT EXISTS (SELECT 1 FROM main.reports AS m"
                " WHERE m.task = r.task AND m.round = r.round AND m.device = r.device)"
            ).fetchone()
            return int(missing)
        finally:
            db.execute("DETACH replaced")
    except sqlite3.Error:
        return None


def _renumber(db: sqlite3.Connection, before: _Highest, now_s: int) -> None:
    """Leave out what the lost server may have used."""
    db.execute("BEGIN IMMEDIATE")
    db.execute(
        "UPDATE server SET epoch = max(epoch, ?1) + 1,"
        " release_floor = max(?5, ?4 + max(release_floor, ?2, (SELECT coalesce(max(version), 0) FROM releases))),"
        " sequence_floor = max(?5, ?4 + max(sequence_floor, ?3, (SELECT coalesce(max(sequence), 0) FROM reports)))",
        (before.epoch, before.release, before.sequence, AHEAD, now_s),
    )
    collecting = db.execute("SELECT task, round FROM rounds WHERE phase = ?", (Phase.COLLECTING.value,)).fetchall()
    for task, round_num in collecting:
        end_round(db, task, round_num, Phase.ABANDONED, REASON)
        db.execute("UPDATE tasks SET next_round = ? WHERE name = ?", (round_num + 1, task))
    for task, next_round in db.execute("SELECT name, next_round FROM tasks").fetchall():
        goes_on = max(now_s, max(next_round, before.rounds.get(task, 0)) + AHEAD)
        db.execute("INSERT INTO jumps VALUES (?, ?, ?)", (task, next_round, goes_on))
        db.execute("UPDATE tasks SET next_round = ? WHERE name = ?", (goes_on, task))
    db.execute("COMMIT")


def _set_aside(path: Path, replaced: Path) -> bool:
    """Give the database at ``path`` its other name, with its logs; False when there is none."""
    if not path.exists():
        return False
    # A link first: until the rename that follows, the folder has a database under its name. A log that is left here is
    # one that could not be folded, of a database that no server can open.
    os.link(path, replaced)
    for suffix in _LOGS:
        with contextlib.suppress(FileNotFoundError):
            os.rename(f"{path}{suffix}", f"{replaced}{suffix}")
    return True


def _remove(path: Path) -> None:
    for suffix in ("", "-journal", *_LOGS):
        path.with_name(path.name + suffix).unlink(missing_ok=True)
