"""What an operator sees of a fleet that stands still: ``edgefl task``, ``rounds`` and ``devices`` on a real server."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from server_kit import DEADLINE_S, Caller, as_device, check_in, definition, run, seen, server_config, update_for

from edgefl.cli.main import main
from edgefl.errors import ConfigError, NotFoundError, UnavailableError
from edgefl.operator.connection import Target
from edgefl.operator.rounds import followed
from edgefl.proto.v1 import control_pb2
from edgefl.protocol.events import OVER, RoundSummary
from edgefl.protocol.messages import Noted, Rejection, WorkFailure
from edgefl.protocol.shape import ExampleShape
from edgefl.wire import check_in_to_proto, receipt_from_proto, report_to_proto
from edgefl_server.daemon import Daemon

Command = Callable[..., Awaitable[tuple[int, str, str]]]


def commands(caller: Caller, capsys: pytest.CaptureFixture[str]) -> Command:
    async def command(*words: str) -> tuple[int, str, str]:
        status = await asyncio.to_thread(main, ["--insecure", "--server", caller.address, *words])
        out, err = capsys.readouterr()
        return status, out, err

    return command


async def fail(caller: Caller, device: str, round_num: int = 1, message: str = "5 features; expected 3") -> None:
    failure = WorkFailure("train", round_num, "DataError", message)
    answer = await caller.fleet.Report(report_to_proto(failure), metadata=as_device(device))
    assert receipt_from_proto(answer)[0] == Noted()


def test_a_waiting_task_says_for_whom_everywhere(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("edgefl.protocol.standing.NOTICE_S", 0.0)
    text = "waiting for 1 of 2 devices; 2 known devices: 1 waiting, 1 with 5 features (expected 3)"

    async def body(caller: Caller) -> None:
        command = commands(caller, capsys)
        await caller.create(definition())
        answer = await caller.check_in("wide", shape=ExampleShape(5, 2))
        assert isinstance(answer.outcome, Rejection)
        assert answer.outcome.reason == "task 'train' does not fit this device, which has 5 features (expected 3)"
        waiting = asyncio.create_task(caller.check_in("near"))
        await seen(caller, "near")
        _, out, _ = await command("task", "list")
        assert text in out
        _, out, _ = await command("task", "list", "--json")
        (task,) = map(json.loads, out.splitlines())
        assert (task["waiting"], task["status"], "suspended" in task) == (text, "running", False)
        changes = caller.rounds()
        assert (await anext(changes)).waiting == text
        await changes.aclose()
        waiting.cancel()

    with caplog.at_level(logging.WARNING, "edgefl_server"):
        run(tmp_path, body)
    logged = [record.getMessage() for record in caplog.records if "train round 1: waiting" in record.getMessage()]
    assert 1 <= len(logged) <= 2, "when it begins to wait, and not in a loop"


def test_a_device_that_waited_in_vain_is_told_why(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(definition())
        outcome = (await caller.check_in("a")).outcome
        assert outcome == Rejection("task train is waiting for 1 of 2 devices; 1 known device: 1 waiting")

    run(tmp_path, body, long_poll_s=0.1)


def test_failures_reach_the_operator_by_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def body(caller: Caller) -> None:
        command = commands(caller, capsys)
        await caller.create(definition())
        await asyncio.gather(*map(caller.assignment, "ab"))
        await fail(caller, "a")
        ended = await caller.ended(1)
        text = "0 reports, 1 of 2 failed; 2 out of reach: DataError: 5 features; expected 3 (device a)"
        assert ended.reason == text
        assert [(one.kind, one.count, one.device) for one in ended.failures] == [("DataError", 1, "a")]
        _, out, _ = await command("rounds", "train", "--no-follow")
        assert text in out
        _, out, _ = await command("rounds", "train", "--no-follow", "--json")
        (shown,) = map(json.loads, out.splitlines())
        example = {"kind": "DataError", "count": 1, "device": "a", "message": "5 features; expected 3"}
        assert shown["failures"] == [example]
        _, out, _ = await command("task", "list")
        assert "round 1: DataError: 5 features; expected 3 (device a)" in out
        _, out, _ = await command("devices", "--json")
        (a, b) = map(json.loads, out.splitlines())
        assert (a["error"]["kind"], a["error"]["message"]) == ("DataError", "5 features; expected 3")
        assert "error" not in b

    run(tmp_path, body)


def test_a_suspended_task_shows_its_reason_over_restarts_and_is_resumed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgefl.protocol.backoff.SUSPEND_AFTER", 2)

    async def broken(caller: Caller) -> None:
        await caller.create(definition(goal=1))
        for round_num in (1, 2):
            await caller.assignment("a")
            await fail(caller, "a", round_num)

    async def body(caller: Caller) -> None:
        command = commands(caller, capsys)
        (task,) = (await caller.operate("ListTasks", control_pb2.ListTasksRequest())).tasks
        assert task.status == control_pb2.TASK_STATUS_PAUSED, "for a command that knows no other word"
        assert task.suspended.startswith("its last 2 rounds only failed; the last: 0 reports, 1 of 1 failed")
        _, out, _ = await command("task", "list")
        assert "suspended" in out
        assert "DataError: 5 features; expected 3 (device a)" in out
        assert await command("task", "resume", "train") == (0, "train: running, 0 of 3 rounds\n", "")
        assert (await caller.assignment("a")).round_num == 3

    run(tmp_path, broken, backoff_max_s=0.0)
    run(tmp_path, body, backoff_max_s=0.0)


def test_task_create_asks_about_what_no_known_device_can_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "task.toml"
    file.write_text(definition().replace('population = "lab"', 'population = "lba"'))

    async def body(caller: Caller) -> None:
        command = commands(caller, capsys)
        status, out, err = await command("task", "create", str(file))
        assert (status, err) == (0, "")
        assert "waiting for 2 of 2 devices; no device of population lba has checked in yet" in out
        await command("task", "end", "train")
        await caller.check_in("a", shape=ExampleShape(5, 2))
        file.write_text(file.read_text().replace('"train"', '"again"'))
        status, out, err = await command("task", "create", str(file))
        assert (status, out) == (ConfigError.exit_code, "")
        assert "population is 'lba', which no device has named; did you mean 'lab'?" in err
        assert "--anyway" in err
        file.write_text(file.read_text().replace("lba", "lab"))
        status, _, err = await command("task", "create", str(file))
        assert status == ConfigError.exit_code
        assert "fits none of the 1 known devices of population 'lab': 1 with 5 features (expected 3)" in err
        status, out, _ = await command("task", "create", "--anyway", str(file))
        assert status == 0
        assert "created again" in out
        await caller.create(definition("old"))  # as a command of 0.2 does it, which knows no --anyway

    run(tmp_path, body)


def test_devices_shows_how_each_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    async def body(caller: Caller) -> None:
        command = commands(caller, capsys)
        await caller.create(definition(goal=1))
        job = await caller.assignment("a")
        request = check_in_to_proto(
            check_in(population="q", running=(("motion", 4),), instance=1, shape=ExampleShape(3, 2))
        )
        for instance in (1, 2, 1):
            request.instance = instance
            await caller.fleet.CheckIn(request, metadata=as_device("twice"))
        _, out, _ = await command("devices")
        first, second = [line for line in out.splitlines() if "ago" in line]
        assert "working: train round 1" in first
        assert "0 s ago" in first
        assert "motion 4" in second
        assert "two agents use this name" in second
        _, out, _ = await command("devices", "--json")
        a, twice = map(json.loads, out.splitlines())
        assert (a["state"], a["task"], a["round"], a["twins"]) == ("working", "train", 1, False)
        assert 0 <= a["seen_ago_s"] < DEADLINE_S
        assert "num_features" not in a, "an older agent does not say its shape"
        assert (twice["state"], twice["releases"], twice["twins"]) == ("idle", {"motion": 4}, True)
        assert (twice["num_features"], twice["num_classes"], twice["dtype"]) == (3, 2, "float32")
        await caller.report("a", update_for(job, "a"))

    run(tmp_path, body)


# ------------------------------------------------------------------------------------------------ rounds, live


class Watcher:
    """``edgefl rounds`` in a thread; it tries again when ``back`` is set, and not by the clock."""

    def __init__(self, address: str) -> None:
        self.back = threading.Event()
        self.said: list[str] = []
        self.seen: list[RoundSummary] = []
        self.changed = threading.Event()
        self._target = Target(address, "olga", insecure=True)

    def watch(self) -> None:
        for summary in followed(self._target, "train", say=self._say, sleep=lambda _: self._wait()):
            self.seen.append(summary)
            self.changed.set()

    def _say(self, text: str) -> None:
        self.said.append(text)
        self.changed.set()

    def _wait(self) -> None:
        assert self.back.wait(DEADLINE_S)

    async def until(self, condition: Callable[[], bool]) -> None:
        while not condition():
            assert await asyncio.to_thread(self.changed.wait, DEADLINE_S)
            self.changed.clear()

    @property
    def ended(self) -> list[tuple[int, str]]:
        return [(one.round_num, one.phase.value) for one in self.seen if one.phase in OVER]


def test_watching_goes_on_over_a_restart_without_losing_or_repeating_a_round(tmp_path: Path) -> None:
    async def serve(listen: str) -> tuple[Daemon, Caller]:
        daemon = Daemon(server_config(tmp_path, listen=listen))
        await daemon.start()
        return daemon, Caller(daemon.address)

    async def body() -> None:
        daemon, caller = await serve("127.0.0.1:0")
        await caller.create(definition(goal=1, rounds=4))
        await caller.run_round(("a",))
        watcher = Watcher(caller.address)
        watching = asyncio.create_task(asyncio.to_thread(watcher.watch))
        await watcher.until(lambda: len(watcher.ended) == 1)
        await caller.run_round(("a",))
        await watcher.until(lambda: len(watcher.ended) == 2)
        await caller.channel.close()
        await daemon.drain()
        await watcher.until(lambda: bool(watcher.said))
        daemon, caller = await serve(daemon.address)
        await caller.run_round(("a",))  # while nobody watches
        watcher.back.set()
        await watcher.until(lambda: len(watcher.ended) == 3)
        await caller.run_round(("a",))
        await watching  # ends with the task
        await caller.channel.close()
        await daemon.drain()
        assert watcher.ended == [(number, "committed") for number in (1, 2, 3, 4)]
        gone, *again = watcher.said
        assert gone.endswith("waiting for the server, Ctrl-C stops")
        assert again == ["the server is back"]

    async def bounded() -> None:
        async with asyncio.timeout(DEADLINE_S):
            await body()

    asyncio.run(bounded())


def test_a_server_that_is_not_there_at_first_is_an_error(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        def first(task: str) -> Any:
            return next(followed(Target(caller.address, "olga", insecure=True), task, say=pytest.fail))

        with pytest.raises(NotFoundError, match="no task 'nothing'"):
            await asyncio.to_thread(first, "nothing")

    run(tmp_path, body)
    with pytest.raises(UnavailableError):
        next(followed(Target("127.0.0.1:1", "olga", insecure=True), "train", say=pytest.fail))
