"""The demo as a person runs it: real processes, real data; its figures, its kills, and what it leaves behind."""

from __future__ import annotations

import hashlib
import json
import re
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from process_kit import processes_naming

from edgefl.cli.main import main
from edgefl.datasets import load
from edgefl.demo.prepare import take_folder
from edgefl.models.tflite_writer import write_tflite
from edgefl.protocol.task import parse_task
from edgefl.simulation import release_inputs, simulate

EDGEFL = str(Path(sys.executable).parent / "edgefl")
TIME_LIMIT_S = 240
MODEL_SHA256 = "b57cf5314932e6075102033f11c1f14ab2a45cb7b30f03acaa85d69a19b2f587"
"""Of the model of 50 rounds with seed 1, on every machine."""


def demo_command(out: Path, *options: str) -> list[str]:
    return [EDGEFL, "demo", "--out", str(out), *options]


def refused(capsys: pytest.CaptureFixture[str], out: Path, *options: str) -> tuple[int, str]:
    """A demo that ends before it starts anything: its exit status, and why in one line."""
    status = main(demo_command(out, *options)[1:])
    words, errors = capsys.readouterr()
    assert len(errors.splitlines()) == 1
    assert not words
    return status, errors


@dataclass(frozen=True)
class Whole:
    out: Path
    words: str
    report: dict[str, Any]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Whole:
    """One whole demo, as ``make demo`` runs it: all tests of a run that ends well look at this one."""
    out = tmp_path_factory.mktemp("demo") / "whole"
    done = subprocess.run(demo_command(out), capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert not done.stderr
    assert not processes_naming(out)
    return Whole(out, done.stdout, json.loads((out / "report.json").read_text()))


def test_the_report_holds_every_figure(whole: Whole) -> None:
    report = whole.report
    assert report["devices"] == len(report["people"]) == 10
    assert report["rounds"] == len(report["accuracy_by_round"]) == 50
    assert report["accuracy_by_round"][-1] == report["accuracy_federated"]
    # a float32 delta of 7 x 75 + 7 values, and its message around it
    assert 4 * 532 < report["bytes_up_per_report"] < 4 * 532 + 150
    # the model once (2,128 bytes), the standardization in two plans (600 each), the plans and receipts around them
    assert 2128 + 2 * 600 < report["bytes_down_per_round"] < 2128 + 2 * 600 + 500
    assert report["updates"] == 500
    assert report["update_bytes"] == round(500 * report["bytes_up_per_report"])
    # 1,495 examples for training and 455 held out, each of 75 features and a label, four bytes each
    assert report["example_bytes"] == (1495 + 455) * 76 * 4
    assert 30e6 < report["agent_peak_rss_bytes"] < 56e6
    assert 30e6 < report["server_peak_rss_bytes"] < 200e6
    assert report["seconds"] > 0
    assert Path(report["model_path"]).read_bytes()[4:8] == b"TFL3"
    assert (whole.out / "accuracy.svg").read_text().count("<path") > 1


def test_federation_is_worth_it(whole: Whole) -> None:
    report = whole.report
    assert report["accuracy_federated_others"] >= report["accuracy_alone_others"] + 0.20
    assert report["accuracy_federated_others"] >= report["accuracy_pooled_others"] - 0.02
    # honest: someone alone is best on their own windows
    assert report["accuracy_alone_own"] > report["accuracy_federated_own"]
    # everyone's windows are a person's own and the others'
    assert report["accuracy_alone_others"] < report["accuracy_alone"] < report["accuracy_alone_own"]


def test_tflite_on_a_device_says_what_the_kernel_says(whole: Whole) -> None:
    assert 0 < whole.report["tflite_max_abs_diff"] <= 1e-5


def test_the_server_and_an_agent_are_killed_by_default(whole: Whole) -> None:
    """In rounds 20 and 35 of 50, as seen from outside: in the server's log, and in the agent's count of starts."""
    server, agent = whole.report["killed"]
    assert (server["process"], server["round"]) == ("the server", 20)
    assert (agent["process"], agent["round"]) == ("person-4's agent", 35)
    assert server["acknowledged"] >= 3
    assert (whole.out / "logs" / "server.log").read_text().count("listening on") == 2
    sessions = {}
    for folder in (whole.out / "devices").iterdir():
        sessions[folder.name] = json.loads((folder / "state" / "status.json").read_text())["session"]
    assert {name for name, count in sessions.items() if count == 2} == {"person-4"}
    kept = r"round 20: the server was killed; .* the \d+ updates that it had acknowledged were still there"
    assert re.search(kept, whole.words)
    assert "round 35: person-4's agent was killed; it came back in" in whole.words


def test_nothing_was_lost(whole: Whole) -> None:
    """The same model as the simulation's of the definitions that the demo wrote, in which nothing dies."""
    paths = [whole.out / "tasks" / f"{kind}.toml" for kind in ("statistics", "training", "evaluation")]
    tasks = [(parse_task(path.read_text(), str(path)), path.read_text()) for path in paths]
    people = load("watch")
    result = simulate(tasks, people.clients, people.held_out)
    simulated = hashlib.sha256(write_tflite(*release_inputs(result, "shoulder"))).hexdigest()
    assert whole.report["model_sha256"] == whole.report["undisturbed_sha256"] == simulated == MODEL_SHA256
    assert "nothing was lost" in " ".join(whole.words.split())


def test_the_end_leads_with_what_matters_and_says_what_to_type(whole: Whole) -> None:
    end = whole.words[whole.words.index("How often") :]
    assert re.findall(r"(?m)^0\.\d\d", end) == ["0.71", "0.94", "0.96"]
    assert "593 kB of examples stayed on ten devices; 1.1 MB of model updates" in " ".join(end.split())
    assert "edgefl new your.csv" in end
    assert MODEL_SHA256[:8] not in end, "digests are for --verbose and report.json"
    assert all(figure in (whole.out / "summary.svg").read_text() for figure in ("<rect", "0.94", "your.csv"))


def test_each_device_holds_one_person_and_nothing_else(whole: Whole) -> None:
    sizes = {client.client_id: len(client) for client in load("watch").clients}
    for name, size in sizes.items():
        folder = whole.out / "devices" / name
        assert sorted(path.name for path in folder.iterdir()) == ["device.toml", "state"]
        status = json.loads((folder / "state" / "status.json").read_text())
        assert status["num_train"] == size


@pytest.mark.parametrize("moment", ["data:", "running:"])
def test_ctrl_c_leaves_nothing_running(tmp_path: Path, moment: str) -> None:
    """While the server and the example stores come up, and in the rounds."""
    out = tmp_path / "interrupted"
    with subprocess.Popen(demo_command(out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith(moment):
                break
        demo.send_signal(signal.SIGINT)
        words, errors = demo.communicate(timeout=TIME_LIMIT_S)
    assert demo.returncode == 130
    assert errors == "edgefl: interrupted; no process is left running\n"
    assert "nothing was lost" not in words
    assert not processes_naming(out)


def test_a_folder_of_somebody_else_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    status, error = refused(capsys, out)
    assert status == 74
    assert "not a demo's folder" in error
    assert (out / "thesis.txt").read_text() == "years of work"


def test_a_folder_that_another_demo_uses_is_not_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "demo"
    with take_folder(out):
        (out / "report.json").write_text("of the first")
        status, error = refused(capsys, out)
        assert (out / "report.json").read_text() == "of the first"
    assert status == 80
    assert "in use" in error


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--kill-server", "51"], "--kill-server 51; expected 1 to 50"),
        (["--rounds", "10", "--kill-device", "11"], "--kill-device 11; expected 1 to 10"),
        (["--rounds", "0"], "--rounds 0; expected 1 to"),
        (["--no-kill", "--kill-device", "3"], "--no-kill excludes"),
    ],
)
def test_wrong_options_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], words: str
) -> None:
    status, error = refused(capsys, tmp_path / "demo", *options)
    assert status == 78
    assert words in error
    assert not (tmp_path / "demo").exists()


def test_a_file_in_the_folders_place_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "demo").write_text("")
    status, error = refused(capsys, tmp_path / "demo")
    assert status == 74
    assert "is a file" in error
