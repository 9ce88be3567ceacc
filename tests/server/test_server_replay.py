"""``edgefl-server replay``: a version computed again has the same bits, or the command says which have not."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
import struct
import subprocess
from pathlib import Path

import pytest
from server_kit import PARAMETERS, Caller, definition, delta, run

from edgefl.console.installed import installed
from edgefl.errors import NotFoundError, VerificationError
from edgefl_server.main import main


def replay_digest(folder: Path, version: int, task: str = "train") -> str:
    """The SHA-256 of what `replay` computes for a version of ``task``."""
    (folder / "server.toml").write_text('data_dir = "data"\n')
    out = folder / "weights.bin"
    command = ["replay", "--config", str(folder / "server.toml"), task, "--version", str(version)]
    assert main([*command, "--out", str(out)]) == 0
    return hashlib.sha256(out.read_bytes()).hexdigest()


def test_i3_a_version_is_computed_again_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digests: list[str] = []

    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=2, rounds=4))
        digests.extend(await caller.models())
        for number in range(1, 5):
            await caller.run_round(("a", "b"))
            await caller.ended(number)
            digests.append((await caller.models())[-1])

    run(tmp_path, body, retention_rounds=2)
    for version in (3, 4):
        assert replay_digest(tmp_path, version) == digests[version]
    command = ["replay", "--config", str(tmp_path / "server.toml"), "train"]
    assert main([*command, "--version", "2"]) == NotFoundError.exit_code
    assert "out of retention" in capsys.readouterr().err
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "edgefl.db")) as db, db:
        db.execute("UPDATE reports SET weight = weight + 1 WHERE round = 4 AND device = 'a'")
    assert main(command) == VerificationError.exit_code
    assert "differs in the model" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["adam", "yogi", "adagrad"])
def test_a_version_of_an_adaptive_optimizer_is_computed_again_bit_for_bit(tmp_path: Path, name: str) -> None:
    table = f'\n[server_optimizer]\nname = "{name}"\nlearning_rate = 0.02\n'
    digests: list[str] = []

    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=2, rounds=3) + table)
        digests.extend(await caller.models())
        for number in range(1, 4):
            await caller.run_round(("a", "b"))
            await caller.ended(number)
            digests.append((await caller.models())[-1])

    run(tmp_path, body)
    assert [replay_digest(tmp_path, version) for version in (2, 3)] == digests[2:]
    assert len(set(digests)) == 4


def test_the_ledger_keeps_the_weights_of_an_unweighted_mean_and_it_is_computed_again(tmp_path: Path) -> None:
    table = '\n[aggregator]\nname = "unweighted_mean"\n'
    digests: list[str] = []

    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=2, rounds=1) + table)
        await caller.run_round(("a", "longer"))
        await caller.ended(1)
        digests.extend(await caller.models())

    run(tmp_path, body)
    assert replay_digest(tmp_path, 1) == digests[1]
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "edgefl.db")) as db:
        assert db.execute("SELECT device, weight FROM reports ORDER BY device").fetchall() == [
            ("a", 11),
            ("longer", 16),
        ]
    sent = [struct.unpack(f"<{PARAMETERS}f", delta(device, 1)) for device in ("a", "longer")]
    trained = struct.unpack(f"<{PARAMETERS}f", (tmp_path / "weights.bin").read_bytes())
    assert trained == pytest.approx([sum(pair) / 2 for pair in zip(*sent, strict=True)], abs=1e-7)


def test_edgefl_replay_is_the_same_command(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=1, rounds=2))
        await caller.run_round(("a",))

    run(tmp_path, body)
    (tmp_path / "server.toml").write_text('data_dir = "data"\n')
    command = [installed("edgefl"), "replay", "--config", str(tmp_path / "server.toml")]
    options = ["--version", "1", "--out", str(tmp_path / "out")]
    done = subprocess.run([*command, "train", *options], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("task train version 1: the same bits, ")
    wrong = subprocess.run([*command, "nobody"], capture_output=True, text=True, check=False)
    assert (wrong.returncode, wrong.stderr.count("\n")) == (NotFoundError.exit_code, 1)
    assert (tmp_path / "out").stat().st_size == 32
