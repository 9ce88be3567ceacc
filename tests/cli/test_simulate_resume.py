"""``edgefl simulate --checkpoint``: a process that is killed, and the same command again, from the command line."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from simulate_kit import TASKS, write_files
from test_runlog import table

from edgefl.cli.main import main
from edgefl.errors import ConfigError, ConflictError, StorageError

EDGEFL = str(Path(sys.executable).with_name("edgefl"))


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("resume"))


def argv(files: Path, *options: str) -> list[str]:
    (files / "accuracy.toml").write_text(TASKS["accuracy"].replace("60", "50"))
    tasks = [str(files / f"{name}.toml") for name in TASKS]
    return ["simulate", *tasks, "--dataset", str(files / "people.csv"), "--json", *options]


def without_seconds(log: Path) -> list[dict[str, str]]:
    return [row | {"seconds": ""} for row in table(log / "rounds.csv")]


def test_a_run_killed_anywhere_and_resumed_leaves_what_an_unbroken_run_leaves(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv(files, "--out", str(tmp_path / "whole"), "--log", str(tmp_path / "whole"))) == 0
    expected = capsys.readouterr().out
    assert expected.count("\n") == 2 + 50 + 50 + 3
    for kill_after, every in ((0, 1), (3, 7), (60, 1), (101, 30)):
        folder = tmp_path / f"killed-{kill_after}"
        options = ["--checkpoint", str(folder / "run"), "--checkpoint-every", str(every), "--log", str(folder / "log")]
        command = argv(files, *options, "--out", str(folder), "--resume")
        with subprocess.Popen([EDGEFL, *command], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            for _ in range(kill_after):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        assert process.returncode == -signal.SIGKILL
        assert main(command) == 0
        assert capsys.readouterr() == (expected, "")
        assert without_seconds(folder / "log") == without_seconds(tmp_path / "whole")
        assert (folder / "gestures.tflite").read_bytes() == (tmp_path / "whole" / "gestures.tflite").read_bytes()
        assert sorted(p.name for p in folder.iterdir()) == ["gestures.tflite", "log", "run"]


def test_a_checkpoint_is_gone_on_from_only_when_that_is_asked(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, log = tmp_path / "run", tmp_path / "log"
    command = argv(files, "--checkpoint", str(path))
    assert main([*command, "--log", str(log)]) == 0
    kept = {one: one.read_bytes() for one in log.rglob("*") if one.is_file()}
    first = capsys.readouterr().out
    assert main(command) == ConflictError.exit_code
    assert capsys.readouterr().err.startswith(f"edgefl: error: checkpoint {path} exists; go on from it (resume), or ")
    assert main([*command, "--resume"]) == 0
    assert capsys.readouterr().out == first
    task = files / "gestures.toml"
    task.write_text(TASKS["gestures"].replace("seed = 11", "seed = 12"))
    assert main([*command, "--resume", "--log", str(log)]) == ConflictError.exit_code
    assert {one: one.read_bytes() for one in log.rglob("*") if one.is_file()} == kept
    assert "task 'gestures' had seed = 11, and has seed = 12" in capsys.readouterr().err
    task.write_text(TASKS["gestures"])
    path.write_bytes(path.read_bytes()[:1000])
    assert main([*command, "--resume"]) == StorageError.exit_code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "is cut off: 1000 bytes of" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--resume"], "--resume and --checkpoint-every belong to --checkpoint; add it, or leave them out"),
        (["--checkpoint-every", "3"], "--resume and --checkpoint-every belong to --checkpoint; add it, or leave them"),
        (["--checkpoint", "c", "--faults", "f"], "--log and --checkpoint are of a run without --faults; leave them"),
        (["--checkpoint", "c", "--grpc"], "--checkpoint is of a simulation here; a server keeps its own state"),
        (["--log", "l", "--faults", "f"], "--log and --checkpoint are of a run without --faults; leave them"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], message: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv(files, *options)) == ConfigError.exit_code
    assert capsys.readouterr().err.startswith(f"edgefl: error: {message}")
