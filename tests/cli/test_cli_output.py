"""What the command ``edgefl`` prints and writes: tables, JSON lines, files whole or not at all."""

from __future__ import annotations

import asyncio
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from server_kit import Caller, definition, run
from simulate_kit import TASKS, argv, write_files

from edgefl.cli.main import main
from edgefl.cli.rounds import as_dict
from edgefl.console.output import print_json, print_table
from edgefl.errors import StorageError
from edgefl.files import write_file
from edgefl.protocol.events import Phase, RoundSummary
from edgefl.protocol.process import RoundMetrics


def test_a_table_is_whole_where_no_terminal_is(capsys: pytest.CaptureFixture[str]) -> None:
    digest = "0123456789abcdef" * 4
    print_table(("NAME", "", "SHA-256"), [("shoulder-release", 1, digest), ("b", 22, digest)] * 3, "nothing")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["NAME", "SHA-256"]
    assert [line.split() for line in lines[1:3]] == [["shoulder-release", "1", digest], ["b", "22", digest]]
    assert len(lines) == 7


def test_a_cell_from_a_device_is_shown_and_not_obeyed(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A", "B"), [("[/foo] [red]x[/red] :smile:", "a\x1b[2Jb\nc")], "nothing")
    out = capsys.readouterr().out
    assert "[/foo] [red]x[/red] :smile:" in out
    assert "\x1b" not in out
    assert out.count("\n") == 2


def test_a_table_of_no_rows_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("A",), iter(()), "nothing yet")
    assert capsys.readouterr().out == "nothing yet\n"


def test_json_is_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"b": 1, "a": "x\ny"})
    print_json({"c": 0.1})
    lines = capsys.readouterr().out.splitlines()
    assert [json.loads(line) for line in lines] == [{"a": "x\ny", "b": 1}, {"c": 0.1}]
    assert lines[0].startswith('{"a"')


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "model.tflite"
    write_file(path, b"first")
    write_file(path, b"second")
    assert path.read_bytes() == b"second"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_a_file_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"old")
    for path in (tmp_path / "folder", tmp_path / "file" / "below", tmp_path / ("x" * 300)):
        with pytest.raises(StorageError, match=r": cannot be written: \w| is a folder; expected a file"):
            write_file(path, b"data")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]
    assert list((tmp_path / "folder").iterdir()) == []
    assert (tmp_path / "file").read_bytes() == b"old"


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.tflite"
    write_file(path, b"old")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_file(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


# ------------------------------------------------------------------------------------------------ numbers in JSON


def texts_of_numbers(value: Any, where: str = "") -> list[str]:
    """Where a number stands as a text."""
    if isinstance(value, dict):
        return [found for key, item in value.items() for found in texts_of_numbers(item, f"{where}.{key}")]
    if isinstance(value, list):
        return [found for item in value for found in texts_of_numbers(item, where)]
    if not isinstance(value, str) or where.endswith("sha256"):
        return []
    return [f"{where}: {value!r}"] if value == "" or re.fullmatch(r"[-+]?\d[\d,]*(\.\d+)?(e[-+]?\d+)?%?", value) else []


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[dict[str, Any]]:
    assert main([*arguments, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [found for row in rows for found in texts_of_numbers(row)] == []
    return rows


def test_numbers_of_simulations_are_numbers_and_statistics_have_no_accuracy(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files = write_files(tmp_path)
    text = TASKS["spreads"].replace("statistics = { feature_bound = 8.0 }", "")
    (files / "spreads.toml").write_text(f"{text}\n[statistics]\nfeature_bound = 8.0\nbins = 4\nextremes = true\n")
    command = argv(files)[: -len(["--faults", "file"])]
    rows = printed(
        capsys, *command, "--set", "rounds=2", "--out", str(tmp_path / "out"), "--log", str(tmp_path / "log")
    )
    ended = {row["task"]: row for row in rows if "round" not in row and "feature" not in row}
    assert [sorted(row) for row in ended.values()] == [
        ["task", "version"],
        ["accuracy", "model_sha256", "task", "tflite_sha256", "version"],
        ["accuracy", "classes", "confusion", "per_class", "task", "version"],
    ]
    last = [row for row in rows if row.get("round") == 2]
    assert {row["task"]: row.get("accuracy") for row in last} == {
        name: row.get("accuracy") for name, row in ended.items()
    }
    assert [row for row in rows if row["task"] == "spreads" and {"accuracy", "loss"} & row.keys()] == []
    lines = (tmp_path / "log" / "rounds.csv").read_text().splitlines()
    assert {tuple(line.split(",")[5:7]) for line in lines if line.startswith("spreads")} == {("", "")}
    printed(capsys, *argv(files), "--runs", "2", "--set", "rounds=2")
    assert main([*command, "--set", "rounds=2"]) == 0
    table = capsys.readouterr().out.split("TASK")[-1].splitlines()
    assert table[1].split() == ["spreads", "2"]
    assert table[2].split()[2] == f"{ended['gestures']['accuracy']:.4f}"


def test_a_model_that_is_sure_of_every_answer_has_an_accuracy() -> None:
    sure = RoundSummary("t", 1, Phase.COMMITTED, 1, 1, 1, 0, 1, RoundMetrics(1, 4, 4, 4, 0.0))
    sums = RoundSummary("s", 1, Phase.COMMITTED, 1, 1, 1, 0, 1, RoundMetrics(1, 4, 4, 0, 0.0))
    assert as_dict(sure)["accuracy"] == 1.0
    assert "accuracy" not in as_dict(sums)


def test_numbers_of_a_server_are_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=1, rounds=2))
        await caller.run_round(("a",))
        await caller.run_round(("a",))

        def ask(*arguments: str) -> list[dict[str, Any]]:
            return printed(capsys, "--insecure", "--server", caller.address, *arguments)

        rounds = await asyncio.to_thread(ask, "rounds", "train", "--no-follow")
        assert [(row["version"], row["accuracy"]) for row in rounds] == [(1, 5 / 11), (2, 5 / 11)]
        for command in (["task", "list"], ["devices"], ["answers"], ["models", "list", "train"]):
            assert await asyncio.to_thread(ask, *command)
        (release,) = await asyncio.to_thread(ask, "release", "create", "watch", "train")
        assert isinstance(release["max_abs_diff"], float)
        (listed,) = await asyncio.to_thread(ask, "release", "list")
        assert release == {**listed, "max_abs_diff": release["max_abs_diff"]}  # which the server does not keep

    run(tmp_path, body)
