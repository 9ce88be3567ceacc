"""The SQLite store: one writing connection, group-committed transactions, fenced by a file lock and an epoch.

Every transaction is ``BEGIN IMMEDIATE`` and compares the epoch before it writes. ``synchronous=FULL`` makes COMMIT
return only when the log is synced. After any error of a write the store refuses further writes: an fsync that failed
may have dropped what it should have written, and a second one would then succeed falsely (design §5).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from edgefl.errors import FencedError, NotFoundError, StorageError
from edgefl.protocol.events import Persist, Phase, RoundSummary, Snapshot
from edgefl.protocol.messages import Fate
from edgefl_server.sqlite_file import (
    DATABASE_NAME,
    ConnectionFactory,
    connect,
    open_database,
    open_reader,
    rewrite_log,
    storage_errors,
    take_lock,
)
from edgefl_server.sqlite_read import read_failures, read_snapshot, summary_of
from edgefl_server.sqlite_retention import Retention
from edgefl_server.sqlite_write import Writer
from edgefl_server.store import ModelRecord


class SqliteStore:
    """``edgefl_server.store.Store`` in ``data_dir``/edgefl.db.

    ``retention_rounds``, ``checkpoint_every``, ``history_rounds``: ``edgefl_server.sqlite_retention``; before ``load``
    no model is forgotten.
    ``factory``, ``lock``, ``rewrite``: how the database is opened, locked and its log written anew; a simulation passes
    what its own disk does. ``clock``: seconds since 1970, for ages that people see.
    Raises ``FencedError`` when another server holds ``data_dir``, ``StorageError`` when the database is not usable.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        retention_rounds: int,
        checkpoint_every: int = 1,
        history_rounds: int = 10_000,
        factory: ConnectionFactory = connect,
        lock: Callable[[Path], int] = take_lock,
        rewrite: Callable[[Path], None] = rewrite_log,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = data_dir / DATABASE_NAME
        self._rewrite_log = rewrite
        self._clock = clock
        self._lock = lock(data_dir)
        self._failed = False
        self._closed = False
        try:
            self._db = open_database(self.path, factory)
            try:
                self._epoch = self._next_epoch()
                self._retention = Retention(self._db, retention_rounds, checkpoint_every, history_rounds)
                self._writer = Writer(self._db, self._retention, clock)
                self._reading = threading.Lock()
                self._reader = open_reader(self.path, factory)
            except BaseException:
                self._db.close()
                raise
        except BaseException:
            os.close(self._lock)
            raise

    # -------------------------------------------------------------------------------------- the engine's thread

    def load(self) -> Snapshot:
        with storage_errors(self.path, "cannot be read"):
            snapshot = read_snapshot(self._db, str(self.path), self._clock())
        for task in snapshot.tasks:  # in the order of their making: what a task evaluates comes before it
            self._retention.add_task(task.spec)
        return snapshot

    def apply(self, effects: Sequence[Persist], content: Sequence[bytes] = ()) -> None:
        if not effects and not content:
            return
        if self._failed:
            raise StorageError(f"{self.path}: an earlier write failed; start the server again to recover")
        self._failed = True
        with storage_errors(self.path, "cannot be written"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                self._compare_epoch()
                for data in content:
                    self._writer.put_content(hashlib.sha256(data).hexdigest(), data)
                self._writer.write(effects)
                self._db.execute("COMMIT")
            except BaseException:
                self._roll_back()
                raise
        self._failed = False

    def find_accepted(self, task: str, round_num: int, device: str) -> int | None:
        with storage_errors(self.path, "cannot be read"):
            row = self._db.execute(
                "SELECT sequence FROM reports WHERE task = ? AND round = ? AND device = ?", (task, round_num, device)
            ).fetchone()
        return None if row is None else int(row[0])

    def fate(self, task: str, round_num: int, device: str) -> Fate:
        with storage_errors(self.path, "cannot be read"):
            row = self._db.execute(
                "SELECT rounds.phase, reports.counted FROM reports JOIN rounds USING (task, round)"
                " WHERE task = ? AND round = ? AND device = ?",
                (task, round_num, device),
            ).fetchone()
            if row is None:
                # Accepted by a server that a backup has replaced since: it counts for nothing here.
                lost = self._db.execute(
                    "SELECT 1 FROM jumps WHERE task = ?1 AND ?2 >= from_round AND ?2 < to_round", (task, round_num)
                ).fetchone()
                return Fate.OPEN if lost is None else Fate.NOT_COUNTED
        phase, counted = row
        if phase not in (Phase.COMMITTED.value, Phase.ABANDONED.value):
            return Fate.OPEN
        return Fate.COUNTED if counted else Fate.NOT_COUNTED

    # -------------------------------------------------------------------------------------------- any thread

    def content(self, sha256: str) -> bytes:
        rows = self._query("SELECT data FROM content WHERE sha256 = ?", (sha256,))
        if not rows:
            raise NotFoundError(f"no content with SHA-256 {sha256}; ask again for what the server offers now")
        return bytes(rows[0][0])

    def models(self, task: str) -> tuple[ModelRecord, ...]:
        rows = self._query(
            "SELECT version, sha256, length(data) FROM states JOIN content USING (sha256)"
            " WHERE task = ? ORDER BY version",
            (task,),
        )
        return tuple(ModelRecord(task, version, sha256, size) for version, sha256, size in rows)

    def model(self, task: str, version: int) -> bytes:
        rows = self._query(
            "SELECT data FROM states JOIN content USING (sha256) WHERE task = ? AND version = ?", (task, version)
        )
        if rows:
            return bytes(rows[0][0])
        if self._query("SELECT 1 FROM states WHERE task = ? AND version = ?", (task, version)):
            raise NotFoundError(
                f"the model of version {version} of task {task!r} is not kept; `edgefl-server replay` may compute it "
                "again, and checkpoint_every says which are kept"
            )
        raise NotFoundError(f"task {task!r} has no model of version {version}; list its models to see which exist")

    def ended_rounds(self, task: str, from_round: int, limit: int) -> tuple[RoundSummary, ...]:
        rows = self._query(
            "SELECT rounds.task, round, phase, goal, cohort_size, accepted, failed, rounds.version, metrics, reason,"
            " latency_shares, base_version, population, learning_rate"
            " FROM rounds JOIN tasks ON tasks.name = rounds.task"
            " WHERE rounds.task = ? AND round >= ? AND phase IN ('committed', 'abandoned') ORDER BY round LIMIT ?",
            (task, from_round, limit),
        )
        if not rows:
            return ()
        with self._reading, storage_errors(self.path, "cannot be read"):
            failures = read_failures(self._reader.execute, task, rows[0][1], rows[-1][1])
        return tuple(summary_of(row, failures.get(row[1], ())) for row in rows)

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._reader.close()
        self._db.close()
        os.close(self._lock)

    # ---------------------------------------------------------------------------------------------- privately

    def _query(self, sql: str, parameters: tuple[object, ...]) -> list[tuple[Any, ...]]:
        with self._reading, storage_errors(self.path, "cannot be read"):
            return self._reader.execute(sql, parameters).fetchall()

    def _next_epoch(self) -> int:
        with storage_errors(self.path, "cannot be written"):
            self._db.execute("BEGIN IMMEDIATE")
            self._rewrite_log(self.path)
            self._db.execute("UPDATE server SET epoch = epoch + 1")
            epoch = int(self._db.execute("SELECT epoch FROM server").fetchone()[0])
            self._db.execute("COMMIT")
        return epoch

    def _compare_epoch(self) -> None:
        found = int(self._db.execute("SELECT epoch FROM server").fetchone()[0])
        if found != self._epoch:
            raise FencedError(
                f"{self.path}: epoch {found}, but this server opened it as {self._epoch}: another server took it over; "
                "stop one of the two"
            )

    def _roll_back(self) -> None:
        with contextlib.suppress(sqlite3.Error):  # it has rolled back by itself after a full disk or an I/O error
            self._db.execute("ROLLBACK")
