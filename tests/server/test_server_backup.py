"""Backups: made while the server runs, one moment of its database, whole before they have their name."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from pathlib import Path

import pytest
from order_kit import watch_order
from server_kit import Caller, definition, run

from edgefl.errors import ConflictError, NotFoundError, StorageError
from edgefl_server.sqlite_backup import back_up
from edgefl_server.sqlite_store import SqliteStore


def test_a_backup_of_a_running_server_opens_as_its_database(tmp_path: Path) -> None:
    copy = tmp_path / "copy" / "edgefl.db"
    copy.parent.mkdir()
    models: list[str] = []

    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=1, rounds=5))
        await caller.run_round(("a",))
        models.extend(await caller.models())
        assert await asyncio.to_thread(back_up, tmp_path / "data", copy) == copy.stat().st_size
        await caller.run_round(("a",))
        assert len(await caller.models()) == 3  # the server went on

    run(tmp_path, body)
    assert [path.name for path in copy.parent.iterdir()] == ["edgefl.db"]
    assert copy.stat().st_mode & 0o777 == 0o600
    with contextlib.closing(SqliteStore(copy.parent, retention_rounds=2)) as store:
        assert [model.sha256 for model in store.models("train")] == models
        assert store.find_accepted("train", 1, "a") == 1


def test_a_backup_is_durable_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A power cut after the answer must not take the backup, and one before it must not leave a part of one."""
    SqliteStore(tmp_path / "data", retention_rounds=2).close()
    (tmp_path / "copies").mkdir()
    steps = watch_order(monkeypatch)
    back_up(tmp_path / "data", tmp_path / "copies" / "monday.db")
    assert steps == ["sync monday.db.new", "link monday.db.new monday.db", "sync copies"]


def test_a_backup_replaces_no_file(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "data", retention_rounds=2).close()
    (tmp_path / "copy").write_text("precious")
    with pytest.raises(ConflictError, match="exists"):
        back_up(tmp_path / "data", tmp_path / "copy")
    assert (tmp_path / "copy").read_text() == "precious"


def test_what_cannot_be_backed_up_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="data_dir"):
        back_up(tmp_path / "data", tmp_path / "copy")
    (tmp_path / "data").mkdir()
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "edgefl.db")) as db:
        db.execute("CREATE TABLE notes (text)")
    with pytest.raises(StorageError, match="application id"):
        back_up(tmp_path / "data", tmp_path / "copy")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]
