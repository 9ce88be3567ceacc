"""The agent as a real process against a scripted server."""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import signal
import threading
from array import array
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from device_fleet import (
    DIGEST,
    LATER,
    MODEL,
    NO_WORK,
    NOW,
    ScriptedFleet,
    answers,
    assignment,
    end_device,
    fill,
    release,
    run_device,
    start_device,
    wait_for_line,
    write_config,
)

from edgefl.learning.client import run_plan
from edgefl.protocol.messages import (
    Accepted,
    AlreadyAccepted,
    CheckIn,
    CheckInAnswer,
    ClientUpdate,
    Fate,
    PersonalizationWork,
    Plan,
    Receipt,
    Rejection,
    Report,
    Split,
    TrainingWork,
    WorkFailure,
)
from edgefl.types import Examples
from edgefl.wire import report_to_proto
from edgefl_device.config import load_config
from edgefl_device.example_store import ExampleStore, Row
from edgefl_device.main import main
from edgefl_device.state import Notes, StateDir
from edgefl_device.status import peak_rss_bytes, read_status


@pytest.fixture
def fleet() -> Iterator[ScriptedFleet]:
    server = ScriptedFleet()
    server.content[bytes.fromhex(DIGEST)] = MODEL
    yield server
    server.stop()


def stored(config: Path) -> Examples:
    loaded = load_config(config)
    with ExampleStore.open(loaded.store_path, loaded.examples) as store:
        return store.load(Split.TRAIN)


def test_a_round_is_trained_and_reported_as_the_simulation_would(tmp_path: Path, fleet: ScriptedFleet) -> None:
    config = write_config(tmp_path, fleet.address)
    fill(config)
    work = assignment(MODEL, DIGEST, epochs=3)
    answers(fleet, CheckInAnswer(work, NOW))
    assert run_device("run", "--config", str(config), "--once") == 0
    none = Examples(4, b"", b"")
    assert fleet.reports == [run_plan(work, MODEL, stored(config), none, "pi-01")]
    assert fleet.check_ins[0].num_train == 20
    assert fleet.check_ins[0].session == 1
    state = StateDir.open(tmp_path / "state", "pi-01")
    assert state.found_outbox is None
    assert (state.notes.last_task, state.notes.last_round, state.notes.task) == ("shoulder", 1, "")
    state.close()


def test_a_personalization_reads_both_splits_and_reports_as_the_simulation_would(
    tmp_path: Path, fleet: ScriptedFleet
) -> None:
    config = write_config(tmp_path, fleet.address)
    fill(config)
    loaded = load_config(config)
    with ExampleStore.open(loaded.store_path, loaded.examples) as store:
        store.append_many([Row(array("f", [0.5, -1.0, n / 7, 2.0]), n % 3, Split.HELD_OUT) for n in range(7)])
        held_out = store.load(Split.HELD_OUT)
    work = assignment(MODEL, DIGEST, epochs=3)
    assert isinstance(work.plan.work, TrainingWork)
    plan = Plan(work.plan.model, PersonalizationWork(work.plan.work), "int64")
    work = replace(work, plan=plan)
    answers(fleet, CheckInAnswer(work, NOW))
    assert run_device("run", "--config", str(config), "--once") == 0
    assert fleet.reports == [run_plan(work, MODEL, stored(config), held_out, "pi-01")]
    assert isinstance(fleet.reports[0], ClientUpdate)
    assert fleet.reports[0].num_examples == 7


def test_the_fate_of_the_last_report_is_asked_for_once(tmp_path: Path, fleet: ScriptedFleet) -> None:
    config = write_config(tmp_path, fleet.address)
    fill(config)
    answers(fleet, CheckInAnswer(assignment(MODEL, DIGEST), NOW))
    assert run_device("run", "--config", str(config), "--once") == 0
    answers(fleet, CheckInAnswer(Rejection("no work"), LATER, (), Fate.COUNTED))
    assert run_device("run", "--config", str(config), "--once") == 0
    assert [(c.last_task, c.last_round, c.session) for c in fleet.check_ins] == [("", 0, 1), ("shoulder", 1, 2)]


