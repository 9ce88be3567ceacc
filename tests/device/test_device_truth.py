"""What the agent's log and status say after a failure: what failed, its kind and text, and when the next try comes."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from device_fleet import (
    DIGEST,
    LATER,
    MODEL,
    NOW,
    ScriptedFleet,
    answers,
    assignment,
    end_device,
    fill,
    release,
    start_device,
    wait_for_line,
    write_config,
)

from edgefl.errors import UpdateRefusal
from edgefl.protocol.messages import (
    Accepted,
    CheckInAnswer,
    ClientUpdate,
    Noted,
    Receipt,
    Refused,
    Rejection,
    Report,
    WorkFailure,
)
from edgefl.protocol.session import SessionMachine
from edgefl.protocol.session_events import (
    CheckInAnswered,
    NotEligible,
    ReleaseFailed,
    RpcFailed,
    SessionEvent,
    Started,
    TimerFired,
    UpdateSaved,
    WorkDone,
    WorkFailed,
)
from edgefl.protocol.session_state import SessionConfig
from edgefl_device.content import MAX_RELEASE_BYTES
from edgefl_device.main import main
from edgefl_device.narrator import Story, tell
from edgefl_device.status import Status
from edgefl_device.status_command import format_status


@pytest.fixture
def fleet() -> Iterator[ScriptedFleet]:
    server = ScriptedFleet()
    server.content[bytes.fromhex(DIGEST)] = MODEL
    server.report_retry = NOW
    yield server
    server.stop()


def log_of(config: Path, *arguments: str) -> list[str]:
    """Run the agent until the server has no more work, or with ``--once``; returns the log without times."""
    lines = list[str]()
    with start_device("run", "--config", str(config), *arguments) as agent:
        assert agent.stderr is not None
        for line in agent.stderr:
            lines.append(re.sub(r".*edgefl-device: ", "", line.rstrip("\n")))
            if "INFO: no work" in line and not arguments:
                agent.terminate()
    assert agent.returncode == 0
    return lines


def status_of(config: Path, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    assert main(["status", "--config", str(config), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert main(["status", "--config", str(config)]) == 0
    return found, capsys.readouterr().out


def test_a_log_of_failures_tells_no_success(
    tmp_path: Path, fleet: ScriptedFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, fleet.address)
    fill(config)
    fits = assignment(MODEL, DIGEST)
    other_shape = assignment(MODEL, DIGEST, shape=(5, 2))
    reason = "task 'shoulder' waits for 1 of 2 devices"
    answers(
        fleet,
        CheckInAnswer(other_shape, NOW),
        CheckInAnswer(replace(fits, round_num=2), NOW),
        CheckInAnswer(replace(fits, round_num=3), NOW),
        CheckInAnswer(Rejection(reason), LATER),
    )

    def receipt(report: Report) -> Receipt:
        if isinstance(report, WorkFailure):
            return Noted()
        norm = Refused(UpdateRefusal.NORM, "the L2 norm is 3; expected at most 1")
        return norm if report.round_num == 3 else Accepted(7)

    fleet.on_report = receipt
    failure = "DataError: the examples have 4 float32 features; the model reads 5 float32"
    refusal = "the update was refused (NORM): the L2 norm is 3; expected at most 1"
    assert log_of(config) == [
        f"INFO: device pi-01, session 1, server {fleet.address}",
        "INFO: task shoulder round 1: work begins",
        f"WARNING: task shoulder round 1 failed: {failure}",
        "INFO: task shoulder round 1: the server was told of the failure; next try at once",
        "INFO: task shoulder round 2: work begins",
        "INFO: task shoulder round 2: accepted as 7",
        "INFO: task shoulder round 3: work begins",
        f"WARNING: task shoulder round 3 failed: {refusal}; next try at once",
        f"INFO: no work: {reason}",
    ]
    status, text = status_of(config, capsys)
    assert (status["rounds_reported"], status["rounds_failed"], status["last_outcome"]) == (1, 2, refusal)
    assert status["last_failure"] == f"task shoulder round 3 failed: {refusal}"
    assert status["updated_at"] - 60 < status["last_failure_at"] <= status["updated_at"]
    assert status["no_work"] == reason
    assert f": task shoulder round 3 failed: {refusal}\n" in text
    assert "reported    1 updates accepted and 2 rounds failed since the agent started\n" in text


def test_a_save_that_fails_is_reported_as_a_failure(
    tmp_path: Path, fleet: ScriptedFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, fleet.address)
    fill(config)
    (tmp_path / "state" / "outbox.tmp").mkdir()  # the outbox cannot be written, as on a disk that is full
    answers(fleet, CheckInAnswer(assignment(MODEL, DIGEST), NOW))
    fleet.on_report = lambda report: Accepted(1) if isinstance(report, ClientUpdate) else Noted()
    log = log_of(config)
    (report,) = fleet.reports
    assert isinstance(report, WorkFailure)
    assert report.kind == "StorageError"
    assert report.message.startswith(f"cannot write {tmp_path / 'state' / 'outbox'}: ")
    assert f"WARNING: task shoulder round 1 failed: StorageError: {report.message}" in log
    status, text = status_of(config, capsys)
    assert (status["rounds_reported"], status["rounds_failed"]) == (0, 1)
    assert f"round 1: failed: StorageError: {report.message}\n" in text


def test_a_refused_release_is_not_shown_as_one_that_runs(
    tmp_path: Path, fleet: ScriptedFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, fleet.address)
    fill(config)
    no_work = Rejection("no work")
    good, huge = release("watch", 3, DIGEST, len(MODEL)), release("watch", 4, DIGEST, MAX_RELEASE_BYTES + 1)
    answers(fleet, CheckInAnswer(no_work, LATER, (good,)))
    assert log_of(config, "--once")[-1] == "INFO: release 'watch' version 3 is installed"
    answers(fleet, CheckInAnswer(no_work, LATER, (huge,)))
    log = log_of(config, "--once")
    assert log[-1].startswith("WARNING: release 'watch' version 4 is refused: release watch has ")
    status, text = status_of(config, capsys)
    assert status["releases"] == ["watch 3"]
    assert "releases    watch 3\nrefused     release watch 4: release watch has " in text


def test_a_second_agent_of_a_folder_is_told_which_one_is_the_first(
    tmp_path: Path, fleet: ScriptedFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, fleet.address)
    fill(config)
    with start_device("run", "--config", str(config)) as first:
        wait_for_line(first, "no work")
        with start_device("run", "--config", str(config)) as second:
            _, error = second.communicate(timeout=20)
        assert (second.returncode, error.count("\n")) == (73, 1)
        state = tmp_path / "state"
        assert f"error: {state} is in use by another agent (process {first.pid}); stop it, or use another" in error
        status, _ = status_of(config, capsys)
        assert (status["running"], status["pid"], status["session"]) == (True, first.pid, 1)
        assert end_device(first, signal.SIGTERM) == 0
    assert len(fleet.check_ins) == 1


def test_a_waiting_agent_says_why_it_had_no_work() -> None:
    status = Status(
        "pi-01", "watch", "0.1.0", 1, 1, phase="idle", no_work="waiting for 1 of 2 devices", next_try_at=130.0
    )
    lines = format_status(status, True, (), wall_now=100.0).splitlines()
    assert lines[2] == "phase       idle: no work at the last check-in: waiting for 1 of 2 devices; next try in 30 s"
    lines = format_status(replace(status, last_error="no route"), True, (), wall_now=140.0).splitlines()
    assert lines[2] == "phase       idle: no route"


# without a process: what takes minutes of waiting


def highest(_: float, high: float) -> float:
    """Draws no chance: every wait is as long as it may be."""
    return high


class Told:
    """A session, its story, and the lines that were told since they were last asked for."""

    def __init__(self) -> None:
        self.machine = SessionMachine(SessionConfig(), highest)
        self.story = Story()
        self._lines = list[str]()
        self.feed(Started())

    def feed(self, *events: SessionEvent) -> list[str]:
        for event in events:
            before = self.machine.state
            effects = self.machine.handle(event, 0.0)
            self.story, lines = tell(self.story, event, before, self.machine.state, effects, 1000.0)
            self._lines += [f"{'WARNING' if line.warning else 'INFO'}: {line.text}" for line in lines]
        told, self._lines = self._lines, []
        return told


def rejected(reason: str = "none") -> CheckInAnswered:
    return CheckInAnswered(CheckInAnswer(Rejection(reason), LATER))


def test_a_lost_link_is_told_once_and_so_is_its_end() -> None:
    told = Told()
    assert told.feed(TimerFired(), RpcFailed("no route", transient=True)) == ["WARNING: no route; next try in 1 s"]
    assert told.story.next_try_at == 1001.0
    assert told.feed(TimerFired(), RpcFailed("no route", transient=True)) == []
    assert told.story.next_try_at == 1002.0
    assert told.feed(TimerFired(), RpcFailed("refused", transient=False))[0].startswith(
        "WARNING: refused; next try in "
    )
    assert told.feed(TimerFired()) == []
    assert told.story.next_try_at == 0.0
    assert told.feed(rejected()) == ["INFO: the server answers again", "INFO: no work: none"]
    assert told.feed(TimerFired(), rejected()) == []
    assert told.feed(TimerFired(), rejected("other")) == ["INFO: no work: other"]


def test_a_device_that_is_not_eligible_does_not_blame_the_link() -> None:
    told = Told()
    assert told.feed(TimerFired(), NotEligible("82 degrees")) == ["WARNING: not eligible: 82 degrees; next try in 60 s"]
    assert told.feed(TimerFired(), NotEligible("82 degrees")) == []
    assert told.feed(TimerFired(), rejected()) == ["INFO: the device may work again", "INFO: no work: none"]


def test_an_update_that_is_refused_for_good_has_failed() -> None:
    told = Told()
    told.feed(TimerFired(), CheckInAnswered(CheckInAnswer(assignment(b"", ""), NOW)))
    update = ClientUpdate("shoulder", 1, "", "float32", b"", 1, 1, 1, 0)
    told.feed(WorkDone(update), UpdateSaved())
    (line,) = told.feed(RpcFailed("larger than 1 MiB", transient=False))
    assert line.startswith("WARNING: task shoulder round 1 failed: its report is given up: larger than 1 MiB; next ")
    assert told.story.failed == 1


def test_a_failure_is_not_followed_by_good_news() -> None:
    told = Told()
    told.feed(TimerFired(), CheckInAnswered(CheckInAnswer(replace(assignment(b"", "")), NOW)))
    failure = WorkFailure("shoulder", 1, "KernelError", "a logit is nan")
    assert told.feed(WorkFailed(failure)) == ["WARNING: task shoulder round 1 failed: KernelError: a logit is nan"]
    lost = told.feed(RpcFailed("revoked", transient=False))
    assert lost[0].startswith("WARNING: task shoulder round 1: the server was not told of the failure: revoked; next ")
    assert told.story.failed == 1
    assert told.feed(TimerFired(), rejected()) == ["INFO: no work: none"]
    assert told.feed(ReleaseFailed(release("watch", 1, DIGEST, 1), "release watch: no space")) == [
        "WARNING: release watch: no space; it is tried again after a later check-in"
    ]
    assert told.feed(TimerFired(), rejected()) == []
    assert told.story.failure.startswith("task shoulder round 1 failed")
