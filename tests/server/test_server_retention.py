"""What a database forgets: never what a promise needs, and enough that its size has a bound."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import sqlite3
from pathlib import Path
from typing import Any

import grpc
import pytest
from server_kit import OPERATOR, Caller, definition, run, served, server_config, update_for
from test_server_replay import replay_digest
from test_server_store import one_round, selection, task, update

from edgefl.errors import ConfigError
from edgefl.proto.v1 import control_pb2
from edgefl.protocol.events import SaveAbandon, SaveReport, SaveSelection, SaveTask
from edgefl.protocol.messages import Accepted, Late
from edgefl_server.check import check
from edgefl_server.config import ServerConfig
from edgefl_server.sqlite_store import SqliteStore

EVALUATION = """
name = "eval"
kind = "evaluation"
population = "lab"
evaluates = "train"
rounds = 2

[round]
goal = 1
minimum = 1
selection_s = 30.0
deadline_s = 600.0
"""


async def rounds_of(caller: Caller, first: int, last: int, digests: dict[int, str] | None = None) -> None:
    for number in range(first, last + 1):
        job = await caller.assignment("a")
        await caller.report("a", update_for(job, "a"))
        await caller.ended(number)
        if digests is not None:
            digests[number] = (await caller.models())[-1]


def rows(folder: Path, sql: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(folder / "data" / "edgefl.db")) as db:
        return db.execute(sql).fetchall()


def kept(folder: Path, task: str = "train") -> list[int]:
    return [version for (version,) in rows(folder, f"SELECT version FROM states WHERE kept AND task = '{task}'")]


def test_checkpoints_are_kept_and_every_version_in_the_window_is_computed_from_them(tmp_path: Path) -> None:
    digests: dict[int, str] = {}

    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=1, rounds=20))
        await rounds_of(caller, 1, 13, digests)
        request = control_pb2.ExportModelRequest(task="train", version=11)
        with pytest.raises(grpc.aio.AioRpcError, match="not kept; `edgefl-server replay`"):
            await caller.control.ExportModel(request, metadata=OPERATOR).read()

    run(tmp_path, body, retention_rounds=8, checkpoint_every=4)
    # Rounds 6 to 13 are promised; the checkpoint before them is version 4; 13 is the last.
    assert kept(tmp_path) == [4, 8, 12, 13]
    assert rows(tmp_path, "SELECT count(*) FROM content") == [(4,)]
    verdict = check(tmp_path / "data")
    assert (verdict.findings, verdict.recomputed) == ((), 9)
    for version in range(5, 14):
        assert replay_digest(tmp_path, version) == digests[version]


def test_rounds_that_are_abandoned_for_long_are_forgotten_too(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with contextlib.closing(SqliteStore(data, retention_rounds=2, checkpoint_every=100)) as store:
        store.load()
        store.apply([SaveTask(task()), *one_round(1, 1)])
        for number in range(2, 12):
            store.apply([SaveSelection(dataclasses.replace(selection(number), base_version=1))])
            store.apply([SaveReport(2 * number, "a", update(number)), SaveAbandon("train", number, "too few")])
    assert rows(tmp_path, "SELECT min(round) FROM reports JOIN payloads USING (sequence)") == [(10,)]
    assert kept(tmp_path) == [1]


def test_a_checkpoint_that_does_not_fit_is_found(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=1, rounds=20))
        await rounds_of(caller, 1, 9)

    run(tmp_path, body, retention_rounds=9, checkpoint_every=4)
    assert kept(tmp_path) == [0, 4, 8, 9]
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "edgefl.db")) as db, db:
        db.execute("UPDATE reports SET weight = weight + 1, counted = 0 WHERE round = 6")
    found = [str(finding) for finding in check(tmp_path / "data").findings]
    assert any("version 6" in line for line in found)
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "edgefl.db")) as db, db:
        db.execute("UPDATE states SET kept = 0 WHERE version = 9")
    assert any("the last, is not kept" in str(finding) for finding in check(tmp_path / "data").findings)


def test_a_model_waits_for_the_evaluation_that_has_to_read_it(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=1, rounds=20))
        await caller.create(EVALUATION)
        await caller.operate("PauseTask", control_pb2.TaskRequest(name="eval"))
        await rounds_of(caller, 1, 6)
        assert kept(tmp_path) == [1, 2, 3, 4, 5, 6]
        await caller.operate("EndTask", control_pb2.TaskRequest(name="eval"))
        await rounds_of(caller, 7, 7)
        assert kept(tmp_path) == [5, 6, 7]

    run(tmp_path, body, retention_rounds=2)
    assert check(tmp_path / "data").findings == ()


def test_models_wait_for_evaluations_over_a_restart(tmp_path: Path) -> None:
    async def first(caller: Caller) -> None:
        await caller.create(definition(goal=1, rounds=20))
        await caller.create(EVALUATION)
        await caller.operate("PauseTask", control_pb2.TaskRequest(name="eval"))
        await rounds_of(caller, 1, 3)

    run(tmp_path, first, retention_rounds=1)
    run(tmp_path, lambda caller: rounds_of(caller, 4, 5), retention_rounds=1)
    assert kept(tmp_path) == [1, 2, 3, 4, 5]


def test_rounds_beyond_history_leave_nothing_and_sequences_still_grow(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=1, rounds=40))
        await rounds_of(caller, 1, 10)
        late = update_for(await caller.assignment("a"), "a", round_num=3)
        assert isinstance(await caller.report("a", late), Late)  # its key is forgotten, its round has ended
        await caller.report("a", update_for(await caller.assignment("a"), "a"))

    run(tmp_path, body, retention_rounds=2, history_rounds=4)
    for table in ("rounds", "reports"):
        assert [n for (n,) in rows(tmp_path, f"SELECT round FROM {table} ORDER BY round")] == [8, 9, 10, 11]
    assert rows(tmp_path, "SELECT min(version), max(version), count(*) FROM states") == [(8, 11, 4)]
    assert check(tmp_path / "data").findings == ()
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "edgefl.db")) as db, db:
        db.execute("DELETE FROM payloads")
        db.execute("DELETE FROM reports")  # as a task of failures alone would leave it

    async def again(caller: Caller) -> None:
        receipt = await caller.report("a", update_for(await caller.assignment("a"), "a"))
        assert isinstance(receipt, Accepted)
        assert receipt.sequence > 7  # the highest that was forgotten

    run(tmp_path, again, retention_rounds=2, history_rounds=4)


def test_the_size_is_bounded_by_the_limits(tmp_path: Path) -> None:
    sizes: dict[int, int] = {}

    async def main() -> None:
        config = server_config(tmp_path, retention_rounds=4, checkpoint_every=2, history_rounds=8, gather_window_ms=0.0)
        async with served(config) as caller, asyncio.timeout(60):
            await caller.create(definition(goal=2, rounds=200, features=3000))
            for number in range(1, 61):
                await caller.run_round(("a", "b"))
                await caller.ended(number)
                if number in (10, 60):
                    sizes[number] = pages(tmp_path)

    asyncio.run(main())
    assert sizes[60] <= sizes[10] + 2, sizes
    assert check(tmp_path / "data").findings == ()


def pages(folder: Path) -> int:
    """Pages of the database, those in its log included."""
    ((count,),) = rows(folder, "PRAGMA page_count")
    return int(count)


@pytest.mark.parametrize("key", ["checkpoint_every", "history_rounds"])
def test_limits_that_cannot_be_are_refused(tmp_path: Path, key: str) -> None:
    with pytest.raises(ConfigError, match=f"{key} is 0; expected"):
        ServerConfig(tmp_path, insecure=True, **{key: 0})
    with pytest.raises(ConfigError, match="history_rounds is 5; expected 100"):
        ServerConfig(tmp_path, insecure=True, history_rounds=5)