def test_a_training_agent_loads_no_numpy_and_stays_small(tmp_path: Path, fleet: ScriptedFleet) -> None:
    config = write_config(tmp_path, fleet.address)
    fill(config)
    answers(fleet, CheckInAnswer(assignment(MODEL, DIGEST, epochs=5), NOW))
    seen: list[tuple[str, int]] = []
    started = threading.Event()

    def look(_: Report) -> Receipt:
        started.wait(10)
        seen.append((Path(f"/proc/{process.pid}/maps").read_text(), peak_rss_bytes(process.pid)))
        return Accepted(1)

    fleet.on_report = look
    with start_device("run", "--config", str(config), "--once") as process:
        started.set()
        process.communicate(timeout=30)
    assert process.returncode == 0
    maps, peak = seen[0]
    assert "_kernels" in maps  # the agent's memory map is what was read
    assert "cygrpc" in maps
    assert "numpy" not in maps
    assert 10e6 < peak < 56e6, peak  # design §11; bench/ measures exactly


def test_an_update_that_cannot_be_saved_is_not_reported(tmp_path: Path, fleet: ScriptedFleet) -> None:
    """After a power cut the device would train again, with other bits for a round that counted the first ones."""
    config = write_config(tmp_path, fleet.address)
    fill(config)
    (tmp_path / "state" / "outbox.tmp").mkdir(parents=True)  # where its bytes go before they have their name
    answers(fleet, CheckInAnswer(assignment(MODEL, DIGEST), NOW))
    run_device("run", "--config", str(config), "--once")
    (report,) = fleet.reports
    assert isinstance(report, WorkFailure)
    assert (report.kind, report.round_num) == ("StorageError", 1)
    assert "outbox" in report.message


def test_an_update_outlives_kill_9_and_is_delivered_once(tmp_path: Path, fleet: ScriptedFleet) -> None:
    config = write_config(tmp_path, fleet.address)
    fill(config)
    answers(fleet, CheckInAnswer(assignment(MODEL, DIGEST), NOW))
    started = threading.Event()

    def kill(_: Report) -> Receipt:
        started.wait(10)
        process.kill()
        return Accepted(1)

    fleet.on_report = kill
    with start_device("run", "--config", str(config)) as process:
        started.set()
        process.communicate(timeout=30)
    assert process.returncode == -signal.SIGKILL
    fleet.on_report = lambda _: AlreadyAccepted(1)
    assert run_device("run", "--config", str(config), "--once") == 0
    assert len(fleet.reports) == 2
    assert fleet.reports[0] == fleet.reports[1]
    assert len(fleet.check_ins) == 1  # the outbox goes first, without a check-in
    assert run_device("run", "--config", str(config), "--once") == 0
    assert len(fleet.reports) == 2
    assert fleet.check_ins[-1].session == 3


def test_sigterm_stops_a_training_between_batches(tmp_path: Path, fleet: ScriptedFleet) -> None:
    config = write_config(tmp_path, fleet.address)
    config.write_text(
        config.read_text()
        .replace("num_features = 4", "num_features = 784")
        .replace("num_classes = 3", "num_classes = 10")
    )
    fill(config, 500)
    model = bytes(4 * 10 * 785)
    digest = hashlib.sha256(model).hexdigest()
    fleet.content[bytes.fromhex(digest)] = model
    # Hours of work: 10,000 passes over 500 examples in batches of 8.
    answers(fleet, CheckInAnswer(assignment(model, digest, epochs=10_000, shape=(784, 10)), NOW))
    with start_device("run", "--config", str(config)) as process:
        wait_for_line(process, "work begins")
        assert end_device(process, signal.SIGTERM) == 0
    assert fleet.reports == []
    state = StateDir.open(tmp_path / "state", "pi-01")
    assert state.found_outbox is None
    assert (state.notes.task, state.notes.starts) == ("shoulder", 0)  # a clean end is not held against the work
    state.close()


