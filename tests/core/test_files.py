"""What is written whole or not at all, and what is never read or replaced: devices, pipes, folders."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from script_kit import SCRIPT

from edgefl import learning
from edgefl.errors import ConflictError, StorageError
from edgefl.files import check_folder, used_alone, write_file
from edgefl.simulation.checkpoint_file import read_checkpoint


def test_a_pipe_is_neither_replaced_nor_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for use in (lambda: write_file(pipe, b"x"), lambda: read_checkpoint(pipe), lambda: learning.load(pipe)):
        with pytest.raises(StorageError, match="pipe is a device, a pipe or a socket; expected a file"):
            use()
    assert pipe.is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="is a folder; expected a file"):
        write_file(tmp_path, b"x")


def test_a_folder_that_cannot_be_is_said(tmp_path: Path) -> None:
    check_folder(tmp_path / "new" / "one")
    assert list((tmp_path / "new" / "one").iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="no file can be written there: File exists; choose another folder"):
        check_folder(tmp_path / "file")


@pytest.mark.skipif(not Path("/dev/full").is_char_device(), reason="needs Linux's device of a full disk")
def test_output_onto_a_full_disk_is_one_line() -> None:
    code = "import sys; from edgefl.command import run_command; sys.exit(run_command('x', lambda: print('a') or 0))"
    command = [*SCRIPT, code]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == StorageError.exit_code
    expected = "x: error: the output cannot be written: No space left on device; make room for it\n"
    assert ended.stderr == expected


def test_a_file_is_used_by_one_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "run.ckpt"
    with used_alone(path):
        with (
            pytest.raises(ConflictError, match=r"run.ckpt is in use by another run; wait for its end"),
            used_alone(path),
        ):
            pass
        write_file(path, b"x")
    (tmp_path / ".run.ckpt.lock").touch()  # as a process that was killed leaves it
    with used_alone(path):
        pass
    assert os.listdir(tmp_path) == ["run.ckpt"]
