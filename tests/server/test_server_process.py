"""The command ``edgefl-server`` as a process: killed, stopped, starved of disk, started wrongly."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
import socket
import sqlite3
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from places import ROOT
from script_kit import SCRIPT
from server_kit import (
    DEADLINE_S,
    Caller,
    ServerProcess,
    as_device,
    calling,
    definition,
    run,
    server_process,
    update_for,
)

from edgefl.errors import ConfigError, EdgeFLError, FencedError, StorageError, UnavailableError
from edgefl.proto.v1 import control_pb2
from edgefl.protocol.messages import Accepted, AlreadyAccepted, Fate, Rejection
from edgefl.systemd import notify
from edgefl.wire import report_to_proto
from edgefl_server.config import ServerConfig, load_config
from edgefl_server.main import main


def ledger(folder: Path) -> list[tuple[str, int, int]]:
    """(device, sequence, counted) of each report, from the closed database."""
    with contextlib.closing(sqlite3.connect(folder / "data" / "edgefl.db")) as db:
        return db.execute("SELECT device, sequence, counted FROM reports ORDER BY sequence").fetchall()


# ------------------------------------------------------------------------------------------------ kill -9


def test_kill_9_after_receipts_loses_and_doubles_nothing(tmp_path: Path) -> None:
    uninterrupted: list[str] = []

    async def whole(caller: Caller) -> None:
        await caller.create(definition(goal=3, rounds=2))
        for _ in range(2):
            await caller.run_round(("a", "b", "c"))
        uninterrupted.extend(await caller.models())

    run(tmp_path / "whole", whole)

    async def interrupted() -> None:
        with server_process(tmp_path) as server:
            async with calling(server) as caller:
                await caller.create(definition(goal=3, rounds=2))
                given = dict(zip("abc", await asyncio.gather(*map(caller.assignment, "abc")), strict=True))
                sequences = {"c": 1, "a": 2}
                for device, sequence in sequences.items():
                    assert await caller.report(device, update_for(given[device], device)) == Accepted(sequence)
                server.kill()
        assert ledger(tmp_path) == [("c", 1, 0), ("a", 2, 0)]
        with server_process(tmp_path) as server:
            async with calling(server) as caller:
                for device, sequence in sequences.items():
                    receipt = await caller.report(device, update_for(given[device], device))
                    assert receipt == AlreadyAccepted(sequence)
                again = await caller.assignment("b")  # the same work, for it may have been killed too
                assert (again.round_num, again.model_digest) == (1, given["b"].model_digest)
                assert await caller.report("b", update_for(again, "b")) == Accepted(3)
                assert (await caller.ended(1)).version == 1
                server.kill()
        assert ledger(tmp_path) == [("c", 1, 1), ("a", 2, 1), ("b", 3, 1)]
        with server_process(tmp_path) as server:
            async with calling(server) as caller:
                answer = await caller.check_in("c", kinds=(), last_task="train", last_round=1)
                assert answer.last_fate is Fate.COUNTED
                assert (await caller.run_round(("a", "b", "c"))).round_num == 2
                await caller.ended(2)
                assert await caller.models() == uninterrupted
                server.signal(signal.SIGTERM)
                assert await asyncio.to_thread(server.wait) == 0

    asyncio.run(interrupted())


def test_a_report_that_was_not_acknowledged_is_taken_once(tmp_path: Path) -> None:
    async def body() -> None:
        with server_process(tmp_path, gather_window_ms=1000) as server:
            async with calling(server) as caller:
                await caller.create(definition(goal=1, rounds=1))
                assignment = await caller.assignment("a")
                call = caller.fleet.Report(report_to_proto(update_for(assignment, "a")), metadata=as_device("a"))
                await healthy(caller)  # on the same connection, after the report
                server.kill()  # somewhere between its arrival and its receipt
                with pytest.raises(grpc.aio.AioRpcError):
                    await call
        with server_process(tmp_path) as server:
            async with calling(server) as caller:
                receipt = await caller.report("a", update_for(assignment, "a"))
                assert receipt in (Accepted(1), AlreadyAccepted(1))
                assert (await caller.ended(1)).accepted == 1
        assert ledger(tmp_path) == [("a", 1, 1)]

    asyncio.run(body())


# ------------------------------------------------------------------------------------------------ stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_answers_who_waits_and_exits_0(tmp_path: Path, number: signal.Signals) -> None:
    async def body() -> None:
        with server_process(tmp_path) as server:
            async with calling(server) as caller:
                await caller.create(definition(goal=3))
                waiting = [asyncio.create_task(caller.check_in(device)) for device in "ab"]
                while len((await devices(caller)).devices) < 2:
                    pass
                watch = caller.control.WatchRounds(
                    control_pb2.WatchRoundsRequest(task="train", follow=True),
                    metadata=(("edgefl-identity", "operator/olga"),),
                )
                await watch.read()  # the open round: the watcher is there
                server.signal(number)
                for answer in await asyncio.gather(*waiting):
                    assert isinstance(answer.outcome, Rejection)
                    assert "stopping" in answer.outcome.reason
                    assert answer.retry.max_s > 0
                with pytest.raises(grpc.aio.AioRpcError) as caught:
                    await drained(watch)
                assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
                assert caught.value.details() == "the server is stopping; watch again later"
                assert await asyncio.to_thread(server.wait) == 0
            assert "Traceback" not in server.log

    asyncio.run(body())


def test_reports_in_flight_finish_and_health_says_not_serving(tmp_path: Path) -> None:
    async def body() -> None:
        with server_process(tmp_path, gather_window_ms=700) as server:
            async with calling(server) as caller:
                health = health_pb2_grpc.HealthStub(caller.channel).Watch(health_pb2.HealthCheckRequest())
                assert (await health.read()).status == health_pb2.HealthCheckResponse.SERVING
                await caller.create(definition(goal=1))
                assignment = await caller.assignment("a")
                call = caller.fleet.Report(report_to_proto(update_for(assignment, "a")), metadata=as_device("a"))
                await healthy(caller)  # on the same connection, after the report
                server.signal(signal.SIGTERM)
                assert (await health.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
                assert (await call).accepted.sequence == 1
                assert await asyncio.to_thread(server.wait) == 0

    asyncio.run(body())


def test_a_second_signal_exits_at_once(tmp_path: Path) -> None:
    async def body() -> None:
        with server_process(tmp_path, gather_window_ms=1000, drain_s=60) as server:
            async with calling(server) as caller:
                health = health_pb2_grpc.HealthStub(caller.channel).Watch(health_pb2.HealthCheckRequest())
                await health.read()
                server.signal(signal.SIGTERM)
                await health.read()  # it has begun to drain, and gathering keeps it from ending for a second
                server.signal(signal.SIGTERM)
                assert await asyncio.to_thread(server.wait) == 128 + signal.SIGTERM

    asyncio.run(body())


async def drained(watch: Any) -> None:
    while await watch.read() is not grpc.aio.EOF:
        pass


async def healthy(caller: Caller) -> None:
    """A call that does not pass through the engine."""
    await health_pb2_grpc.HealthStub(caller.channel).Check(health_pb2.HealthCheckRequest())


async def devices(caller: Caller) -> control_pb2.ListDevicesResponse:
    response = await caller.operate("ListDevices", control_pb2.ListDevicesRequest())
    assert isinstance(response, control_pb2.ListDevicesResponse)
    return response


# ------------------------------------------------------------------------------------------------ the disk


def test_a_full_disk_ends_the_server_and_keeps_what_it_acknowledged(tmp_path: Path) -> None:
    async def body() -> None:
        acknowledged: list[str] = []
        names = [f"d{i}" for i in range(16)]
        with server_process(tmp_path) as server:
            async with calling(server) as caller:
                await caller.create(definition(goal=16, features=50_000))  # 400 kB a report
                given = dict(zip(names, await asyncio.gather(*map(caller.assignment, names)), strict=True))
                server.limit_files(4 << 20)
                with contextlib.suppress(EdgeFLError):
                    for name in names:
                        if isinstance(await caller.report(name, update_for(given[name], name)), Accepted):
                            acknowledged.append(name)
                assert await asyncio.to_thread(server.wait) == StorageError.exit_code
            last = server.log.strip().splitlines()[-1]
            assert last.startswith("edgefl-server: error: ")
            assert "edgefl.db: cannot be written" in last
        assert 0 < len(acknowledged) < len(names)
        with server_process(tmp_path) as server:
            async with calling(server) as caller:
                for name in names:
                    receipt = await caller.report(name, update_for(given[name], name))
                    assert isinstance(receipt, AlreadyAccepted) == (name in acknowledged)
                assert (await caller.ended(1)).accepted == 16

    asyncio.run(body())


def failed_start(server: ServerProcess, error: type[EdgeFLError], *words: str) -> None:
    """The process ends with the error's status and one line of it."""
    assert server.wait() == error.exit_code
    lines = server.log.strip().splitlines()
    assert lines[-1].startswith("edgefl-server: error: ")
    assert "Traceback" not in server.log
    for word in words:
        assert word in lines[-1]


