"""Pieces of sentences: near names and spans of time, and every command that uses them on a wrong name."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from server_kit import Caller, definition, run

from edgefl.cli.main import main
from edgefl.errors import NotFoundError
from edgefl.proto.v1 import control_pb2
from edgefl.wording import name_hint, span


@pytest.mark.parametrize(
    ("name", "known", "hint"),
    [
        ("wlak", ["walk", "gestures"], "; did you mean 'walk'?"),
        ("x", ["walk", "gestures"], "; expected one of gestures, walk"),
        ("x", [], "; there is none yet"),
        ("x", [f"n{n:02d}" for n in range(12)], "; expected one of " + ", ".join(f"n{n:02d}" for n in range(10))),
    ],
)
def test_a_wrong_name_is_answered_by_the_near_one_or_by_those_that_exist(
    name: str, known: list[str], hint: str
) -> None:
    assert name_hint(name, known).removesuffix(" and 2 others") == hint


def test_a_span_has_one_unit_that_fits() -> None:
    spans = [(-1, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h"), (86_400, "24 h")]
    assert [span(seconds) for seconds, _ in spans] == [text for _, text in spans]
    assert span(2 * 86_400) == "2 days"


def test_every_command_suggests_the_near_task(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    commands = [
        ["rounds", "wlak"],
        ["task", "pause", "wlak"],
        ["task", "end", "wlak"],
        ["models", "list", "wlak"],
        ["models", "export", "wlak", str(tmp_path / "x.tflite")],
        ["release", "create", "r", "wlak"],
        ["statistics", "wlak"],
    ]

    async def body(caller: Caller) -> None:
        await caller.create(definition("walk"))
        for command in commands:
            status = await asyncio.to_thread(main, ["--insecure", "--server", caller.address, *command])
            assert status == NotFoundError.exit_code, command
            assert capsys.readouterr().err == "edgefl: error: no task 'wlak'; did you mean 'walk'?\n", command
        with pytest.raises(NotFoundError, match="'walk'"):
            await caller.operate("ListModels", control_pb2.TaskRequest(name="wlak"))

    run(tmp_path, body)
