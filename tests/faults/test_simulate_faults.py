"""``edgefl simulate --faults``: a user's own tasks over a fleet that breaks, from the command line to the last line."""

from __future__ import annotations

import re
import shlex
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faults.mutants import MUTANTS
from script_kit import SCRIPT
from simulate_kit import CLIENTS, QUIET, argv, report, toml, write_files

from edgefl.cli.main import main
from edgefl.datasets import load
from edgefl.errors import ConfigError, VerificationError
from edgefl.faults.config import FaultsConfig
from edgefl.faults.fleet import TaskFleet
from edgefl.faults.run import Failure, Runner, runner
from edgefl.faults.scenario import Kind, scenario
from edgefl.protocol.task import parse_task
from edgefl.simulation import simulate
from edgefl_device.memory import DeviceMemory

EDGEFL = str(Path(sys.executable).with_name("edgefl"))
SEEDS = 6


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("simulate-faults"))


# ------------------------------------------------------------------------------------------------ a whole run


def test_the_users_tasks_lose_nothing_on_a_fleet_that_breaks(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*argv(files), "--runs", str(SEEDS)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[1:3] == [f"runs that kept every promise {SEEDS} of {SEEDS}", f"devices {CLIENTS}"]
    assert any(
        re.fullmatch(r"a committed round took median [\d.]+ s, p90 .+ s, max .+ s \(virtual\)", x) for x in lines
    )
    assert any(re.fullmatch(r"fault: server-power [1-9]\d*", line) for line in lines)
    assert out.splitlines()[-1].startswith("nothing was lost: ")

    found = report(capsys, *argv(files), "--runs", str(SEEDS))
    assert (found["runs"], found["wanted"], found["devices"]) == (SEEDS, SEEDS, CLIENTS)
    assert (found["failure"], found["interrupted"]) == (None, False)
    rounds = [scenario(seed, FaultsConfig()).rounds for seed in range(SEEDS)]
    assert found["rounds"]["committed"] == sum(2 + 2 * number for number in rounds)  # statistics, training, evaluation
    updates = found["updates"]
    assert updates["acknowledged"] == updates["counted"] + updates["not_counted"] > 0
    assert updates["lost"] == 0
    assert 0 < found["round_s"]["median"] <= found["round_s"]["p90"] <= found["round_s"]["max"]
    assert found["run_s"]["max"] > found["round_s"]["max"]
    assert found["bytes"]["devices"] > updates["acknowledged"] * 48  # an update is 12 float32 numbers, and a head
    assert set(found["faults"]) <= {kind.value for kind in Kind} | {"unsynced-write-lost", "torn-write"}
    assert len(found["faults"]) > 10


def test_the_same_seeds_give_the_same_json_in_another_process(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*argv(files), "--runs", "3", "--json"]
    assert main(command) == 0
    here = capsys.readouterr().out
    there = subprocess.run([EDGEFL, *command], capture_output=True, text=True)
    assert here.count("\n") == 1
    assert (there.returncode, there.stdout, there.stderr) == (0, here, "")


def test_a_trace_is_the_same_in_every_folder(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "faults.toml"
    path.write_text(toml(QUIET, {"server": {"write_errors": 20}}))
    command = [*argv(files, "plain", faults=path), "--run", "3"]
    outs = []
    for _ in range(2):
        assert main(command) == 0
        outs.append(capsys.readouterr().out)
    assert outs[0] == outs[1]
    assert re.search(r"server\.\d +ends: server-\d+/edgefl\.db: cannot be written: ", outs[0])


def test_the_models_are_those_of_a_fleet_that_does_not_break(files: Path) -> None:
    """Faults change which reports a round records, and nothing of how they are computed (design §4.7)."""
    data = load(str(files / "people.csv"))
    spec = parse_task((files / "plain.toml").read_text(), "plain")
    everyone = replace(spec, round=replace(spec.round, goal=CLIENTS, minimum=CLIENTS, over_selection=1.0))
    fleet = TaskFleet([everyone], data, 0)
    wanted = [task.models for task in simulate(fleet.definitions(5), data.clients).tasks]
    config = FaultsConfig(device=replace(FaultsConfig().device, duplicates=0.0))
    equal = 0
    with runner(lambda _: fleet, config) as run:
        for seed in range(6):
            world, failure = run.run(seed)
            assert failure is None
            (task,) = world.servers[-1].coordinator.tasks()
            assert task.state.version == world.scenario.rounds
            if not world.tally.abandoned:  # a round's number enters the seed of its work
                assert task.state.model == wanted[0][task.state.version - 1]
                equal += 1
    assert equal >= 3


CAUGHT_BY_RUN = 6
"""Of memory that is not synced: saves time alone. The others are tried where it is not caught by this one."""


def test_devices_work_with_the_memory_of_the_last_round_that_counted_them(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SCAFFOLD, with devices that lose power again and again; and what is seen where a device does not sync."""
    task, faults = tmp_path / "scaffold.toml", tmp_path / "faults.toml"
    text = (files / "plain.toml").read_text().replace('kind = "training"', 'kind = "training"\nprocess = "scaffold"')
    task.write_text(text)
    faults.write_text("rounds = [6, 8]\n[device]\nkills = 25\npower_cuts = 25\ncard_full = 3\ncard_errors = 3\n")
    command = ["simulate", str(task), "--dataset", str(files / "people.csv"), "--faults", str(faults)]
    assert main([*command, "--runs", "10"]) == 0
    capsys.readouterr()
    monkeypatch.setattr(DeviceMemory, "secure", lambda _: None)
    tries = (CAUGHT_BY_RUN, *range(10))
    assert any(main([*command, "--run", str(one)]) == VerificationError.exit_code for one in tries)
    assert re.search(r"worked in gestures \d+ without the memory of round \d+", capsys.readouterr().err)


# ------------------------------------------------------------------------------------------------ when a promise breaks


def test_a_defect_is_shrunk_and_replayed_by_one_command(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with MUTANTS["no dedupe"]():
        assert main([*argv(files, "plain"), "--runs", "50"]) == VerificationError.exit_code
        out, err = capsys.readouterr()
        assert "nothing was lost" not in out
        found = re.fullmatch(r"edgefl: error: run (\d+): (I2: .+); replay: edgefl (.+)\n", err)
        assert found is not None, err
        seed, message, command = found.groups()
        again = shlex.split(command)
        assert again[: len(argv(files, "plain"))] == argv(files, "plain")
        assert "--only" in again  # it is shrunk: not every kind of fault is needed

        assert main(again) == VerificationError.exit_code
        out, err = capsys.readouterr()
        assert err.startswith(f"edgefl: error: run {seed}: {message}; replay: ")
        assert "took" in out
        assert re.search(r"^ +\d+\.\d{3}  server\.\d +person \d gestures \d: ", out, re.MULTILINE)  # the trace

        failure = report(capsys, *again, status=VerificationError.exit_code)["failure"]
        assert (failure["seed"], failure["message"]) == (int(seed), message)
        assert failure["replay"] == f"edgefl {command}"
        assert failure["trace"]
    assert main(again) == 0  # without the defect


def test_the_replay_of_a_fleet_that_was_dealt_deals_it_again(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dealt = ["--partition", "iid", "--clients", "5", "--partition-seed", "3"]
    with MUTANTS["no dedupe"]():
        assert main([*argv(files, "plain"), *dealt, "--runs", "50"]) == VerificationError.exit_code
        (err,) = capsys.readouterr().err.splitlines()
        before, _, command = err.partition("; replay: edgefl ")
        again = shlex.split(command)
        at = again.index("--partition")
        assert again[at : at + 6] == ["--partition", "iid", "--clients", "5", "--partition-seed", "3"]
        assert main(again) == VerificationError.exit_code
        assert capsys.readouterr().err.startswith(f"{before}; replay: ")


def test_what_is_lost_is_counted(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with MUTANTS["synchronous = NORMAL"]():
        found = report(capsys, *argv(files, "plain"), "--runs", "50", status=VerificationError.exit_code)
    assert found["failure"]["message"].startswith("I1: ")
    assert found["updates"]["lost"] >= 1


def test_ctrl_c_prints_what_was_done(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Runner.run

    def interrupted(self: Runner, seed: int, *rest: Any) -> Any:
        if seed == 2:
            signal.raise_signal(signal.SIGINT)
        return run(self, seed, *rest)

    monkeypatch.setattr(Runner, "run", interrupted)
    before = signal.getsignal(signal.SIGINT)
    assert main([*argv(files, "plain"), "--runs", "1000"]) == 130
    out, err = capsys.readouterr()
    assert "2 of 1,000" in out
    assert err == "edgefl: error: stopped after 2 of 1000 runs; nothing was lost in them\n"
    assert signal.getsignal(signal.SIGINT) is before
    assert report(capsys, *argv(files, "plain"), "--runs", "9", status=130)["interrupted"] is True


def test_ctrl_c_while_a_failure_is_shrunk_still_tells_it(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shrunk = Runner.shrunk

    def interrupted(self: Runner, failure: Failure) -> Failure:
        signal.raise_signal(signal.SIGINT)
        return shrunk(self, failure)

    monkeypatch.setattr(Runner, "shrunk", interrupted)
    with MUTANTS["no dedupe"]():
        found = report(capsys, *argv(files, "plain"), "--runs", "50", status=VerificationError.exit_code)
    assert found["failure"]["replay"].endswith(f"--run {found['failure']['seed']}")


# ------------------------------------------------------------------------------------------------ options and the fleet


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--only", "los"], "--only names 'los'; expected none, or some of card-error,card-full,"),
        (["--out", "models"], "--out writes the models of a run without --faults; leave one of the two out"),
        (["--faults", "absent.toml"], "absent.toml: cannot be read: No such file or directory"),
    ],
)
def test_options_that_cannot_be_are_refused(
    options: list[str], message: str, files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*argv(files, "plain"), *options]) == ConfigError.exit_code
    assert capsys.readouterr().err.startswith(f"edgefl: error: {message}")


@pytest.mark.parametrize("options", [["--runs", "1"], ["--run", "0"], ["--only", "loss"], ["--until", "0"]])
def test_options_of_faults_without_faults_are_refused(
    options: list[str], files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = argv(files, "plain")[: -len(["--faults", "file"])]
    assert main([*plain, *options]) == ConfigError.exit_code
    assert capsys.readouterr().err == (
        "edgefl: error: --runs, --run, --only and --until belong to --faults; add it, or leave them out\n"
    )


@pytest.mark.parametrize(
    ("old", "new", "faults", "message"),
    [
        ("rounds = 50", "rounds = 50", "devices = 6", "devices is 6; data set 'people' has 5 clients"),
        ("minimum = 2", "minimum = 4", "devices = 3", "task 'gestures' needs at least 4 devices with examples"),
        (
            "over_selection = 1.25",
            "deadline_s = 3.0",
            "work_s = [1.0, 2.7]",
            "task 'gestures' has a deadline of 3 s, and a device may take 3.1 s; raise deadline_s, or lower work_s",
        ),
    ],
)
def test_a_fleet_that_cannot_do_its_tasks_is_no_fault(
    old: str, new: str, faults: str, message: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    task = tmp_path / "task.toml"
    task.write_text((files / "plain.toml").read_text().replace(old, new))
    path = tmp_path / "faults.toml"
    path.write_text(faults)
    command = ["simulate", str(task), "--dataset", str(files / "people.csv"), "--faults", str(path)]
    assert main(command) == ConfigError.exit_code
    assert capsys.readouterr().err.startswith(f"edgefl: error: {message}")


def test_neither_shell_is_loaded_without_the_option(files: Path) -> None:
    code = (
        "import sys; from edgefl.cli.main import main; status = main(sys.argv[1:]);"
        "loaded = [name for name in sys.modules if name.split('.')[0] in ('edgefl_server', 'edgefl_device', 'apsw')];"
        "print(loaded, 'edgefl.faults' in sys.modules, status, file=sys.stderr)"
    )
    for command, expected in ((argv(files, "plain")[:-2], "[] False 0\n"), (["--help"], "")):
        run = subprocess.run([*SCRIPT, code, *command], capture_output=True, text=True)
        assert (run.stderr, run.returncode) == (expected, 0)
