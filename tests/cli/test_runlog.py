"""What ``edgefl simulate --log`` leaves behind: each sink by itself, and a whole run from the command line."""

from __future__ import annotations

import csv
import io
import json
import os
import pty
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest
from script_kit import SCRIPT
from simulate_kit import TASKS, write_files

from edgefl.cli.main import main
from edgefl.errors import ConfigError, ConflictError, StorageError
from edgefl.protocol.events import Phase, RoundSummary
from edgefl.protocol.process import ClientAccuracies, Gains, RoundMetrics
from edgefl.protocol.task import parse_task
from edgefl.runlog import RunLog, open_run_log
from edgefl.runlog.plot import Plot
from edgefl.runlog.rounds_csv import COLUMNS, RoundsCsv

ROUNDS = 6
SPECS = [parse_task(text, name) for name, text in TASKS.items()]


def ended(round_num: int, correct: int = 9, task: str = "gestures") -> RoundSummary:
    metrics = RoundMetrics(3, 12, 12, correct, 7.5)
    return RoundSummary(task, round_num, Phase.COMMITTED, 4, 5, 3, 1, round_num, metrics)


def abandoned(round_num: int) -> RoundSummary:
    return RoundSummary("gestures", round_num, Phase.ABANDONED, 4, 5, 0, 5, reason="0 reports,\n5 of 5 failed")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_files(tmp_path_factory.mktemp("runlog"))
    for name in ("gestures", "accuracy"):
        text = (folder / f"{name}.toml").read_text()
        (folder / f"{name}.toml").write_text(text.replace("rounds = 50", f"rounds = {ROUNDS}").replace("60", "4"))
    return folder


def argv(files: Path, *options: str) -> list[str]:
    tasks = [str(files / f"{name}.toml") for name in TASKS]
    return ["simulate", *tasks, "--dataset", str(files / "people.csv"), *options]


def table(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def events(folder: Path) -> list[Any]:
    """TFRecord: length, its checksum, the event, its checksum."""
    from tensorboardX.proto.event_pb2 import Event

    found = []
    for path in sorted(folder.iterdir()):
        file = io.BytesIO(path.read_bytes())
        while head := file.read(12):
            event = Event()
            event.ParseFromString(file.read(struct.unpack("<Q", head[:8])[0]))
            found.append(event)
            assert len(file.read(4)) == 4
    return found


def scalars(folder: Path) -> dict[tuple[str, int], float]:
    return {(value.tag, e.step): value.simple_value for e in events(folder) for value in e.summary.value}


# ------------------------------------------------------------------------------------------------ a whole run


def test_a_run_leaves_its_rounds_as_csv_as_event_files_and_as_a_plot(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = tmp_path / "deep" / "log"
    assert main(argv(files, "--json", "--log", str(log))) == 0
    out, err = capsys.readouterr()
    assert err == ""  # no bars: this is no terminal, and it is for a program
    said = [line for line in map(json.loads, out.splitlines()) if "round" in line]
    rows = table(log / "rounds.csv")
    assert [(row["task"], int(row["round"])) for row in rows] == [(line["task"], line["round"]) for line in said]
    assert len(rows) == 2 + ROUNDS + 4
    for row, line in zip(rows, said, strict=True):
        assert int(row["reports"]) == line["accepted"]
        assert int(row["version"]) == line["version"]
        if row["kind"] != "statistics":
            assert (float(row["accuracy"]), float(row["mean_loss"])) == (line["accuracy"], line["loss"])
        else:
            assert row["accuracy"] == row["mean_loss"] == ""
        by_client = COLUMNS[COLUMNS.index("reason") + 1 : -1]
        assert int(row["base_version"]) == line.get("base_version", 0)
        assert len(by_client) == 5
        if row["kind"] == "evaluation":
            assert [float(row[name]) for name in by_client] == [line[name] for name in by_client]
        else:
            assert {row[name] for name in by_client} == {""}
        assert float(row["seconds"]) >= 0
    for task in ("gestures", "accuracy"):
        found = scalars(log / "tensorboard" / task)
        for row in rows:
            if row["task"] == task:
                for tag, column in (("accuracy", "accuracy"), ("loss", "mean_loss"), ("reports", "reports")):
                    assert found[tag, int(row["round"])] == pytest.approx(float(row[column]), rel=1e-6)  # float32
    worst = next(line["accuracy_worst_decile"] for line in said if line["task"] == "accuracy")
    assert scalars(log / "tensorboard" / "accuracy")["accuracy_worst_decile", 1] == pytest.approx(worst, rel=1e-6)
    assert ("accuracy", 1) not in scalars(log / "tensorboard" / "spreads")
    assert (log / "rounds.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_a_folder_with_a_log_is_not_written_over(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rounds.csv").write_text("mine\n")
    assert main(argv(files, "--log", str(tmp_path))) == ConflictError.exit_code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"edgefl: error: {tmp_path / 'rounds.csv'} exists, the log of another run; choose another")
    assert (tmp_path / "rounds.csv").read_text() == "mine\n"
    assert main(argv(files, "--log", "/proc/here")) == StorageError.exit_code
    assert "cannot be written" in capsys.readouterr().err


def test_a_missing_package_is_named_with_its_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "tensorboardX" else object())
    expected = "--log needs the package tensorboardX; install EdgeFL with its extra 'sim'"
    with pytest.raises(ConfigError, match=expected), open_run_log(SPECS, tmp_path / "log", live=False):
        pass
    assert not (tmp_path / "log").exists()


