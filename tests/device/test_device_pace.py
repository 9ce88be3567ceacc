"""The agent's pace: chance, delays and the watchdog are scripted, so it runs in this process."""

from __future__ import annotations

import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from device_fleet import (
    DIGEST,
    MODEL,
    NO_WORK,
    NOW,
    ScriptedFleet,
    answers,
    assignment,
    fill,
    write_config,
)

from edgefl.errors import BusyError
from edgefl.protocol.messages import (
    Accepted,
    CheckIn,
    CheckInAnswer,
    ClientUpdate,
    Receipt,
    Report,
    RetryWindow,
)
from edgefl_device.agent import Agent
from edgefl_device.config import load_config


@pytest.fixture
def fleet() -> Iterator[ScriptedFleet]:
    server = ScriptedFleet()
    server.content[bytes.fromhex(DIGEST)] = MODEL
    yield server
    server.stop()


@pytest.fixture
def signals() -> Iterator[None]:
    kept = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in kept.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals")
def test_without_a_server_the_agent_backs_off_and_says_so_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        config = write_config(tmp_path, f"127.0.0.1:{unused.getsockname()[1]}")
        fill(config)
        windows: list[tuple[float, float]] = []

        def draw(low: float, high: float) -> float:
            windows.append((low, high))
            if len(windows) == 13:
                os.kill(os.getpid(), signal.SIGTERM)
            return 0.0

        caplog.set_level(logging.INFO, "edgefl.device")
        assert Agent(load_config(config), uniform=draw).run() == 0
    # The window of the start (none was stored), then full jitter under a bound that doubles up to its cap.
    assert windows[:13] == [(0, 0), *((0, min(300.0, 2.0**n)) for n in range(12))]
    warnings = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(warnings) == 1
    assert re.match(
        r"no server at 127\.0\.0\.1:\d+: is it running, and is the address right\?; next try at once", warnings[0]
    )


@pytest.mark.usefixtures("signals")
def test_the_servers_windows_are_obeyed_and_kept_for_the_next_start(tmp_path: Path, fleet: ScriptedFleet) -> None:
    config = write_config(tmp_path, fleet.address)
    fill(config)
    windows: list[tuple[float, float]] = []

    def draw(low: float, high: float) -> float:
        windows.append((low, high))
        if len(windows) == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        return 0.0

    def busy(_: CheckIn) -> CheckInAnswer:
        fleet.on_check_in = lambda _: CheckInAnswer(assignment(MODEL, DIGEST), RetryWindow(5.0, 6.0))
        raise BusyError("full")

    fleet.on_check_in = busy
    fleet.report_retry = RetryWindow(11.0, 12.0)
    stop_at = 3
    assert Agent(load_config(config), uniform=draw).run() == 0
    assert windows == [(0, 0), (7, 9), (11, 12)]
    windows.clear()
    stop_at = 1
    assert Agent(load_config(config), uniform=draw).run() == 0
    assert windows == [(11, 12)]


@pytest.mark.usefixtures("signals")
def test_systemd_is_told(tmp_path: Path, fleet: ScriptedFleet, monkeypatch: pytest.MonkeyPatch) -> None:
    config = write_config(tmp_path, fleet.address)
    fill(config)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(tmp_path / "notify"))
        listener.setblocking(False)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "2000000")
        assert Agent(load_config(config), once=True).run() == 0
        messages = []
        while not messages or messages[-1] != b"STOPPING=1":
            messages.append(listener.recv(100))
    assert messages[0] == b"READY=1"
    assert b"WATCHDOG=1" in messages


@pytest.mark.usefixtures("signals")
def test_a_job_beyond_its_time_leaves_the_watchdog_unfed(
    tmp_path: Path, fleet: ScriptedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_config(tmp_path, fleet.address)
    fill(config)
    fed: list[float] = []
    time = [0.0]
    release_call = threading.Event()

    def wait(_: CheckIn) -> CheckInAnswer:
        release_call.wait(30)
        return NO_WORK

    def clock() -> float:
        time[0] += 10.0  # each look at the clock is ten seconds later
        if time[0] > 400:
            release_call.set()
        return time[0]

    def note(text: str) -> None:
        if text == "WATCHDOG=1":
            fed.append(time[0])
            if time[0] > 2000:
                os.kill(os.getpid(), signal.SIGTERM)

    fleet.on_check_in = wait
    monkeypatch.setattr("edgefl_device.agent.notify", note)
    monkeypatch.setattr("edgefl_device.agent.watchdog_interval_s", lambda: 0.001)
    assert Agent(load_config(config), clock=clock, uniform=lambda low, _high: low).run() == 0
    during = [at for at in fed if at < 390]
    assert 150 <= max(during) <= 220  # a check-in may take 90 s, and 60 s of grace
    assert len(during) > 5
    assert len([at for at in fed if at > 1000]) > 50  # an agent that waits for its time is healthy


@pytest.mark.usefixtures("signals")
def test_a_report_is_repeated_until_a_receipt_comes(tmp_path: Path, fleet: ScriptedFleet) -> None:
    config = write_config(tmp_path, fleet.address)
    fill(config)
    answers(fleet, CheckInAnswer(assignment(MODEL, DIGEST), NOW))
    given: list[Receipt | BusyError] = [BusyError("full"), Accepted(1)]

    def once_busy(_: Report) -> Receipt:
        receipt = given.pop(0)
        if isinstance(receipt, BusyError):
            raise receipt
        return receipt

    fleet.on_report = once_busy
    assert Agent(load_config(config), once=True, uniform=lambda _low, _high: 0.0).run() == 0
    first, second = fleet.reports
    assert isinstance(first, ClientUpdate)
    assert isinstance(second, ClientUpdate)
    assert (first.attempt, second.attempt) == (1, 2)
    assert first.payload == second.payload
