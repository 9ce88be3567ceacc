"""What the command ``edgefl`` prints and writes: tables, JSON lines, files whole or not at all."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from edgefl.cli.output import print_json, print_table
from edgefl.errors import StorageError
from edgefl.files import write_file


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