def test_nothing_heavy_is_imported_without_the_option(files: Path) -> None:
    code = (
        "import sys; from edgefl.cli.main import main; main(sys.argv[1:]);"
        "print([n for n in ('tensorboardX', 'matplotlib', 'edgefl.runlog.bars') if n in sys.modules],"
        "file=sys.stderr)"
    )
    run = subprocess.run([*SCRIPT, code, *argv(files, "--json")], capture_output=True, text=True)
    assert (run.stderr, run.returncode) == ("[]\n", 0)


@pytest.mark.parametrize(("options", "shown"), [([], True), (["--json"], False)])
def test_bars_are_on_a_terminal_and_stdout_stays_what_it_is(files: Path, options: list[str], *, shown: bool) -> None:
    reader, writer = pty.openpty()
    environment = os.environ | {"TERM": "xterm", "COLUMNS": "200"}
    command = [*SCRIPT, "import sys; from edgefl.cli.main import main; sys.exit(main(sys.argv[1:]))"]
    with subprocess.Popen([*command, *argv(files, *options)], stdout=-1, stderr=writer, env=environment) as process:
        os.close(writer)
        assert process.stdout is not None
        out = process.stdout.read().decode()
        seen = b""
        try:
            while piece := os.read(reader, 65536):
                seen += piece
        except OSError:  # how a terminal's other end says that it is closed
            pass
    os.close(reader)
    assert process.returncode == 0
    assert (f"{ROUNDS}/{ROUNDS}".encode() in seen) is shown
    assert (b"accuracy 0." in seen) is shown
    assert (seen == b"") is not shown
    assert len([line for line in out.splitlines() if "committed" in line]) == 2 + ROUNDS + 4
    assert "\x1b" not in out


# ------------------------------------------------------------------------------------------------ each sink


def test_each_line_is_there_when_its_round_is_over(tmp_path: Path) -> None:
    path = tmp_path / "rounds.csv"
    sink = RoundsCsv(path, SPECS, resumed=False)
    assert path.read_text() == ",".join(COLUMNS) + "\n"
    sink.note(ended(1), 0.5)
    sink.note(abandoned(2), 0.25)
    lines = path.read_text().splitlines()
    assert lines[1] == "gestures,training,1,committed,1,0.75,0.625,12,3,1,5,4,,,0.500000,,,,,,,0"
    assert lines[2] == 'gestures,training,2,abandoned,,,,,0,5,5,4,,,0.250000,"0 reports, 5 of 5 failed",,,,,,0'
    accuracies = ClientAccuracies(0.625, 0.25, 0.375, 1.0, 0.5)
    gains = RoundMetrics(2, 12, 12, 9, 7.5, gains=Gains(6, 1, 0, 0.5), accuracies=accuracies)
    sink.note(RoundSummary("accuracy", 1, Phase.COMMITTED, 4, 4, 2, 0, 1, gains, base_version=10), 1)
    numbers = "0.75,0.625,12,2,0,4,4,0.5,0.25,1.000000,,0.625,0.25,0.375,1.0,0.5,10"
    assert path.read_text().splitlines()[3] == f"accuracy,evaluation,1,committed,1,{numbers}"
    sink.close()


