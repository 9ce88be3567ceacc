"""`edgefl-server restore`: an old backup, and devices that are ahead of it."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from order_kit import watch_order
from server_kit import Caller, definition, run, update_for

from edgefl.errors import ConflictError, FencedError, NotFoundError, StorageError
from edgefl.proto.v1 import control_pb2
from edgefl.protocol.messages import Accepted, AlreadyAccepted, Fate, Late
from edgefl_server.check import check
from edgefl_server.main import main
from edgefl_server.sqlite_backup import back_up
from edgefl_server.sqlite_restore import AHEAD, REASON, restore
from edgefl_server.sqlite_store import SqliteStore

YEAR_2026 = 1.79e9
RELEASE = control_pb2.CreateReleaseRequest(
    name="gestures", task="train", format=control_pb2.MODEL_FORMAT_TFLITE_FLOAT32
)


def backed_up(folder: Path, *, ahead: bool = True) -> Path:
    """A backup of a server in the middle of round 2, which then went on to round 3 and its second release."""
    copy = folder / "monday.db"

    async def body(caller: Caller) -> None:
        await caller.create(definition(rounds=9))
        await caller.run_round(("a", "b"))
        await caller.operate("CreateRelease", RELEASE)
        jobs = await asyncio.gather(caller.assignment("a"), caller.assignment("b"))
        await caller.report("a", update_for(jobs[0], "a"))
        await asyncio.to_thread(back_up, folder / "data", copy)
        if ahead:
            await caller.report("b", update_for(jobs[1], "b"))
            await caller.operate("CreateRelease", RELEASE)
            await caller.run_round(("a", "b"))

    run(folder, body)
    return copy


def restored(folder: Path, backup: Path, now_s: float = YEAR_2026) -> Any:
    return restore(folder / "data", backup, clock=lambda: now_s)


def rows(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(folder / "data" / "edgefl.db")) as db:
        return db.execute(sql).fetchall()


def test_devices_that_are_ahead_of_a_backup_lose_no_promise(tmp_path: Path) -> None:
    backup = backed_up(tmp_path)
    epoch = rows(tmp_path, "SELECT epoch FROM server")[0][0]
    done = restored(tmp_path, backup)
    assert done.lost_reports == 3  # of b in round 2, of both in round 3
    assert check(tmp_path / "data").findings == ()
    assert rows(tmp_path, "SELECT epoch FROM server")[0][0] > epoch

    async def body(caller: Caller) -> None:
        # Whoever asks after a round of the server that is lost hears that it does not count.
        for device, lost, fate in (("a", 2, Fate.NOT_COUNTED), ("b", 3, Fate.NOT_COUNTED), ("a", 1, Fate.COUNTED)):
            answer = await caller.check_in(device, last_task="train", last_round=lost, population="nobody")
            assert answer.last_fate is fate
        # An outbox of a round that the backup did not know is answered, and counts for nothing.
        job = (await asyncio.gather(caller.assignment("a"), caller.assignment("b")))[0]
        assert isinstance(await caller.report("a", update_for(job, "a", round_num=3)), Late)
        # New rounds and releases have numbers that no device has seen.
        assert job.round_num == int(YEAR_2026)
        receipt = await caller.report("a", update_for(job, "a"))
        assert isinstance(receipt, Accepted)
        assert receipt.sequence > int(YEAR_2026)
        assert isinstance(await caller.report("a", update_for(job, "a")), AlreadyAccepted)
        await caller.report("b", update_for(job, "b"))
        await caller.ended(job.round_num)
        made = await caller.operate("CreateRelease", RELEASE)
        assert made.release.version == int(YEAR_2026) + 1

    run(tmp_path, body)
    assert rows(tmp_path, "SELECT round, phase, reason FROM rounds WHERE round = 2") == [(2, "abandoned", REASON)]
    verdict = check(tmp_path / "data")
    assert (verdict.findings, verdict.recomputed) == ((), 2)


def test_without_a_clock_numbers_still_go_beyond_what_either_database_knows(tmp_path: Path) -> None:
    backup = backed_up(tmp_path)
    restored(tmp_path, backup, now_s=0.0)
    assert rows(tmp_path, "SELECT from_round, to_round FROM jumps") == [(3, 4 + AHEAD)]
    assert rows(tmp_path, "SELECT release_floor, sequence_floor FROM server") == [(2 + AHEAD, 6 + AHEAD)]
    (tmp_path / "data" / "edgefl.db.replaced").unlink()
    restored(tmp_path, backup, now_s=0.0)  # the same backup again: beyond what the first restore gave
    assert rows(tmp_path, "SELECT release_floor, sequence_floor FROM server") == [(2 + 2 * AHEAD, 6 + 2 * AHEAD)]
    assert rows(tmp_path, "SELECT next_round FROM tasks") == [(4 + 2 * AHEAD,)]


def test_a_power_cut_leaves_the_old_database_or_the_restored_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under its name there is always a whole one, and the restored one is durable when the command says so."""
    backup = backed_up(tmp_path)
    steps = watch_order(monkeypatch)
    restored(tmp_path, backup)
    assert [step for step in steps if step != "write edgefl.lock"] == [
        "sync edgefl.db.restored",
        "link edgefl.db edgefl.db.replaced",
        "rename edgefl.db.restored edgefl.db",
        "sync data",
    ]


