"""``edgefl-server replay``: a version computed again has the same bits, or the command says which have not."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from pathlib import Path

import pytest
from server_kit import Caller, definition, run

from edgefl.errors import NotFoundError, VerificationError
from edgefl_server.main import main


def test_i3_a_version_is_computed_again_bit_for_bit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    digests: list[str] = []

    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=2, rounds=4))
        for _ in range(4):
            await caller.run_round(("a", "b"))
        digests.extend(await caller.models())

    run(tmp_path, body, retention_rounds=2)
    config, out = tmp_path / "server.toml", tmp_path / "weights.bin"
    config.write_text('data_dir = "data"\n')
    command = ["replay", "--config", str(config), "train"]
    for version in (3, 4):
        assert main([*command, "--version", str(version), "--out", str(out)]) == 0
        assert hashlib.sha256(out.read_bytes()).hexdigest() == digests[version]
    assert main([*command, "--version", "2"]) == NotFoundError.exit_code
    assert "out of retention" in capsys.readouterr().err
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "edgefl.db")) as db, db:
        db.execute("UPDATE reports SET weight = weight + 1 WHERE round = 4 AND device = 'a'")
    assert main(command) == VerificationError.exit_code
    assert "differs in the model" in capsys.readouterr().err
