"""The demo as a person runs it: real processes, real data; its figures, its digests, and what it leaves behind."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from process_kit import processes_naming

from edgefl.datasets import load
from edgefl.models.tflite_writer import write_tflite
from edgefl.protocol.task import parse_task
from edgefl.simulation import release_inputs, simulate

EDGEFL = str(Path(sys.executable).parent / "edgefl")
TIME_LIMIT_S = 240
ROUNDS = 12


def demo_command(out: Path, *options: str) -> list[str]:
    return [EDGEFL, "demo", "--out", str(out), *options]


def run_demo(out: Path, *options: str) -> dict[str, Any]:
    done = subprocess.run(
        demo_command(out, *options), capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads((out / "report.json").read_text())
    return report


def simulated_sha256(out: Path) -> str:
    """What the in-process simulation makes of the very definitions that the demo wrote."""
    paths = [out / "tasks" / f"{kind}.toml" for kind in ("statistics", "training", "evaluation")]
    tasks = [(parse_task(path.read_text(), str(path)), path.read_text()) for path in paths]
    people = load("watch")
    result = simulate(tasks, people.clients, people.held_out)
    return hashlib.sha256(write_tflite(*release_inputs(result, "shoulder"))).hexdigest()


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """One whole demo, as ``make demo`` runs it."""
    out = tmp_path_factory.mktemp("demo") / "whole"
    return out, run_demo(out)


def test_the_report_holds_every_figure(whole: tuple[Path, dict[str, Any]]) -> None:
    out, report = whole
    assert report["devices"] == 10
    assert report["rounds"] == len(report["accuracy_by_round"]) == 50
    assert report["accuracy_by_round"][-1] == report["accuracy_federated"]
    # a float32 delta of 7 x 75 + 7 values, and its message around it
    assert 4 * 532 < report["bytes_up_per_report"] < 4 * 532 + 150
    # the model once (2,128 bytes), the standardization in two plans (600 each), the plans and receipts around them
    assert 2128 + 2 * 600 < report["bytes_down_per_round"] < 2128 + 2 * 600 + 500
    assert 30e6 < report["agent_peak_rss_bytes"] < 56e6
    assert 30e6 < report["server_peak_rss_bytes"] < 200e6
    assert report["seconds"] > 0
    assert Path(report["model_path"]).read_bytes()[4:8] == b"TFL3"
    assert (out / "accuracy.svg").read_text().count("<path") > 1


def test_federation_is_worth_it(whole: tuple[Path, dict[str, Any]]) -> None:
    _, report = whole
    assert report["accuracy_federated"] >= report["accuracy_alone"] + 0.10
    assert report["accuracy_federated"] >= report["accuracy_pooled"] - 0.02
    # honest: someone alone is best on their own windows
    assert report["accuracy_alone_own"] > report["accuracy_federated"]


def test_tflite_on_a_device_says_what_the_kernel_says(whole: tuple[Path, dict[str, Any]]) -> None:
    _, report = whole
    assert 0 < report["tflite_max_abs_diff"] <= 1e-5


def test_the_simulation_makes_the_same_file(whole: tuple[Path, dict[str, Any]]) -> None:
    out, report = whole
    assert report["model_sha256"] == simulated_sha256(out)


def test_each_device_holds_one_person_and_nothing_else(whole: tuple[Path, dict[str, Any]]) -> None:
    out, _ = whole
    sizes = {client.client_id: len(client) for client in load("watch").clients}
    for name, size in sizes.items():
        folder = out / "devices" / name
        assert sorted(path.name for path in folder.iterdir()) == ["device.toml", "state"]
        status = json.loads((folder / "state" / "status.json").read_text())
        assert status["num_train"] == size


def test_killed_server_and_killed_agent_change_no_bit(tmp_path: Path) -> None:
    out = tmp_path / "killed"
    report = run_demo(out, "--rounds", str(ROUNDS), "--seed", "7", "--kill-server", "4", "--kill-device", "8")
    assert report["model_sha256"] == simulated_sha256(out)
    sessions = json.loads((out / "devices" / "person-0" / "state" / "status.json").read_text())["session"]
    assert sessions == 2
    assert not processes_naming(out)


def test_ctrl_c_leaves_nothing_running(tmp_path: Path) -> None:
    out = tmp_path / "interrupted"
    with subprocess.Popen(
        demo_command(out), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ}
    ) as demo:
        assert demo.stdout is not None
        for line in demo.stdout:
            if line.startswith("running:"):
                break
        demo.send_signal(signal.SIGINT)
        _, errors = demo.communicate(timeout=TIME_LIMIT_S)
    assert demo.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    assert not processes_naming(out)


def test_a_folder_of_somebody_else_is_not_touched(tmp_path: Path) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    done = subprocess.run(demo_command(out), capture_output=True, text=True, timeout=TIME_LIMIT_S, check=False)
    assert done.returncode == 74
    assert "not a demo's folder" in done.stderr
    assert (out / "thesis.txt").read_text() == "years of work"