def test_the_replaced_database_is_kept_whole(tmp_path: Path) -> None:
    backup = backed_up(tmp_path)
    before = list(_dump(tmp_path / "data" / "edgefl.db"))
    done = restored(tmp_path, backup)
    assert list(_dump(done.replaced)) == before
    assert sorted(p.name for p in (tmp_path / "data").iterdir() if p.is_file()) == [
        "edgefl.db",
        "edgefl.db.replaced",
        "edgefl.lock",
    ]
    with pytest.raises(ConflictError, match="move it away first"):
        restored(tmp_path, backup)


def _dump(path: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(path)) as db:
        return list(db.iterdump())


def test_a_damaged_database_is_replaced(tmp_path: Path) -> None:
    backup = backed_up(tmp_path)
    (tmp_path / "data" / "edgefl.db").write_bytes(b"not a database" * 1000)
    done = restored(tmp_path, backup)
    assert done.lost_reports is None
    assert check(tmp_path / "data").findings == ()
    assert done.replaced.read_bytes().startswith(b"not a database")


def test_an_empty_machine_takes_a_backup(tmp_path: Path) -> None:
    backup = backed_up(tmp_path, ahead=False)
    done = restored(tmp_path / "new", backup)
    assert (done.replaced, done.lost_reports) == (None, 0)
    run(tmp_path / "new", lambda caller: _one_more(caller))


async def _one_more(caller: Caller) -> None:
    job = await caller.run_round(("a", "b"))
    assert (await caller.ended(job.round_num)).phase == control_pb2.ROUND_PHASE_COMMITTED


def test_what_cannot_be_restored_changes_nothing(tmp_path: Path) -> None:
    backup = backed_up(tmp_path)
    before = _dump(tmp_path / "data" / "edgefl.db")
    with pytest.raises(NotFoundError, match="no backup"):
        restored(tmp_path, tmp_path / "tuesday.db")
    (tmp_path / "text").write_text("hello")
    with pytest.raises(StorageError, match="not an EdgeFL database"):
        restored(tmp_path, tmp_path / "text")
    torn = tmp_path / "torn.db"
    torn.write_bytes(backup.read_bytes()[:-20_000])
    with pytest.raises(StorageError):
        restored(tmp_path, torn)
    newer = tmp_path / "newer.db"
    newer.write_bytes(backup.read_bytes())
    with contextlib.closing(sqlite3.connect(newer)) as db, db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(StorageError, match="schema version 99"):
        restored(tmp_path, newer)
    with contextlib.closing(SqliteStore(tmp_path / "data", retention_rounds=2)), pytest.raises(FencedError):
        restored(tmp_path, backup)
    assert _dump(tmp_path / "data" / "edgefl.db")[1:] != []
    assert [line for line in _dump(tmp_path / "data" / "edgefl.db") if 'INTO "server"' not in line] == [
        line
        for line in before
        if 'INTO "server"' not in line  # the epoch of the server that held it
    ]


def test_the_command_says_what_it_did(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    backup = backed_up(tmp_path)
    (tmp_path / "server.toml").write_text('data_dir = "data"\n')
    assert main(["restore", "--config", str(tmp_path / "server.toml"), str(backup)]) == 0
    out = capsys.readouterr().out
    assert "restored from" in out
    assert "holds 3 reports more; it is kept as" in out
