"""A database file that is damaged, foreign, old, or on a full disk; and what its transactions sync."""

from __future__ import annotations

import contextlib
import resource
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from order_kit import watch_order
from test_server_store import selection, task, update

from edgefl.errors import FencedError, StorageError
from edgefl.protocol.events import (
    SaveReport,
    SaveSelection,
    SaveTask,
)
from edgefl_server import sqlite_file
from edgefl_server.schema import MIGRATIONS
from edgefl_server.sqlite_file import PAGE_BYTES, connect, migrate
from edgefl_server.sqlite_store import SqliteStore


def filled(folder: Path) -> Path:
    """A closed database of some pages; returns its path."""
    store = SqliteStore(folder, retention_rounds=2)
    store.apply([SaveTask(task()), SaveSelection(selection()), SaveReport(1, "a", update(payload=bytes(200_000)))])
    store.close()
    return store.path


def refused(folder: Path, words: str) -> None:
    """Opening fails in one line that names the file and says what to do."""
    with pytest.raises(StorageError, match=words) as caught:
        SqliteStore(folder, retention_rounds=2)
    message = str(caught.value)
    assert str(folder / "edgefl.db") in message
    assert "\n" not in message
    assert "restore it from a backup" in message or "install the newer" in message


def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "edgefl.db").write_bytes(b"not a database " * 1000)
    refused(tmp_path, "not a database")


def test_an_empty_file_is_damage_and_not_a_new_database(tmp_path: Path) -> None:
    (tmp_path / "edgefl.db").touch()
    refused(tmp_path, "application id")


def test_somebody_elses_database_is_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "edgefl.db") as db:
        db.execute("CREATE TABLE notes (text)")
    db.close()
    refused(tmp_path, "application id")


