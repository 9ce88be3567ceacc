"""``edgefl simulate --faults``: a user's own tasks over a fleet that breaks, from the command line to the last line."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import random
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from faults.mutants import MUTANTS

from edgefl.cli.faults.checks import Promises
from edgefl.cli.faults.config import FaultsConfig, load_faults
from edgefl.cli.faults.definition import to_toml
from edgefl.cli.faults.fleet import TaskFleet
from edgefl.cli.faults.run import Failure, Runner, runner
from edgefl.cli.faults.scenario import Kind, all_but, only, scenario
from edgefl.cli.faults.tally import Tally, Totals
from edgefl.cli.main import faults_example, main
from edgefl.datasets import load
from edgefl.errors import ConfigError, VerificationError
from edgefl.protocol.messages import Assignment, ClientUpdate
from edgefl.protocol.task import TaskKind, parse_task
from edgefl.simulation import simulate

EDGEFL = str(Path(sys.executable).with_name("edgefl"))

TASKS = {
    "spreads": """
name = "spreads"
kind = "statistics"
population = "watches"
rounds = 2
round = { goal = 4, minimum = 2 }
model = { num_features = 3, num_classes = 3 }
statistics = { feature_bound = 8.0 }
""",
    "gestures": """
name = "gestures"
kind = "training"
population = "watches"
seed = 11
rounds = 50
round = { goal = 4, minimum = 2, over_selection = 1.25 }
model = { num_features = 3, num_classes = 3, standardize_by = "spreads" }
client = { learning_rate = 0.2, batch_size = 4 }
server_optimizer = { learning_rate = 1.0, momentum = 0.5 }
""",
    "accuracy": """
name = "accuracy"
kind = "evaluation"
population = "watches"
rounds = 60
evaluates = "gestures"
round = { goal = 4, minimum = 2 }
""",
}
CLIENTS = 5
SEEDS = 6

Tables = dict[str, dict[str, Any]]

QUIET: Tables = {
    "": {"clock_jumps": 0},
    "network": {"loss": [0.0], "copies": [0.0], "delay": [0.0], "partitions": 0},
    "server": dict.fromkeys(("kills", "power_cuts", "sync_errors", "write_errors", "disk_full", "takeovers"), 0)
    | {"old_offers": [0.0], "restarts": 0, "pauses": 0},
    "device": dict.fromkeys(("kills", "power_cuts", "card_full", "card_errors", "duplicates"), 0),
}
"""Every kind of fault switched off."""


def toml(*layers: Tables) -> str:
    """The tables of all layers; a later one wins."""
    names = {name: None for layer in layers for name in layer}
    lines = []
    for name in names:
        lines.append(f"[{name}]" if name else "")
        values = {key: value for layer in layers for key, value in layer.get(name, {}).items()}
        lines.extend(f"{key} = {json.dumps(value)}" for key, value in values.items())
    return "\n".join(lines)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with three tasks, a data set of five clients, and an empty faults file."""
    folder = tmp_path_factory.mktemp("simulate-faults")
    for name, text in TASKS.items():
        (folder / f"{name}.toml").write_text(text)
    plain = TASKS["gestures"].replace(', standardize_by = "spreads"', "")
    (folder / "plain.toml").write_text(plain)
    chance = random.Random(5)
    rows = ["client,label,split,a,b,c"]
    for client in range(CLIENTS):
        for number in range(12 + client):
            label = chance.randrange(3)
            features = (f"{chance.gauss(float(label == index), 1.0):.3f}" for index in range(3))
            rows.append(f"person {client},{label},{'held_out' if number % 4 == 0 else 'train'},{','.join(features)}")
    (folder / "people.csv").write_text("\n".join(rows))
    (folder / "faults.toml").write_text("")
    return folder


def argv(files: Path, *tasks: str, faults: Path | None = None) -> list[str]:
    paths = [str(files / f"{name}.toml") for name in tasks or TASKS]
    return [
        "simulate",
        *paths,
        "--dataset",
        str(files / "people.csv"),
        "--faults",
        str(faults or files / "faults.toml"),
    ]


