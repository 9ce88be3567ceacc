"""A faults file: what it may say, what each key does, and what a run makes of it."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from simulate_kit import QUIET, Tables, argv, report, toml, write_files

from edgefl.cli.main import faults_example, main
from edgefl.errors import ConfigError
from edgefl.faults.config import FaultsConfig, load_faults
from edgefl.faults.scenario import Kind, all_but, only


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("simulate-faults"))


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
        ("[network]\nuploads = 1.5", "network: uploads is 1.5; expected probabilities from 0 to 1"),
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
        ({}, ()),
        ({"network": {"loss": [0.3]}}, ("loss",)),
        ({"network": {"copies": [1.0]}}, ("copies",)),
        ({"network": {"delay": [0.5]}}, ("delay",)),
        ({"network": {"partitions": 9}}, ("partition",)),
        ({"network": {"uploads": 1.0}}, ()),
        ({"server": {"kills": 9}}, ("server-kill",)),
        ({"server": CUTS}, ("server-power", LOST, TORN)),
        ({"server": CUTS, "disk": {"lose_all": 1.0, "lose_none": 0.0}}, ("server-power", LOST)),
        ({"server": CUTS, "disk": {"lose_all": 0.0, "lose": 0.0, "torn": 1.0}}, ("server-power", TORN)),
        ({"server": CUTS, "disk": {"lose_all": 0.0, "lose": 0.0, "torn": 0.0}}, ("server-power",)),
        ({"server": CUTS, "disk": {"lose_all": 0.0, "lose_none": 1.0, "torn": 0.0}}, ("server-power",)),
        ({"server": {"restarts": 9}}, ("restart",)),
        ({"server": {"pauses": 9}}, ("pause",)),
        ({"server": {"sync_errors": 9}}, ("sync-error",)),
        ({"server": {"write_errors": 9}}, ("write-error",)),
        ({"server": {"disk_full": 3}}, ("disk-full",)),
        ({"server": {"takeovers": 9}}, ("takeover",)),
        ({"server": {"old_offers": [1.0]}}, ("old-offer",)),
        ({"device": {"kills": 9}}, ("device-kill",)),
        ({"device": {"power_cuts": 9}}, ("device-power",)),
        ({"device": {"card_full": 9}}, ("card-full",)),
        ({"device": {"card_errors": 9}}, ("card-error",)),
        ({"device": {"duplicates": 1.0}}, ("clone",)),
        ({"": {"clock_jumps": 9}}, ("wall-clock",)),
    ],
    ids=str,
)
def test_each_key_brings_its_kind_of_fault_and_no_other(
    change: Tables, kinds: tuple[str, ...], files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "faults.toml"
    path.write_text(toml(QUIET, change))
    assert set(report(capsys, *argv(files, "plain", faults=path), "--runs", "3")["faults"]) == set(kinds)


@pytest.mark.parametrize(("work_s", "uploads", "messages"), [(0.0, 0.0, 3), (20.0, 0.0, 3), (0.0, 1.0, 12)])
def test_a_round_takes_what_work_and_link_take(
    work_s: float, uploads: float, messages: int, files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "faults.toml"
    own: Tables = {
        "": {"work_s": [work_s, work_s]},
        "network": {"latency_s": [0.05, 0.05], "uploads": uploads},
        "server": {"releases": 0},
    }
    path.write_text(toml(QUIET, own))
    found = report(capsys, *argv(files, "plain", faults=path), "--runs", "3")["round_s"]
    messages_s = messages * 0.05  # assignment, model, perhaps an upload (9), report
    assert found["median"] == found["max"] == pytest.approx(work_s + messages_s, abs=0.03)  # a save, a gathered batch


def test_a_run_has_the_rounds_and_the_devices_that_the_file_says(
    files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "faults.toml"
    path.write_text("rounds = [7, 7]\ndevices = 4")
    found = report(capsys, *argv(files, "plain", faults=path), "--runs", "2")
    assert (found["rounds"]["committed"], found["devices"]) == (14, 4)
    path.write_text("rounds = [100, 100]")  # the definition's 50 are the most
    assert report(capsys, *argv(files, "plain", faults=path), "--run", "1")["rounds"]["committed"] == 50


def test_the_faults_end_when_the_file_or_the_option_says(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*argv(files, "plain"), "--runs", "4"]
    whole = report(capsys, *command)["faults"]
    part = report(capsys, *command, "--until", "3")["faults"]
    assert 0 < sum(part.values()) < sum(whole.values())
    assert set(report(capsys, *command, "--until", "0")["faults"]) <= {"clone"}
    assert set(report(capsys, *command, "--only", "loss,server-kill")["faults"]) == {"loss", "server-kill"}
    assert report(capsys, *command, "--only", "none")["faults"] == {}


def test_only_names_what_without_leaves() -> None:
    for kept in ((), (Kind.LOSS,), (Kind.SERVER_POWER, Kind.LOSS, Kind.CLONE)):
        without = tuple(kind for kind in Kind if kind not in kept)
        assert all_but(only(without)) == without
    assert only(tuple(Kind)) == "none"
