"""The store's contract: what every implementation of ``edgefl_server.store.Store`` must do, and what SQLite's adds."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server_kit import definition

from edgefl.errors import FencedError, NotFoundError, StorageError
from edgefl.protocol.events import (
    DeviceRecord,
    Persist,
    Phase,
    ReleaseRecord,
    RoundRecord,
    RoundSummary,
    SaveAbandon,
    SaveCommit,
    SaveDevice,
    SaveFailure,
    SaveRelease,
    SaveReport,
    SaveSelection,
    SaveTask,
    SaveTaskStatus,
    TaskRecord,
    TaskStatus,
)
from edgefl.protocol.messages import ClientUpdate, Fate, ReleaseInfo, WorkFailure
from edgefl.protocol.process import Gains, ProcessState, RoundMetrics
from edgefl.protocol.task import parse_task
from edgefl_server import sqlite_file
from edgefl_server.schema import MIGRATIONS
from edgefl_server.sqlite_file import PAGE_BYTES, connect, migrate
from edgefl_server.sqlite_store import SqliteStore
from edgefl_server.store import Store

Opener = Callable[[], Store]
METRICS = RoundMetrics(2, 20, 20, 13, 0.1 + 0.2, (1, 2, 3, 4), Gains(11, 2, 0, 0.1 + 0.3))


@pytest.fixture(params=["sqlite"])
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens the same store again and again, closing the one before: each implementation is one parameter."""
    assert request.param == "sqlite"
    opened: list[Store] = []

    def reopen() -> Store:
        for store in opened:
            store.close()
        opened.append(SqliteStore(tmp_path / "data", retention_rounds=2))
        return opened[-1]

    yield reopen
    for store in opened:
        store.close()


def task(name: str = "train", version: int = 0, model: bytes = b"model-0", text: str = "") -> TaskRecord:
    text = text or definition(name)
    return TaskRecord(parse_task(text, name), text, TaskStatus.RUNNING, ProcessState(version, model, b"extra-0"), 1)


def selection(round_num: int = 1, cohort: tuple[str, ...] = ("a", "b")) -> RoundRecord:
    return RoundRecord("train", round_num, (*cohort, "z"), cohort, round_num - 1, 60.5)


def update(round_num: int = 1, payload: bytes = b"\x00\xff payload") -> ClientUpdate:
    return ClientUpdate("train", round_num, "ab" * 32, "float32", payload, 2**31, 10, 7, -(2**40), attempt=3)


def commit(round_num: int, *counted: str, status: TaskStatus = TaskStatus.RUNNING) -> SaveCommit:
    model = f"model-{round_num}".encode()
    state = ProcessState(round_num, model, f"extra-{round_num}".encode())
    return SaveCommit("train", round_num, counted, state, METRICS, status, (0.5, 0.25, 0.25, 0.0))


def one_round(round_num: int, sequence: int) -> list[Persist]:
    return [
        SaveSelection(selection(round_num)),
        SaveReport(sequence, "a", update(round_num)),
        SaveReport(sequence + 1, "b", update(round_num)),
        commit(round_num, "a", "b"),
    ]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# ------------------------------------------------------------------------------------------------ the contract


def test_empty_store_gives_an_empty_snapshot(opener: Opener) -> None:
    snapshot = opener().load()
    assert (snapshot.tasks, snapshot.rounds, snapshot.next_sequence) == ((), (), 1)