def test_a_malformed_page_that_no_start_reads_is_found_at_the_start(tmp_path: Path) -> None:
    path = filled(tmp_path)
    with contextlib.closing(sqlite3.connect(path)) as db:
        (page,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'failures'").fetchone()
    with path.open("r+b") as file:
        file.seek((page - 1) * PAGE_BYTES)
        file.write(b"\xde\xad\xbe\xef" * (PAGE_BYTES // 4))
    refused(tmp_path, "damaged")


def test_a_truncated_database_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path)
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size // 2)
    refused(tmp_path, "damaged")


def test_a_missing_table_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path)
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE reports")
    db.close()
    refused(tmp_path, "no table reports")


def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    path = filled(tmp_path)
    with sqlite3.connect(path) as db:
        db.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    db.close()
    refused(tmp_path, "schema version")


def test_a_new_database_that_was_cut_off_is_begun_again(tmp_path: Path) -> None:
    (tmp_path / "edgefl.db.new").write_bytes(b"half a database")
    (tmp_path / "edgefl.db.new-journal").write_bytes(b"its journal")
    store = SqliteStore(tmp_path, retention_rounds=2)
    assert store.load().tasks == ()
    store.close()


def test_steps_run_once_in_order_and_all_or_none(tmp_path: Path) -> None:
    db = connect(tmp_path / "any.db")
    steps = [("CREATE TABLE a (x)", "INSERT INTO a VALUES (1)"), ("ALTER TABLE a ADD COLUMN y DEFAULT 2",)]
    migrate(db, steps[:1])
    migrate(db, steps)
    migrate(db, steps)
    assert db.execute("SELECT * FROM a").fetchall() == [(1, 2)]
    with pytest.raises(sqlite3.OperationalError):
        migrate(db, [*steps, ("INSERT INTO a VALUES (3, 4)", "no SQL")])
    db.execute("ROLLBACK")
    assert db.execute("SELECT * FROM a").fetchall() == [(1, 2)]
    assert db.execute("PRAGMA user_version").fetchone() == (2,)
    db.close()


def test_a_full_disk_is_one_line_and_ends_the_writing(tmp_path: Path) -> None:
    def small(path: Path) -> sqlite3.Connection:
        connection = connect(path)
        connection.execute("PRAGMA max_page_count = 40")
        return connection

    store = SqliteStore(tmp_path, retention_rounds=2, factory=small)
    store.apply([SaveTask(task()), SaveSelection(selection())])
    with pytest.raises(StorageError, match="disk is full; free space"):
        store.apply([SaveReport(1, "a", update(payload=bytes(1 << 20)))])
    with pytest.raises(StorageError, match="start the server again"):
        store.apply([SaveReport(1, "a", update())])
    store.close()
    store = SqliteStore(tmp_path, retention_rounds=2)
    assert store.load().rounds == (selection(),)
    store.close()


def test_the_log_is_synced_at_each_commit(tmp_path: Path) -> None:
    connections = []

    def noting(path: Path) -> sqlite3.Connection:
        connections.append(connect(path))
        return connections[-1]

    store = SqliteStore(tmp_path, retention_rounds=2, factory=noting)
    writer = connections[1]  # the first one made the file
    assert writer.execute("PRAGMA synchronous").fetchone() == (2,)
    assert writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert (tmp_path / sqlite_file.DATABASE_NAME).stat().st_mode & 0o777 == 0o600
    store.close()


@contextlib.contextmanager
def no_file_may_grow() -> Iterator[None]:
    """As on a full disk: a write that makes a file longer fails (Python ignores the signal that comes with it)."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_lock_that_cannot_be_written_is_given_back(tmp_path: Path) -> None:
    with no_file_may_grow(), pytest.raises(StorageError, match=r"edgefl\.lock: cannot be locked: .*; check the path"):
        SqliteStore(tmp_path, retention_rounds=2)
    SqliteStore(tmp_path, retention_rounds=2).close()


def test_a_store_that_cannot_be_opened_gives_its_lock_and_its_connections_back(tmp_path: Path) -> None:
    """The reading connection comes last: the writing one and the lock are held by then."""
    filled(tmp_path)
    opened: list[sqlite3.Connection] = []

    def no_second_one(path: Path) -> sqlite3.Connection:
        if opened:
            raise sqlite3.OperationalError("unable to open database file")
        opened.append(connect(path))
        return opened[0]

    with pytest.raises(StorageError, match="unable to open database file"):
        SqliteStore(tmp_path, retention_rounds=2, factory=no_second_one)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        opened[0].execute("SELECT 1")
    store = SqliteStore(tmp_path, retention_rounds=2)
    with pytest.raises(FencedError, match="held by another server"):
        SqliteStore(tmp_path, retention_rounds=2)
    store.close()


def test_a_new_database_is_durable_when_the_store_is_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = watch_order(monkeypatch)
    SqliteStore(tmp_path, retention_rounds=2).close()
    rename = steps.index("rename edgefl.db.new edgefl.db")
    assert steps[rename + 1] == f"sync {tmp_path.name}"


def test_the_log_of_a_killed_server_is_written_anew_and_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the sync an fsync error of the last server could still take what it acknowledged (``rewrite_log``)."""
    killed, copy = SqliteStore(tmp_path / "data", retention_rounds=2), tmp_path / "copy"
    killed.apply([SaveTask(task())])
    copy.mkdir()
    for name in ("edgefl.db", "edgefl.db-wal"):
        (copy / name).write_bytes((tmp_path / "data" / name).read_bytes())
    killed.close()
    steps = watch_order(monkeypatch)
    SqliteStore(copy, retention_rounds=2).close()
    own = [step for step in steps if step.endswith("-wal")]
    assert own == ["write edgefl.db-wal", "sync edgefl.db-wal"]


def test_a_store_waits_for_a_lock_that_somebody_holds_for_a_moment(tmp_path: Path) -> None:
    """A person's shell, a backup: the server must not end at the first statement that finds it there."""
    connections: list[sqlite3.Connection] = []

    def noting(path: Path) -> sqlite3.Connection:
        connections.append(connect(path))
        return connections[-1]

    store = SqliteStore(tmp_path, retention_rounds=2, factory=noting)
    waits = [connection.execute("PRAGMA busy_timeout").fetchone()[0] for connection in connections[1:]]
    assert waits == [1000 * sqlite_file.BUSY_TIMEOUT_S] * 2
    assert sqlite_file.BUSY_TIMEOUT_S >= 5
    store.close()
