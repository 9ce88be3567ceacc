"""What the demo shows and says, without its processes: the live view, the kills' sentences, the end."""

from __future__ import annotations

import argparse
import io
import json
import re
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from edgefl.demo.charts import area, large, sparkline
from edgefl.demo.display import Display, draw
from edgefl.demo.ending import nothing_lost, sentences, tell
from edgefl.demo.kills import DEVICE_SHARE, SERVER_SHARE, Kill, Watch, round_of
from edgefl.demo.report import Accuracies, Killed, Person, Report
from edgefl.demo.run import say
from edgefl.demo.view import Row, View
from edgefl.errors import ConfigError, VerificationError
from edgefl.protocol.events import Phase, RoundSummary

REPORT = Report(
    devices=10,
    rounds=50,
    accuracies=Accuracies(0.74, 0.99, 0.71, 0.94, 0.94, 0.94, 0.96, 0.96, [0.9] * 50),
    people=[Person(f"person-{number}", 0.99, 0.71, 0.93, 0.94) for number in range(10)],
    killed=[Killed("the server", 20, 4, 0.9), Killed("person-4's agent", 35, 0, 1.1)],
    updates=500,
    update_bytes=1_103_500,
    example_bytes=592_800,
    bytes_up_per_report=2207.0,
    bytes_down_per_round=3618.4,
    agent_peak_rss_bytes=53_000_000,
    server_peak_rss_bytes=80_000_000,
    model_path="build/demo/shoulder.tflite",
    model_sha256="ab" * 32,
    undisturbed_sha256="ab" * 32,
    tflite_max_abs_diff=4.6e-7,
    prediction="person-0: TRAP",
    seconds=18.0,
)


def console(width: int, height: int = 24, encoding: str = "utf-8") -> Console:
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    return Console(file=file, width=width, height=height, force_terminal=True, color_system=None)


def written(shown: Console) -> str:
    shown.file.flush()
    buffer = shown.file.buffer  # type: ignore[attr-defined]
    return str(buffer.getvalue().decode(shown.encoding))


def view(rounds_done: int, kills: tuple[Kill, ...] = ()) -> View:
    rows = [Row(f"person-{number}", 100 + number, "fetching model", rounds_done) for number in range(10)]
    curve = [0.8 + 0.003 * number for number in range(rounds_done)]
    return View("EdgeFL", 50, rows, "collects", rounds_done, curve, 0.71, 0.96, kills, seconds=100.0)


def summary(number: int, phase: Phase, accepted: int) -> RoundSummary:
    return RoundSummary("shoulder", number, phase, goal=10, cohort=10, accepted=accepted, failed=0)


def server_kill(**changes: object) -> Kill:
    return replace(Kill("the server", 20, after=3, rounds=50, is_server=True), **changes)  # type: ignore[arg-type]


def told_kills() -> tuple[Kill, ...]:
    """Both kills with the longest words that are said of them."""
    server = server_kill(killed_at=1.0, killed_round=20, seen=4, back_s=10.5, resumed=summary(20, Phase.COLLECTING, 5))
    agent = Kill("person-4's agent", 35, after=0, rounds=50, is_server=False, killed_at=1.0, killed_round=35)
    return server, replace(agent, back_s=10.5, resumed=summary(35, Phase.COMMITTED, 10))


@pytest.mark.parametrize("width", [80, 100, 200])
@pytest.mark.parametrize("rounds_done", [0, 1, 50])
def test_the_live_view_fits_a_terminal_of_24_lines(width: int, rounds_done: int) -> None:
    shown = console(width)
    shown.print(view(rounds_done, told_kills()))
    lines = written(shown).splitlines()
    assert len(lines) <= 23, "one line must stay for the cursor, or the terminal scrolls at each frame"
    assert max(map(len, lines)) <= width
    assert not lines[-1], "the terminal's echo of Ctrl-C would wrap, and the next frame begin one line lower"
    assert sum(line.startswith("person-") for line in lines) == 10
    assert "the 4 updates that it had acknowledged were still there" in " ".join(" ".join(lines).split())