def test_everything_comes_back_as_it_was_saved(opener: Opener) -> None:
    store = opener()
    device = DeviceRecord("a", "lab", "0.1", 5, 100, 20, suspect=True)
    release = ReleaseRecord(ReleaseInfo("r", 1, digest(b"file"), 4), "lab", "train", 0)
    failure = WorkFailure("train", 1, "DataError", "no examples")
    effects: list[Persist] = [
        SaveTask(task()),
        SaveTask(task("alpha")),
        SaveSelection(selection()),
        SaveReport(9, "b", update()),
        SaveFailure("a", failure),
        SaveDevice(dataclasses.replace(device, session=4)),
        SaveDevice(device),
        SaveRelease(release),
    ]
    store.apply(effects, [b"file"])
    again = opener()
    snapshot = again.load()
    assert snapshot.tasks == (task(), task("alpha"))  # in the order of creation
    expected = dataclasses.replace(selection(), accepted=((9, "b", update()),), failed=("a",))
    assert snapshot.rounds == (expected,)
    assert snapshot.devices == (device,)
    assert snapshot.releases == (release,)
    assert snapshot.next_sequence == 10
    assert again.content(digest(b"file")) == b"file"
    assert again.content(digest(b"model-0")) == b"model-0"


def test_a_commit_ends_the_round_and_makes_one_version(opener: Opener) -> None:
    store = opener()
    store.apply([SaveTask(task()), *one_round(1, 1)])
    snapshot = opener().load()
    assert snapshot.rounds == ()
    state = ProcessState(1, b"model-1", b"extra-1")
    assert snapshot.tasks == (dataclasses.replace(task(), state=state, next_round=2),)
    store = opener()
    assert [(m.version, m.sha256, m.size_bytes) for m in store.models("train")] == [
        (0, digest(b"model-0"), 7),
        (1, digest(b"model-1"), 7),
    ]
    assert store.model("train", 1) == b"model-1"
    assert store.ended_rounds("train", 0, 10) == (
        RoundSummary("train", 1, Phase.COMMITTED, 2, 2, 2, 0, 1, METRICS, "", (0.5, 0.25, 0.25, 0.0)),
    )


def test_fates_follow_the_round(opener: Opener) -> None:
    store = opener()
    store.apply([SaveTask(task()), SaveSelection(selection()), SaveReport(1, "a", update())])
    assert store.fate("train", 1, "a") is Fate.OPEN
    store.apply([SaveReport(2, "b", update()), commit(1, "a")])
    assert store.fate("train", 1, "a") is Fate.COUNTED
    assert store.fate("train", 1, "b") is Fate.NOT_COUNTED
    assert store.fate("train", 1, "stranger") is Fate.OPEN
    store.apply([SaveSelection(selection(2)), SaveReport(3, "a", update(2)), SaveAbandon("train", 2, "too few")])
    assert store.fate("train", 2, "a") is Fate.NOT_COUNTED


def test_an_abandoned_round_keeps_the_model_and_consumes_its_number(opener: Opener) -> None:
    store = opener()
    store.apply([SaveTask(task()), SaveSelection(selection()), SaveAbandon("train", 1, "too few reports")])
    (restored,) = opener().load().tasks
    assert (restored.next_round, restored.state) == (2, task().state)
    (summary,) = opener().ended_rounds("train", 1, 10)
    assert (summary.phase, summary.reason, summary.version) == (Phase.ABANDONED, "too few reports", 0)


def test_accepted_reports_are_found_by_key(opener: Opener) -> None:
    store = opener()
    store.apply([SaveTask(task()), SaveSelection(selection()), SaveReport(7, "a", update())])
    assert store.find_accepted("train", 1, "a") == 7
    assert store.find_accepted("train", 1, "b") is None
    assert store.find_accepted("train", 2, "a") is None


def test_a_key_is_accepted_once_and_a_failed_transaction_leaves_nothing(opener: Opener) -> None:
    store = opener()
    store.apply([SaveTask(task()), SaveSelection(selection()), SaveReport(1, "a", update())])
    with pytest.raises(StorageError):
        store.apply([SaveReport(2, "b", update()), SaveReport(3, "a", update(payload=b"other"))])
    (restored,) = opener().load().rounds
    assert [(sequence, device) for sequence, device, _ in restored.accepted] == [(1, "a")]