def test_a_corrupt_database(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "edgefl.db").write_bytes(b"\x07" * 9000)
    with server_process(tmp_path) as server:
        failed_start(server, StorageError, str(tmp_path / "data" / "edgefl.db"), "restore it from a backup")


def test_two_processes_on_one_data_dir(tmp_path: Path) -> None:
    with server_process(tmp_path) as first:
        first.wait_ready()
        with server_process(tmp_path) as second:
            failed_start(second, FencedError, f"process {first.process.pid}", "stop it first")


def test_a_port_in_use(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with server_process(tmp_path, "--listen", address) as server:
            failed_start(server, UnavailableError, address, "in use", "--listen")


# ------------------------------------------------------------------------------------------------ the command


def test_configuration_errors_are_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "server.toml"
    good = f'data_dir = "{tmp_path}/data"\n'
    for text, options, words in (
        ("", (), "missing key 'data_dir'"),
        (good, (), "set insecure = true"),
        (good + "insecure = true\nlisten = '0.0.0.0:7443'", (), "not loopback"),
        (good, ("--insecure", "--listen", "192.0.2.1:7443"), "not loopback"),
        (good, ("--insecure", "--listen", "here"), "expected HOST:PORT"),
        (good + "gather_windows_ms = 5", ("--insecure",), "did you mean 'gather_window_ms'?"),
        (good + "retention_rounds = 0", ("--insecure",), "retention_rounds is 0; expected 1"),
        (good + "log_level = 'loud'", ("--insecure",), "expected one of debug"),
    ):
        path.write_text(text)
        assert main(["run", "--config", str(path), *options]) == ConfigError.exit_code
        error = capsys.readouterr().err
        assert error.startswith("edgefl-server: error: ")
        assert error.count("\n") == 1
        assert words in error
    assert not (tmp_path / "data").exists()


def test_the_example_configuration_is_complete_and_shows_the_defaults() -> None:
    path = ROOT / "server" / "server.example.toml"
    config = load_config(path)
    assert set(tomllib.loads(path.read_text())) == {field.name for field in dataclasses.fields(ServerConfig)}
    assert config == ServerConfig(data_dir=path.parent / "server-data", insecure=True)


def test_importing_the_daemon_loads_nothing_heavy() -> None:
    code = (
        "import sys, edgefl_server.daemon, edgefl_server.main\n"
        "print(*({'numpy', 'tflite', 'flatbuffers', 'matplotlib', 'rich', 'ai_edge_litert'} & set(sys.modules)))"
    )
    done = subprocess.run([*SCRIPT, code], capture_output=True, text=True, timeout=DEADLINE_S, check=True)
    assert done.stdout.strip() == ""


def test_systemd_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    notify("READY=1")  # not started by systemd: nothing happens
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "notify"))
        receiver.settimeout(DEADLINE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        with server_process(tmp_path) as server:
            server.wait_ready()
            assert receiver.recv(100) == b"READY=1"
            server.signal(signal.SIGTERM)
            assert receiver.recv(100) == b"STOPPING=1"
            assert server.wait() == 0