@pytest.mark.parametrize(("width", "height"), [(40, 24), (60, 30), (80, 10), (20, 8)])
def test_a_small_terminal_gets_a_smaller_view(width: int, height: int) -> None:
    shown = console(width, height)
    shown.print(view(25))
    lines = written(shown).splitlines()
    assert len(lines) <= height
    assert max(map(len, lines)) <= width
    assert any("accuracy" in line for line in lines)


def test_a_terminal_without_blocks_gets_ascii() -> None:
    for width in (80, 40):
        shown = console(width, encoding="ascii")
        shown.print(view(25, told_kills()))
        tell(shown, REPORT, "edgefl", Path("build"), plain=False, verbose=True)
        assert written(shown).isascii()


def test_the_curve_grows_to_the_right_edge() -> None:
    assert [line.plain for line in area([0.5, 1.0], 4, (8, 2), 0.0, ())] == ["       ██    ", "0.00 ████    "]
    marked = area([0.5, 1.0], 4, (8, 2), 0.0, [(0.9, "red")])
    assert marked[0].plain == "0.90 ┈┈██┈┈┈┈"
    assert sparkline([0.0, 1.0], 2, 4, 0.0) == "▁▁██"
    assert len(sparkline([0.5] * 1000, 1000, 30, 0.0)) == 30
    assert large("0.1").splitlines()[0] == "█▀█   ▀█ "


def test_a_kill_waits_for_acknowledged_updates_and_says_what_was_seen() -> None:
    wake = threading.Event()
    kill = server_kill()
    watch = Watch([kill], wake)
    watch.saw(summary(19, Phase.COMMITTED, 10))
    watch.saw(summary(20, Phase.COLLECTING, 2))
    assert not wake.is_set()
    watch.saw(summary(20, Phase.COLLECTING, 4))
    assert wake.is_set()
    watch.struck(kill, 7.0)
    watch.saw(summary(20, Phase.COLLECTING, 5))  # the dead server's last word
    assert kill.sentence() == "round 20: the server was killed; it starts again"
    kill.back_s = 0.44
    watch.saw(summary(19, Phase.COMMITTED, 10))  # a new stream begins with the past
    assert kill.resumed is None
    watch.saw(summary(20, Phase.COLLECTING, 5))
    assert kill.sentence() == (
        "round 20: the server was killed; it came back in 0.4 s and went on with round 20; the 4 updates that it had "
        "acknowledged were still there"
    )


def test_updates_that_are_gone_after_a_kill_are_not_called_there() -> None:
    kill = server_kill(killed_at=1.0, killed_round=20, seen=4, back_s=0.4, resumed=summary(20, Phase.COLLECTING, 1))
    assert "still there" not in kill.sentence()


def test_an_agents_update_counts_when_its_round_is_committed_with_all() -> None:
    kill = Kill("person-4's agent", 35, after=0, rounds=50, is_server=False)
    watch = Watch([kill], threading.Event())
    watch.saw(summary(35, Phase.COLLECTING, 0))
    assert kill.due
    watch.struck(kill, 7.0)
    watch.saw(summary(35, Phase.COLLECTING, 9))
    assert not kill.told
    kill.back_s = 1.0
    watch.saw(summary(35, Phase.ABANDONED, 9))
    assert "counted" not in kill.sentence()
    kill.resumed = summary(35, Phase.COMMITTED, 10)
    assert kill.sentence().endswith("it came back in 1.0 s, and its update of round 35 was counted")


@pytest.mark.parametrize(("rounds", "server", "device"), [(50, 20, 35), (10, 4, 7), (2, 1, 1), (1, 1, 1)])
def test_kills_scale_with_the_rounds(rounds: int, server: int, device: int) -> None:
    assert round_of("--kill-server", None, SERVER_SHARE, rounds) == server
    assert round_of("--kill-device", None, DEVICE_SHARE, rounds) == device
    with pytest.raises(ConfigError, match="expected 1 to"):
        round_of("--kill-server", rounds + 1, SERVER_SHARE, rounds)