def test_after_a_failed_write_nothing_more_is_written(opener: Opener) -> None:
    store = opener()
    store.apply([SaveTask(task()), SaveSelection(selection()), SaveReport(1, "a", update())])
    with pytest.raises(StorageError):
        store.apply([SaveReport(1, "b", update())])
    with pytest.raises(StorageError, match="earlier write failed"):
        store.apply([SaveReport(2, "b", update())])


def test_retention_drops_payloads_and_keeps_the_ledger(opener: Opener, tmp_path: Path) -> None:
    store = opener()
    store.apply([SaveTask(task())])
    for round_num in range(1, 5):
        store.apply(one_round(round_num, 2 * round_num))
    store.apply([SaveSelection(selection(5)), SaveAbandon("train", 5, "too few")])
    with sqlite3.connect(tmp_path / "data" / "edgefl.db") as db:
        kept = db.execute(
            "SELECT round, count(data), count(*) FROM reports LEFT JOIN payloads USING (sequence) GROUP BY round"
        ).fetchall()
        extras = db.execute("SELECT version FROM states WHERE extra IS NOT NULL ORDER BY version").fetchall()
    db.close()
    assert kept == [(1, 0, 2), (2, 0, 2), (3, 0, 2), (4, 2, 2)]  # rounds 4 and 5 are the last two
    assert extras == [(3,), (4,)]  # round 4 is computed from version 3
    assert store.find_accepted("train", 1, "a") == 2


def test_a_snapshot_holds_the_models_that_evaluations_still_need(opener: Opener) -> None:
    text = """
name = "eval"
kind = "evaluation"
population = "lab"
evaluates = "train"
rounds = 3
[round]
goal = 1
minimum = 1
"""
    store = opener()
    store.apply([SaveTask(task()), *one_round(1, 1), *one_round(2, 3), *one_round(3, 5)])
    evaluation = task("eval", version=1, model=b"", text=text)
    store.apply([SaveTask(evaluation)])
    assert opener().load().models == {("train", 2): b"model-2", ("train", 3): b"model-3"}
    opener().apply([SaveTaskStatus("eval", TaskStatus.ENDED)])
    assert opener().load().models == {}


def test_a_task_without_a_model_has_no_models(opener: Opener) -> None:
    store = opener()
    store.apply([SaveTask(task(model=b""))])
    assert store.models("train") == ()
    assert opener().load().tasks[0].state.model == b""
    with pytest.raises(NotFoundError):
        opener().model("train", 0)


def test_unknown_content_is_not_found(opener: Opener) -> None:
    with pytest.raises(NotFoundError):
        opener().content("00" * 32)


# ------------------------------------------------------------------------------------------------ fencing


def test_a_second_server_on_one_data_dir_is_fenced_off(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path, retention_rounds=2)
    with pytest.raises(FencedError, match=f"process {os.getpid()}.*stop it first"):
        SqliteStore(tmp_path, retention_rounds=2)
    first.close()
    SqliteStore(tmp_path, retention_rounds=2).close()


def test_i5_a_stale_epoch_writes_nothing(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, retention_rounds=2)
    store.apply([SaveTask(task())])
    other = sqlite3.connect(store.path)  # a server on a file system whose locks do not work
    other.execute("UPDATE server SET epoch = epoch + 1")
    other.commit()
    with pytest.raises(FencedError, match="another server took it over"):
        store.apply([SaveTask(task("second"))])
    assert other.execute("SELECT name FROM tasks").fetchall() == [("train",)]
    other.close()
    store.close()


def test_each_opening_has_a_new_epoch(tmp_path: Path) -> None:
    epochs = []
    for _ in range(2):
        store = SqliteStore(tmp_path, retention_rounds=2)
        with sqlite3.connect(store.path) as db:
            epochs.append(db.execute("SELECT epoch FROM server").fetchone()[0])
        db.close()
        store.close()
    assert epochs[1] > epochs[0]


# ------------------------------------------------------------------------------------------------ damage


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