def test_a_signal_that_does_not_wake_the_main_thread_is_not_missed(tmp_path: Path, fleet: ScriptedFleet) -> None:
    # Delivered to another thread, a signal leaves the main thread asleep: what a signal in the moment before it sleeps
    # does by chance, made certain.
    config = write_config(tmp_path, fleet.address)
    fill(config)
    arrived, release_call = threading.Event(), threading.Event()

    def wait(_: CheckIn) -> CheckInAnswer:
        arrived.set()
        release_call.wait(30)
        return NO_WORK

    fleet.on_check_in = wait
    with start_device("run", "--config", str(config)) as process:
        try:
            assert arrived.wait(20)
            tasks = Path(f"/proc/{process.pid}/task")
            while (tasks / str(process.pid) / "stat").read_text().rpartition(")")[2].split()[0] != "S":
                pass
            other = max(int(task.name) for task in tasks.iterdir() if int(task.name) != process.pid)
            assert ctypes.CDLL(None).tgkill(process.pid, other, signal.SIGTERM) == 0
            process.communicate(timeout=10)
            assert process.returncode == 0
        finally:
            release_call.set()
            process.kill()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_ends_a_waiting_check_in(
    tmp_path: Path, fleet: ScriptedFleet, number: signal.Signals, status: int
) -> None:
    config = write_config(tmp_path, fleet.address)
    fill(config)
    arrived, release_call = threading.Event(), threading.Event()

    def wait(_: CheckIn) -> CheckInAnswer:
        arrived.set()
        release_call.wait(30)
        return NO_WORK

    fleet.on_check_in = wait
    with start_device("run", "--config", str(config)) as process:
        assert arrived.wait(20)
        assert end_device(process, number) == status
    release_call.set()


def test_work_that_kills_the_agent_is_reported_as_failed(tmp_path: Path, fleet: ScriptedFleet) -> None:
    config = write_config(tmp_path, fleet.address)
    fill(config)
    state = StateDir.open(tmp_path / "state", "pi-01")
    state.note(Notes(task="shoulder", round_num=4, starts=3))
    state.close()
    assert run_device("run", "--config", str(config), "--once") == 0
    (failure,) = fleet.reports
    assert isinstance(failure, WorkFailure)
    assert (failure.task, failure.round_num, failure.kind) == ("shoulder", 4, "CrashLoop")
    state = StateDir.open(tmp_path / "state", "pi-01")
    assert state.notes.task == ""
    state.close()


def test_too_few_examples_send_nothing(tmp_path: Path, fleet: ScriptedFleet) -> None:
    config = write_config(tmp_path, fleet.address, extra="[eligibility]\nmin_examples = 21")
    fill(config)
    assert run_device("run", "--config", str(config), "--once") == 0
    assert fleet.check_ins == []
    status = read_status(tmp_path / "state" / "status.json")
    assert status is not None
    assert "20 training examples; min_examples is 21" in status.last_error


def test_the_inbox_is_taken_in_before_the_check_in(tmp_path: Path, fleet: ScriptedFleet) -> None:
    config = write_config(tmp_path, fleet.address, examples='inbox = "inbox"')
    (tmp_path / "inbox").mkdir()
    dropped = tmp_path / "inbox" / "a.csv"
    dropped.write_text("a,b,c,d,label\n1,2,3,4,0\n")
    os.utime(dropped, (0, 0))
    assert run_device("run", "--config", str(config), "--once") == 0
    assert fleet.check_ins[0].num_train == 1
    assert (tmp_path / "inbox" / "done" / "a.csv").exists()


def test_a_release_is_installed_beside_the_session(tmp_path: Path, fleet: ScriptedFleet) -> None:
    config = write_config(tmp_path, fleet.address)
    fill(config)
    content = b"a model" * 999
    digest = hashlib.sha256(content).hexdigest()
    fleet.content[bytes.fromhex(digest)] = content
    answers(fleet, CheckInAnswer(Rejection("no work"), LATER, (release("watch", 3, digest, len(content)),)))
    assert run_device("run", "--config", str(config), "--once") == 0
    assert (tmp_path / "state" / "releases" / "watch-3.tflite").read_bytes() == content
    older = (release("watch", 2, DIGEST, len(MODEL)),)
    answers(fleet, CheckInAnswer(Rejection("no work"), LATER, older))
    assert run_device("run", "--config", str(config), "--once") == 0
    assert len(fleet.downloads) == 1
    assert read_status(tmp_path / "state" / "status.json").releases == ("watch 3",)  # type: ignore[union-attr]