def test_nothing_was_lost_is_said_of_equal_digests_alone() -> None:
    assert "nothing was lost" in nothing_lost(REPORT)
    for gone in ("cd" * 32, ""):
        other = replace(REPORT, undisturbed_sha256=gone)
        with pytest.raises(VerificationError, match="expected the same"):
            nothing_lost(other)
        shown = console(80)
        with pytest.raises(VerificationError):
            tell(shown, other, "edgefl", Path("build"), plain=True, verbose=False)
        assert "lost" not in written(shown)


def test_the_story_is_made_of_the_figures() -> None:
    story = dict(sentences(REPORT))
    assert story["own data"] == "alone 0.99, federated 0.94; alone is better there, and only there"
    assert story["killed"].startswith("the server in round 20 and person-4's agent in round 35; nothing was lost")
    assert story["moved"].startswith("nobody's data: 593 kB of examples stayed on ten devices; 1.1 MB of model updates")
    worse = replace(REPORT, accuracies=replace(REPORT.accuracies, federated_others=0.6), killed=[])
    assert "only there" not in dict(sentences(worse))["own data"]
    assert dict(sentences(worse))["killed"].startswith("no process; nothing was lost")


def test_the_end_fits_a_terminal_of_80_columns() -> None:
    shown = console(80)
    tell(shown, REPORT, ".venv/bin/edgefl", Path("build/demo"), plain=False, verbose=False)
    lines = written(shown).splitlines()
    assert len(lines) <= 23, "what it leads with must be on the screen"
    assert max(map(len, lines)) <= 80
    assert "█▀█   ▀▀█ ▀█" in written(shown)


def test_details_have_own_and_others_side_by_side_and_the_digest() -> None:
    shown = console(80)
    tell(shown, REPORT, "edgefl", Path("build/demo"), plain=False, verbose=True)
    words = written(shown)
    assert re.search(r"person-3 +0.990 +0.710 +0.930 +0.940", words)
    assert REPORT.model_sha256 in words


def test_the_picture_calls_nobody_and_has_no_gaps(tmp_path: Path) -> None:
    draw(tmp_path / "demo.svg", "make demo", view(50), lambda shown: shown.print("the end"))
    svg = (tmp_path / "demo.svg").read_text()
    assert "http" not in svg.replace("http://www.w3.org/2000/svg", "").replace("https://www.textualize.io", "")
    assert "█" not in svg
    assert svg.count("crispEdges") > 8


def test_json_is_one_line_on_stdout_and_words_go_to_stderr(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    display = Display(to_stderr=True)
    display.line("running")
    say(argparse.Namespace(out=tmp_path, json=True, verbose=False), REPORT, display)
    output, errors = capsys.readouterr()
    assert json.loads(output) == json.loads(json.dumps(REPORT.as_dict()))
    assert output.count("\n") == 1
    assert errors == "running\n"


INTERRUPTED = """
import signal
from edgefl.launcher.processes import interrupt_when_terminated, uninterrupted
interrupt_when_terminated()
done = []
try:
    with uninterrupted():
        with uninterrupted():
            signal.raise_signal(signal.SIG{name})
            done.append("started")
        done.append("known")
    done.append("lost")
except KeyboardInterrupt:
    done.append("interrupted")
print(done)
"""


def default_signals() -> None:
    """Python keeps a signal ignored that its parent ignored: a shell's background job, or nohup."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def interrupted(name: str, *before: str) -> str:
    done = subprocess.run(
        [*before, sys.executable, "-c", INTERRUPTED.format(name=name)],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        preexec_fn=default_signals,
    )
    return done.stdout


@pytest.mark.parametrize("name", ["INT", "TERM", "HUP"])
def test_a_signal_waits_until_a_started_process_is_known(name: str) -> None:
    assert interrupted(name) == "['started', 'known', 'interrupted']\n"


def test_nohup_stays() -> None:
    assert interrupted("HUP", "nohup") == "['started', 'known', 'lost']\n"