@pytest.mark.parametrize("cut", range(0, 400, 7))
def test_a_log_cut_anywhere_is_continued_without_a_line_twice_or_torn(cut: int, tmp_path: Path) -> None:
    path = tmp_path / "rounds.csv"
    sink = RoundsCsv(path, SPECS, resumed=False)
    rounds = [ended(1), abandoned(2), ended(3, 4)]
    for summary in rounds:
        sink.note(summary, 1.0)
    sink.close()
    whole = path.read_text()
    path.write_text(whole[:cut])
    sink = RoundsCsv(path, SPECS, resumed=True)
    for summary in rounds:
        sink.note(summary, 2.0)
    sink.close()
    lines = path.read_text().splitlines()
    assert [line.replace("2.000000", "1.000000") for line in lines] == whole.splitlines()
    kept = whole[:cut].count("\n")
    assert lines[:kept] == whole.splitlines()[:kept]  # with the seconds of the run that was cut


def test_the_log_of_another_run_is_not_continued(tmp_path: Path) -> None:
    path = tmp_path / "rounds.csv"
    sink = RoundsCsv(path, SPECS, resumed=False)
    sink.note(ended(1), 1.0)
    sink.close()
    sink = RoundsCsv(path, SPECS, resumed=True)
    with pytest.raises(ConflictError, match="another round 1 of task 'gestures'"):
        sink.note(ended(1, correct=8), 1.0)
    sink.close()
    path.write_text("a,b\n")
    with pytest.raises(ConflictError, match="other columns"):
        RoundsCsv(path, SPECS, resumed=True)


def test_event_files_of_a_resumed_run_forget_the_earlier_ones(tmp_path: Path) -> None:
    from edgefl.runlog.tensorboard import EventFiles

    for resumed in (False, True):
        sink = EventFiles(tmp_path, resumed=resumed)
        sink.note(ended(1), 1.0)
        sink.close()
        starts = [e for e in events(tmp_path / "gestures") if e.HasField("session_log")]
        assert len(starts) == resumed
    assert scalars(tmp_path / "gestures")["accuracy", 1] == 0.75


def test_the_plot_is_drawn_when_a_run_breaks_and_not_without_an_accuracy(tmp_path: Path) -> None:
    Plot(tmp_path / "none.png", SPECS).close()
    assert not (tmp_path / "none.png").exists()
    with pytest.raises(ConflictError), open_run_log(SPECS, tmp_path, live=False) as log:  # noqa: PT012
        log.note(ended(1))
        raise ConflictError("cannot be finished")
    assert (tmp_path / "rounds.png").exists()


def test_seconds_are_those_since_the_round_before() -> None:
    class Heard:
        def __init__(self) -> None:
            self.seconds: list[float] = []

        def note(self, summary: RoundSummary, seconds: float) -> None:  # noqa: ARG002
            self.seconds.append(seconds)

        def close(self) -> None:
            pass

    heard, times = Heard(), iter([10.0, 10.5, 13.0])
    log = RunLog([heard], lambda: next(times))
    log.note(ended(1))
    log.note(ended(2))
    assert heard.seconds == [0.5, 2.5]


def test_a_log_that_another_run_writes_is_not_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "rounds.csv"
    first = RoundsCsv(path, SPECS, resumed=False)
    before = path.read_bytes()
    with pytest.raises(ConflictError, match=r"rounds.csv is in use by another run; wait for its end"):
        RoundsCsv(path, SPECS, resumed=True)
    assert path.read_bytes() == before
    first.close()
    RoundsCsv(path, SPECS, resumed=True).close()


def test_a_file_is_no_folder_for_a_log(tmp_path: Path) -> None:
    (tmp_path / "mine.toml").touch()
    with pytest.raises(StorageError, match=r"mine.toml is not a folder; choose another one for --log"):
        RoundsCsv(tmp_path / "mine.toml" / "rounds.csv", SPECS, resumed=False)