def test_a_model_with_wrong_bytes_is_never_trained_on(tmp_path: Path, fleet: ScriptedFleet) -> None:
    config = write_config(tmp_path, fleet.address)
    fill(config)
    fleet.content[bytes.fromhex(DIGEST)] = b"\1" * len(MODEL)
    answers(fleet, CheckInAnswer(assignment(MODEL, DIGEST), NOW))
    assert run_device("run", "--config", str(config), "--once") == 0
    (failure,) = fleet.reports
    assert isinstance(failure, WorkFailure)
    assert failure.kind == "ModelUnavailable"
    assert "SHA-256" in failure.message


def test_work_for_other_classes_is_refused_with_both_lists(tmp_path: Path, fleet: ScriptedFleet) -> None:
    config = write_config(tmp_path, fleet.address, examples='classes = ["sit", "walk", "run"]')
    fill(config)
    work = assignment(MODEL, DIGEST)
    for names, kind in ((("sit", "run", "walk"), WorkFailure), (("sit", "walk", "run"), ClientUpdate)):
        plan = replace(work.plan, model=replace(work.plan.model, classes=names))
        answers(fleet, CheckInAnswer(replace(work, plan=plan), NOW))
        assert run_device("run", "--config", str(config), "--once") == 0
        assert isinstance(fleet.reports[-1], kind)
    failure = fleet.reports[0]
    assert isinstance(failure, WorkFailure)
    assert failure.kind == "ConfigError"
    assert failure.message == (
        "the task's classes are 'sit', 'run', 'walk'; this device's are 'sit', 'walk', 'run': give both the same names "
        "in the same order"
    )


def test_a_corrupt_store_ends_the_agent_with_one_line(tmp_path: Path) -> None:
    config = write_config(tmp_path)
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "examples.db").write_bytes(b"no database" * 999)
    with start_device("run", "--config", str(config)) as process:
        _, error = process.communicate(timeout=30)
    assert process.returncode == 74
    assert error.count("\n") == 1
    assert "move it away" in error


# status


def test_status_tells_what_the_agent_did(
    tmp_path: Path, fleet: ScriptedFleet, capsys: pytest.CaptureFixture[str]
) -> None:
    config = write_config(tmp_path, fleet.address)
    assert main(["status", "--config", str(config)]) == 72
    assert "no agent ever ran" in capsys.readouterr().err
    fill(config)
    answers(fleet, CheckInAnswer(assignment(MODEL, DIGEST), NOW))
    with start_device("run", "--config", str(config)) as process:
        wait_for_line(process, "accepted as 1")
        status: dict[str, Any] = {"last_task": ""}
        while not status["last_task"]:  # the line is logged just before the status is written
            assert main(["status", "--config", str(config), "--json"]) == 0
            status = json.loads(capsys.readouterr().out)
        assert end_device(process, signal.SIGTERM) == 0
    assert status["running"]
    assert (status["last_task"], status["last_round"], status["last_outcome"]) == ("shoulder", 1, "accepted as 1")
    assert status["num_train"] == 20
    assert status["calls"]["report"]["sent_bytes"] == report_to_proto(fleet.reports[0]).ByteSize()
    training = status["traffic"]["training"]
    assert (training["reports"], training["report_bytes"]) == (1, status["calls"]["report"]["sent_bytes"])
    assert training["received_bytes"] > len(MODEL)
    for total in ("sent_bytes", "received_bytes"):
        assert sum(t[total] for t in status["traffic"].values()) == sum(c[total] for c in status["calls"].values())
    assert status["peak_rss_bytes"] > 10e6
    assert main(["status", "--config", str(config)]) == 0
    text = capsys.readouterr().out
    assert "not running" in text
    assert status["examples_by_class"][0] == {"name": "0", "num_train": 7, "num_held_out": 0}
    assert "  class 2  6 for training, 0 held out\n" in text
    assert "shoulder round 1: accepted as 1" in text
    (tmp_path / "state" / "examples.db").write_bytes(b"no database" * 999)
    assert main(["status", "--config", str(config)]) == 0
    shown = capsys.readouterr()
    assert "20 for training" in shown.out
    assert "is corrupt" in shown.err