def report(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == status
    return dict(json.loads(capsys.readouterr().out))


# ------------------------------------------------------------------------------------------------ a whole run


def test_the_users_tasks_lose_nothing_on_a_fleet_that_breaks(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*argv(files), "--seeds", str(SEEDS)]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[1:3] == [f"runs that kept every promise {SEEDS} of {SEEDS}", f"devices {CLIENTS}"]
    assert any(
        re.fullmatch(r"a committed round took median [\d.]+ s, p90 .+ s, max .+ s \(virtual\)", x) for x in lines
    )
    assert any(re.fullmatch(r"fault: server-power [1-9]\d*", line) for line in lines)
    assert out.splitlines()[-1].startswith("nothing was lost: ")

    found = report(capsys, *argv(files), "--seeds", str(SEEDS))
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
    command = [*argv(files), "--seeds", "3", "--json"]
    assert main(command) == 0
    here = capsys.readouterr().out
    there = subprocess.run([EDGEFL, *command], capture_output=True, text=True)
    assert here.count("\n") == 1
    assert (there.returncode, there.stdout, there.stderr) == (0, here, "")


def test_a_trace_is_the_same_in_every_folder(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "faults.toml"
    path.write_text(toml(QUIET, {"server": {"write_errors": 20}}))
    command = [*argv(files, "plain", faults=path), "--seed", "3"]
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


# ------------------------------------------------------------------------------------------------ when a promise breaks


def test_a_defect_is_shrunk_and_replayed_by_one_command(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with MUTANTS["no dedupe"]():
        assert main([*argv(files, "plain"), "--seeds", "50"]) == VerificationError.exit_code
        out, err = capsys.readouterr()
        assert "nothing was lost" not in out
        found = re.fullmatch(r"edgefl: error: seed (\d+): (I2: .+); replay: edgefl (.+)\n", err)
        assert found is not None, err
        seed, message, command = found.groups()
        again = shlex.split(command)
        assert again[: len(argv(files, "plain"))] == argv(files, "plain")
        assert "--only" in again  # it is shrunk: not every kind of fault is needed

        assert main(again) == VerificationError.exit_code
        out, err = capsys.readouterr()
        assert err.startswith(f"edgefl: error: seed {seed}: {message}; replay: ")
        assert "took" in out
        assert re.search(r"^ +\d+\.\d{3}  server\.\d +person \d gestures \d: ", out, re.MULTILINE)  # the trace

        failure = report(capsys, *again, status=VerificationError.exit_code)["failure"]
        assert (failure["seed"], failure["message"]) == (int(seed), message)
        assert failure["replay"] == f"edgefl {command}"
        assert failure["trace"]
    assert main(again) == 0  # without the defect


def test_what_is_lost_is_counted(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with MUTANTS["synchronous = NORMAL"]():
        found = report(capsys, *argv(files, "plain"), "--seeds", "50", status=VerificationError.exit_code)
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
    assert main([*argv(files, "plain"), "--seeds", "1000"]) == 130
    out, err = capsys.readouterr()
    assert "2 of 1,000" in out
    assert err == "edgefl: error: stopped after 2 of 1000 runs; nothing was lost in them\n"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert report(capsys, *argv(files, "plain"), "--seeds", "9", status=130)["interrupted"] is True


def test_ctrl_c_while_a_failure_is_shrunk_still_tells_it(
    files: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shrunk = Runner.shrunk

    def interrupted(self: Runner, failure: Failure) -> Failure:
        signal.raise_signal(signal.SIGINT)
        return shrunk(self, failure)

    monkeypatch.setattr(Runner, "shrunk", interrupted)
    with MUTANTS["no dedupe"]():
        found = report(capsys, *argv(files, "plain"), "--seeds", "50", status=VerificationError.exit_code)
    assert found["failure"]["replay"].endswith(f"--seed {found['failure']['seed']}")


# ------------------------------------------------------------------------------------------------ the faults file


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("unti_s = 3", "unknown key 'unti_s'; did you mean 'until_s'?"),
        ("[server]\nkils = 3", "server: unknown key 'kils'; did you mean 'kills'?"),
        ("until_s = -1", "until_s is -1.0; expected 0 to 1e+06 seconds"),
        ("rounds = 3", "rounds is 3; expected a list"),
        ("rounds = [3]", "rounds is [3]; expected [low, high] within 1 to 1e+06"),
        ("rounds = [5, 3]", "rounds is [5, 3]; expected [low, high] within 1 to 1e+06"),
        ("rounds = [1.5, 3]", "rounds[0] is 1.5; expected a whole number"),
        ("devices = -1", "devices is -1; expected 0 (all) to 49999"),
        ("work_s = [0.3, inf]", "work_s is [0.3, inf]; expected [low, high] within 0 to 1e+06"),
        ("lasts_s = [nan, 1]", "lasts_s is [nan, 1.0]; expected [low, high] within 0 to 1e+06"),
        ("clock_jumps = 1001", "clock_jumps is 1001; expected 0 to 1000, the most of them in a run"),
        ("[network]\nloss = 0.1", "network: loss is 0.1; expected a list"),
        ("[network]\nloss = []", "network: loss is []; expected probabilities from 0 to 1"),
        ("[network]\ncopies = [0.1, 1.1]", "network: copies is [0.1, 1.1]; expected probabilities from 0 to 1"),
        ("[network]\ndelay = ['often']", "network: delay[0] is 'often'; expected a number"),
        ("[network]\nlatency_s = [-1, 1]", "network: latency_s is [-1.0, 1.0]; expected [low, high] within 0 to 1e+06"),
        ("[network]\npartitions = -1", "network: partitions is -1; expected 0 to 1000, the most of them in a run"),
        ("[server]\npower_cuts = 0.5", "server: power_cuts is 0.5; expected a whole number"),
        (
            "[server]\nretention_rounds = [0]",
            "server: retention_rounds is [0]; expected a list of whole numbers from 1 to 1000000",
        ),
        ("[device]\nduplicates = 2", "device: duplicates is 2.0; expected probabilities from 0 to 1"),
        (
            "[disk]\nlose_all = 0.7\nlose_none = 0.7",
            "disk: lose_all 0.7 and lose_none 0.7; expected at most 1 in all",
        ),
        ("network = 1", "network is 1; expected a table"),
        ("until_s = ", "not valid TOML: Invalid value (at end of document)"),
    ],
)
def test_a_wrong_faults_file_is_one_clear_line(
    text: str, message: str, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "faults.toml"
    path.write_text(text)
    assert main(argv(files, faults=path)) == ConfigError.exit_code
    assert capsys.readouterr().err == f"edgefl: error: {path}: {message}\n"


def test_the_example_says_every_key_and_its_default() -> None:
    assert load_faults(faults_example()) == FaultsConfig()
    text = faults_example().read_text()
    tables = [FaultsConfig(), *(getattr(FaultsConfig(), name) for name in ("network", "server", "device", "disk"))]
    for field in (field for table in tables for field in dataclasses.fields(table)):
        assert re.search(rf"^(\[{field.name}\]|{field.name} = )", text, re.MULTILINE), field.name


LOST, TORN = "unsynced-write-lost", "torn-write"
CUTS = {"power_cuts": 30}


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        ({}, set()),
        ({"network": {"loss": [0.3]}}, {"loss"}),
        ({"network": {"copies": [1.0]}}, {"copies"}),
        ({"network": {"delay": [0.5]}}, {"delay"}),
        ({"network": {"partitions": 9}}, {"partition"}),
        ({"server": {"kills": 9}}, {"server-kill"}),
        ({"server": CUTS}, {"server-power", LOST, TORN}),
        ({"server": CUTS, "disk": {"lose_all": 1.0, "lose_none": 0.0}}, {"server-power", LOST}),
        ({"server": CUTS, "disk": {"lose_all": 0.0, "lose": 0.0, "torn": 1.0}}, {"server-power", TORN}),
        ({"server": CUTS, "disk": {"lose_all": 0.0, "lose": 0.0, "torn": 0.0}}, {"server-power"}),
        ({"server": CUTS, "disk": {"lose_all": 0.0, "lose_none": 1.0, "torn": 0.0}}, {"server-power"}),
        ({"server": {"restarts": 9}}, {"restart"}),
        ({"server": {"pauses": 9}}, {"pause"}),
        ({"server": {"sync_errors": 9}}, {"sync-error"}),
        ({"server": {"write_errors": 9}}, {"write-error"}),
        ({"server": {"disk_full": 3}}, {"disk-full"}),
        ({"server": {"takeovers": 9}}, {"takeover"}),
        ({"server": {"old_offers": [1.0]}}, {"old-offer"}),
        ({"device": {"kills": 9}}, {"device-kill"}),
        ({"device": {"power_cuts": 9}}, {"device-power"}),
        ({"device": {"card_full": 9}}, {"card-full"}),
        ({"device": {"card_errors": 9}}, {"card-error"}),
        ({"device": {"duplicates": 1.0}}, {"clone"}),
        ({"": {"clock_jumps": 9}}, {"wall-clock"}),
    ],
    ids=str,
)
def test_each_key_brings_its_kind_of_fault_and_no_other(
    change: Tables, kinds: set[str], files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "faults.toml"
    path.write_text(toml(QUIET, change))
    assert set(report(capsys, *argv(files, "plain", faults=path), "--seeds", "8")["faults"]) == kinds


@pytest.mark.parametrize("work_s", [0.0, 20.0])
def test_a_round_takes_what_work_and_link_take(
    work_s: float, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "faults.toml"
    own: Tables = {"": {"work_s": [work_s, work_s]}, "network": {"latency_s": [0.05, 0.05]}, "server": {"releases": 0}}
    path.write_text(toml(QUIET, own))
    found = report(capsys, *argv(files, "plain", faults=path), "--seeds", "3")["round_s"]
    messages_s = 3 * 0.05  # assignment, model, report
    assert found["median"] == found["max"] == pytest.approx(work_s + messages_s, abs=0.03)  # a save, a gathered batch


def test_a_run_has_the_rounds_and_the_devices_that_the_file_says(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "faults.toml"
    path.write_text("rounds = [7, 7]\ndevices = 4")
    found = report(capsys, *argv(files, "plain", faults=path), "--seeds", "2")
    assert (found["rounds"]["committed"], found["devices"]) == (14, 4)
    path.write_text("rounds = [100, 100]")  # the definition's 50 are the most
    assert report(capsys, *argv(files, "plain", faults=path), "--seed", "1")["rounds"]["committed"] == 50


def test_the_faults_end_when_the_file_or_the_option_says(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*argv(files, "plain"), "--seeds", "4"]
    whole = report(capsys, *command)["faults"]
    part = report(capsys, *command, "--until", "3")["faults"]
    assert 0 < sum(part.values()) < sum(whole.values())
    assert set(report(capsys, *command, "--until", "0")["faults"]) <= {"clone"}
    assert set(report(capsys, *command, "--only", "loss,server-kill")["faults"]) == {"loss", "server-kill"}
    assert report(capsys, *command, "--only", "none")["faults"] == {}


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


@pytest.mark.parametrize("options", [["--seeds", "1"], ["--seed", "0"], ["--only", "loss"], ["--until", "0"]])
def test_options_of_faults_without_faults_are_refused(
    options: list[str], files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = argv(files, "plain")[: -len(["--faults", "file"])]
    assert main([*plain, *options]) == ConfigError.exit_code
    assert capsys.readouterr().err == (
        "edgefl: error: --seeds, --seed, --only and --until belong to --faults; add it, or leave them out\n"
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
        "print(loaded, 'edgefl.cli.faults' in sys.modules, status, file=sys.stderr)"
    )
    for command, expected in ((argv(files, "plain")[:-2], "[] False 0\n"), (["--help"], "")):
        run = subprocess.run([sys.executable, "-c", code, *command], capture_output=True, text=True)
        assert (run.stderr, run.returncode) == (expected, 0)


def test_a_definition_written_anew_is_the_same_task() -> None:
    texts = [*TASKS.values(), *(path.read_text() for path in (faults_example().parent.parent / "tasks").glob("*.toml"))]
    texts.append(
        TASKS["gestures"].replace("seed = 11", "seed = 9223372036854775807\naggregator = { norm_bound = 1e-5 }")
    )
    texts.append(TASKS["gestures"].replace("batch_size = 4", "shuffle = false, local_epochs = 0"))
    texts.append(TASKS["gestures"].replace("num_classes = 3", 'num_classes = 3, dtype = "int8", scale = 0.1'))
    specs = [parse_task(text, "a task") for text in texts]
    assert {spec.kind for spec in specs} == set(TaskKind)
    for spec in specs:
        assert parse_task(to_toml(spec), "written anew") == spec


def test_a_run_gives_no_task_more_rounds_than_it_can_have(files: Path) -> None:
    short = TASKS["accuracy"].replace('"accuracy"', '"early"').replace("rounds = 60", "rounds = 2")
    tasks = [parse_task(text, "a task") for text in (*TASKS.values(), short)]
    fleet = TaskFleet(tasks, load(str(files / "people.csv")), 0)
    for wanted, expected in ((100, 50), (4, 4)):
        found = {spec.name: spec.rounds for spec, _ in fleet.definitions(wanted)}
        assert found == {"spreads": 2, "gestures": expected, "accuracy": expected, "early": 2}


def test_a_tally_reads_the_ledger_that_a_run_left() -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE rounds (task, round, phase)")
        db.execute("CREATE TABLE reports (task, round, device, counted)")
        db.executemany("INSERT INTO rounds VALUES ('t', ?, ?)", [(1, "committed"), (2, "abandoned"), (3, "committed")])
        kept = [(1, "a", 1), (1, "b", 1), (2, "a", 0), (2, "b", 0), (3, "a", 1), (3, "b", 0), (3, "unknown", 1)]
        db.executemany("INSERT INTO reports VALUES ('t', ?, ?, ?)", kept)
        keys = [("t", number, device) for number, device, _ in kept[:-1]]  # no receipt of the last one left
        promises = Promises(sequences={key: at for at, key in enumerate([*keys, ("t", 3, "gone")])}, late={keys[0]})
        tally = Tally()
        for number, begun, ended in ((1, 1.0, 3.0), (2, 4.0, 5.0), (3, 6.0, 16.0)):
            tally.begins(("t", number), begun)
            tally.begins(("t", number), begun + 0.5)  # after a restart that forgot it
            tally.ends(("t", number), ended - 0.5)
            tally.ends(("t", number), ended)
        tally.close(db, promises, 20.0)
    assert (tally.committed, tally.abandoned, tally.durations_s) == (2, 1, [2.0, 10.0])
    assert (tally.acknowledged, tally.counted, tally.not_counted, tally.late) == (7, 3, 2, 1)
    assert tally.lost == 2  # one is gone, one was not counted by the round that committed
    totals = Totals()
    assert totals.round_s is None
    totals.add(tally)
    assert totals.round_s == {"median": 2.0, "p90": 10.0, "max": 10.0}
    totals.add(tally)
    totals.add_lost(1)
    found = {"acknowledged": 14, "counted": 6, "not_counted": 4, "late": 2, "lost": 5}
    assert (totals.as_dict()["updates"], totals.run_s) == (found, {"median": 20.0, "p90": 20.0, "max": 20.0})


def test_a_cloned_card_holds_other_examples(files: Path) -> None:
    spec = parse_task((files / "plain.toml").read_text(), "plain")
    fleet = TaskFleet([spec], load(str(files / "people.csv")), 0)
    process = fleet.process(spec, None, None)
    state = process.initialize()
    assignment = Assignment("gestures", 1, 11, process.plan(state), state.model_digest, len(state.model), 60.0)
    first, again, clone = (fleet.work(assignment, state.model, "person 1", copy) for copy in (0, 0, 1))
    assert isinstance(first, ClientUpdate)
    assert isinstance(clone, ClientUpdate)
    assert first == again
    assert clone.num_examples == first.num_examples - 1


def test_only_names_what_without_leaves() -> None:
    for kept in ((), (Kind.LOSS,), (Kind.SERVER_POWER, Kind.LOSS, Kind.CLONE)):
        without = tuple(kind for kind in Kind if kind not in kept)
        assert all_but(only(without)) == without
    assert only(tuple(Kind)) == "none"
