"""The ledger of a SQLite database: ``edgefl_server.ledger.Ledger`` over a reading connection."""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from edgefl.errors import NotFoundError, StorageError
from edgefl.protocol.messages import ClientUpdate
from edgefl.protocol.process import ProcessState, RoundConditions
from edgefl_server.ledger import StoredRelease, StoredReport, StoredRound, StoredState, StoredTask, StoredVersion
from edgefl_server.schema import MIGRATIONS
from edgefl_server.sqlite_file import (
    DATABASE_NAME,
    check_application,
    check_tables,
    connect,
    damaged,
    open_reader,
    storage_errors,
    take_lock,
)
from edgefl_server.sqlite_read import read_update


@contextlib.contextmanager
def stopped_ledger(data_dir: Path, *, verify_pages: bool = False) -> Iterator[SqliteLedger]:
    """The ledger of a server that does not run, for as long as the context lasts.

    ``verify_pages``: let SQLite check the whole file first. Raises ``NotFoundError`` without a database,
    ``FencedError`` while a server runs, ``StorageError`` for a damaged file or one of another version.
    """
    path = data_dir / DATABASE_NAME
    if not path.exists():
        raise NotFoundError(f"no database {path}; check data_dir in the configuration")
    lock = take_lock(data_dir)
    try:
        with storage_errors(path, "cannot be read"), contextlib.closing(open_reader(path, connect)) as db:
            _check_layout(db, path)
            if verify_pages:
                (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
                if verdict != "ok":
                    raise damaged(path, verdict)
            yield SqliteLedger(db)
    finally:
        os.close(lock)


def _check_layout(db: sqlite3.Connection, path: Path) -> None:
    check_application(db, path)
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version != len(MIGRATIONS):
        raise StorageError(
            f"{path}: schema version {version}; expected {len(MIGRATIONS)}; a server of this version migrates an older "
            "one when it starts"
        )
    check_tables(db, path)


class SqliteLedger:
    """Reads by ``db``, which has the newest layout. Errors of SQLite are the business of who opened it."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def tasks(self) -> tuple[StoredTask, ...]:
        rows = self._db.execute(
            "SELECT name, definition, goal, next_round, version, pruned, forgotten FROM tasks ORDER BY id"
        )
        return tuple(StoredTask(*row) for row in rows)

    def states(self, task: str) -> tuple[StoredState, ...]:
        rows = self._db.execute(
            "SELECT version, round, sha256, kept AND extra IS NOT NULL FROM states WHERE task = ? ORDER BY version",
            (task,),
        )
        return tuple(StoredState(version, made_by, sha256, bool(kept)) for version, made_by, sha256, kept in rows)

    def state(self, task: str, version: int) -> ProcessState:
        row = self._db.execute(
            "SELECT sha256, extra, data FROM states LEFT JOIN content USING (sha256) WHERE task = ? AND version = ?",
            (task, version),
        ).fetchone()
        if row is None or row[1] is None or (row[0] and row[2] is None):
            raise NotFoundError(f"the state of version {version} of task {task!r} is not kept; choose a later version")
        return ProcessState(version, row[2] or b"", row[1])

    def version(self, task: str, version: int) -> StoredVersion | None:
        row = self._db.execute(
            "SELECT round, sha256, extra, kept, metrics, population, learning_rate"
            " FROM states JOIN rounds USING (task, round) WHERE task = ? AND states.version = ?",
            (task, version),
        ).fetchone()
        if row is None:
            return None
        round_num, digest, extra, kept, metrics, *conditions = row
        return StoredVersion(round_num, digest, extra if kept else None, metrics, RoundConditions(*conditions))

    def rounds(self, task: str) -> tuple[StoredRound, ...]:
        rows = self._db.execute(
            "SELECT round, phase, version, accepted, failed, candidates, num_examples, cohort FROM rounds"
            " WHERE task = ? ORDER BY round",
            (task,),
        )
        return tuple(StoredRound(*row[:5], *(tuple(json.loads(text)) for text in row[5:])) for row in rows)

    def jumps(self, task: str) -> tuple[tuple[int, int], ...]:
        rows = self._db.execute("SELECT from_round, to_round FROM jumps WHERE task = ? ORDER BY 1, 2", (task,))
        return tuple((first, end) for first, end in rows)

    def reports(self, task: str, round_num: int) -> tuple[StoredReport, ...]:
        rows = self._db.execute(
            "SELECT sequence, device, counted, payload_sha256 FROM reports WHERE task = ? AND round = ?"
            " ORDER BY sequence",
            (task, round_num),
        )
        return tuple(
            StoredReport(sequence, device, bool(counted), sha256) for sequence, device, counted, sha256 in rows
        )

    def update(self, task: str, round_num: int, device: str) -> ClientUpdate | None:
        # By its key, one at a time: to order whole rows, SQLite would have all payloads in memory.
        row = self._db.execute(
            "SELECT 1 FROM reports JOIN payloads USING (sequence) WHERE task = ? AND round = ? AND device = ?",
            (task, round_num, device),
        ).fetchone()
        return None if row is None else read_update(self._db, task, round_num, device)

    def payload(self, sequence: int) -> bytes | None:
        row = self._db.execute("SELECT data FROM payloads WHERE sequence = ?", (sequence,)).fetchone()
        return None if row is None else row[0]

    def num_failures(self, task: str, round_num: int) -> int:
        row = self._db.execute("SELECT count(*) FROM failures WHERE task = ? AND round = ?", (task, round_num))
        return int(row.fetchone()[0])

    def contents(self) -> Iterator[tuple[str, bytes]]:
        yield from self._db.execute("SELECT sha256, data FROM content")

    def missing_models(self) -> tuple[tuple[str, int, str], ...]:
        rows = self._db.execute(
            "SELECT task, version, states.sha256 FROM states LEFT JOIN content USING (sha256)"
            " WHERE kept AND states.sha256 != '' AND data IS NULL"
        )
        return tuple((task, version, sha256) for task, version, sha256 in rows)

    def payloads_without_report(self) -> tuple[int, ...]:
        rows = self._db.execute("SELECT sequence FROM payloads WHERE sequence NOT IN (SELECT sequence FROM reports)")
        return tuple(sequence for (sequence,) in rows)

    def releases(self) -> tuple[StoredRelease, ...]:
        rows = self._db.execute(
            "SELECT name, version, sha256, size_bytes, length(data) FROM releases LEFT JOIN content USING (sha256)"
        )
        return tuple(StoredRelease(*row) for row in rows)
