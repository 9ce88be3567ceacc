"""``edgefl-server check``: a whole database has no finding, and each broken promise is one."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from server_kit import Caller, definition, run, update_for

from edgefl.errors import FencedError, VerificationError
from edgefl.protocol.messages import Assignment
from edgefl_server.check import check
from edgefl_server.main import main
from edgefl_server.sqlite_store import SqliteStore


def filled(folder: Path) -> Path:
    """The data folder of a stopped server after three rounds of two devices."""

    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=2, rounds=3))
        for _ in range(3):
            await caller.run_round(("a", "b"))

    run(folder, body)
    return folder / "data"


def test_a_whole_database_has_no_finding(tmp_path: Path) -> None:
    verdict = check(filled(tmp_path))
    assert (verdict.findings, verdict.rounds, verdict.recomputed) == ((), 3, 3)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        ("UPDATE payloads SET data = zeroblob(length(data)) WHERE sequence = 1", "is not what was accepted"),
        ("DELETE FROM payloads WHERE sequence = 1", "is missing"),
        ("UPDATE payloads SET sequence = 100 WHERE sequence = 1", "a payload without a report"),
        ("UPDATE reports SET counted = 0 WHERE sequence = 1", "counts ['"),
        ("UPDATE reports SET weight = weight + 1 WHERE sequence = 3", "version 2 computed again differs in the model"),
        ("UPDATE reports SET sequence = 100 WHERE sequence = 1", "after 100"),
        ("UPDATE rounds SET phase = 'abandoned' WHERE round = 3", "expected one of each"),
        ("UPDATE rounds SET cohort = candidates, candidates = '[]' WHERE round = 2", "its cohort"),
        ("UPDATE rounds SET accepted = 9 WHERE round = 2", "9 accepted"),
        ("UPDATE content SET data = zeroblob(length(data))", "its bytes have the digest"),
        ("DELETE FROM states WHERE version = 1", "states; expected"),
        ("UPDATE tasks SET next_round = 9", "round 9 is next"),
        ("UPDATE tasks SET pruned = 1", "older than retention"),
    ],
)
def test_each_broken_promise_is_found(tmp_path: Path, damage: str, words: str) -> None:
    data = filled(tmp_path)
    with contextlib.closing(sqlite3.connect(data / "edgefl.db")) as db, db:
        db.execute(damage)
    assert any(words in str(finding) for finding in check(data).findings)


def drawn_by_size(folder: Path) -> Path:
    """The data folder of a stopped server after a round of one of three devices, drawn by their sizes."""
    text = definition(goal=1, rounds=1).replace("[model]", 'sampling = "by_size"\ncandidates = 3\n\n[model]')

    async def body(caller: Caller) -> None:
        await caller.create(text + '\n[aggregator]\nname = "unweighted_mean"\n')
        calls = {
            asyncio.ensure_future(caller.check_in(device, num_train=size)): device
            for device, size in (("a", 20), ("b", 40), ("c", 30))
        }
        done, others = await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
        (first,) = done
        outcome = first.result().outcome
        assert isinstance(outcome, Assignment)
        await caller.report(calls[first], update_for(outcome, calls[first]))
        await asyncio.gather(*others)

    run(folder, body)
    return folder / "data"


def test_a_cohort_is_drawn_again_by_the_sizes_that_were_recorded(tmp_path: Path) -> None:
    data = drawn_by_size(tmp_path)
    assert check(data).findings == ()
    with contextlib.closing(sqlite3.connect(data / "edgefl.db")) as db:
        row = db.execute("SELECT candidates, num_examples, cohort FROM rounds").fetchone()
        candidates, num_examples, (member,) = map(json.loads, row)
        assert dict(zip(candidates, num_examples, strict=True)) == {"a": 20, "b": 40, "c": 30}
        others = [1 if device == member else 10**9 for device in candidates]
        for damage in (others, []):
            with db:
                db.execute("UPDATE rounds SET num_examples = ?", (json.dumps(damage),))
            assert "its cohort is not what its candidates and seed give" in str(check(data).findings[0])


def test_the_command_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = filled(tmp_path)
    config = tmp_path / "server.toml"
    config.write_text('data_dir = "data"\n')
    assert main(["check", "--config", str(config), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"findings": [], "rounds": 3, "recomputed": 3}
    with contextlib.closing(sqlite3.connect(data / "edgefl.db")) as db, db:
        db.execute("UPDATE tasks SET next_round = 9")
    assert main(["check", "--config", str(config)]) == VerificationError.exit_code
    with contextlib.closing(SqliteStore(data, retention_rounds=2)):
        assert main(["check", "--config", str(config)]) == FencedError.exit_code


def test_a_terminal_sees_how_far_it_is(tmp_path: Path) -> None:
    filled(tmp_path)
    config = tmp_path / "server.toml"
    config.write_text('data_dir = "data"\n')
    terminal, inside = pty.openpty()
    command = [sys.executable, "-m", "edgefl_server.main", "check", "--config", str(config)]
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "100"}
    with subprocess.Popen(command, stderr=inside, stdout=subprocess.PIPE, text=True, env=environment) as process:
        os.close(inside)
        seen = b""
        with contextlib.suppress(OSError):  # EIO: the other end has closed
            while more := os.read(terminal, 4096):
                seen += more
        assert process.stdout is not None
        assert "3 rounds checked" in process.stdout.read()
    os.close(terminal)
    assert "rounds checked" in seen.decode()
