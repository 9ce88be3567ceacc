"""Parts for the server's tests: task definitions, updates, a device and an operator over real gRPC, real processes."""

from __future__ import annotations

import asyncio
import contextlib
import resource
import signal
import struct
import subprocess
import sys
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc

from edgefl.errors import EdgeFLError
from edgefl.proto.v1 import control_pb2, control_pb2_grpc, fleet_pb2, fleet_pb2_grpc
from edgefl.protocol.messages import Assignment, CheckIn, CheckInAnswer, ClientUpdate, Receipt, RetryWindow
from edgefl.wire import (
    IDENTITY_KEY,
    answer_from_proto,
    check_in_to_proto,
    error_from_status,
    receipt_from_proto,
    report_to_proto,
)
from edgefl_server.config import ServerConfig
from edgefl_server.daemon import Daemon

FEATURES, CLASSES = 3, 2
PARAMETERS = CLASSES * (FEATURES + 1)
DEADLINE_S = 60.0
"""No test waits so long unless it fails."""


def definition(
    name: str = "train", *, goal: int = 2, minimum: int = 0, rounds: int = 3, over: float = 1.0, **changes: Any
) -> str:
    """A training task over population "lab", as TOML. ``changes``: features, deadline_s, selection_s."""
    return f"""
name = "{name}"
kind = "training"
population = "lab"
seed = 7
rounds = {rounds}

[round]
goal = {goal}
minimum = {minimum or goal}
over_selection = {over}
selection_s = {changes.get("selection_s", 30.0)}
deadline_s = {changes.get("deadline_s", 600.0)}

[model]
num_features = {changes.get("features", FEATURES)}
num_classes = {CLASSES}

[client]
learning_rate = 0.1
"""


def delta(device: str, round_num: int, parameters: int = PARAMETERS) -> bytes:
    """What ``device`` learns in a round: small numbers that depend on both."""
    base = sum(device.encode()) % 97 + round_num
    return struct.pack(f"<{parameters}f", *(0.01 * ((base * (i + 1)) % 23 - 11) for i in range(parameters)))


def update_for(assignment: Assignment, device: str, **changes: Any) -> ClientUpdate:
    fields: dict[str, Any] = {
        "task": assignment.task,
        "round_num": assignment.round_num,
        "base_model_digest": assignment.model_digest,
        "encoding": "float32",
        "weight": 10 + len(device),
        "num_examples": 10 + len(device),
        "num_correct": 5,
        "loss_grid": 3 << 20,
    }
    if "payload" not in changes:
        fields["payload"] = delta(device, assignment.round_num, assignment.plan.model.num_parameters)
    return ClientUpdate(**{**fields, **changes})


def check_in(**changes: Any) -> CheckIn:
    fields: dict[str, Any] = {
        "population": "lab",
        "agent_version": "0.1.0",
        "session": 1,
        "num_train": 20,
        "num_held_out": 5,
        "kinds": ("training", "evaluation", "statistics"),
        "encodings": ("float32", "int64"),
    }
    return CheckIn(**{**fields, **changes})


async def unwrap(call: Awaitable[Any]) -> Any:
    """The call's result; a failed call raises the ``EdgeFLError`` that it means."""
    try:
        return await call
    except grpc.aio.AioRpcError as error:
        raise error_of(error)[0] from None


def error_of(error: grpc.aio.AioRpcError) -> tuple[EdgeFLError, RetryWindow | None]:
    return error_from_status(error.code().name, error.details() or "", tuple(error.trailing_metadata() or ()))


class Caller:
    """A channel that calls under any name."""

    def __init__(self, address: str) -> None:
        options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        self.address = address
        self.channel = grpc.aio.insecure_channel(address, options=options)
        self.fleet = fleet_pb2_grpc.FleetStub(self.channel)
        self.control = control_pb2_grpc.ControlStub(self.channel)

    async def check_in(self, device: str, **changes: Any) -> CheckInAnswer:
        request = check_in_to_proto(check_in(**changes))
        return answer_from_proto(await unwrap(self.fleet.CheckIn(request, metadata=as_device(device))))

    async def assignment(self, device: str) -> Assignment:
        """Check in until there is work."""
        async with asyncio.timeout(DEADLINE_S):
            while True:
                outcome = (await self.check_in(device)).outcome
                if isinstance(outcome, Assignment):
                    return outcome

    async def report(self, device: str, report: ClientUpdate) -> Receipt:
        message = await unwrap(self.fleet.Report(report_to_proto(report), metadata=as_device(device)))
        return receipt_from_proto(message)[0]

    async def download(self, sha256: str, offset: int = 0) -> bytes:
        request = fleet_pb2.DownloadRequest(sha256=bytes.fromhex(sha256), offset=offset)
        call = self.fleet.Download(request, metadata=as_device("reader"))
        return b"".join([chunk.data async for chunk in call])

    async def create(self, text: str) -> control_pb2.Task:
        task = await self.operate("CreateTask", control_pb2.CreateTaskRequest(definition=text))
        assert isinstance(task, control_pb2.Task)
        return task

    async def operate(self, method: str, request: Any) -> Any:
        return await unwrap(getattr(self.control, method)(request, metadata=OPERATOR))

    async def rounds(self, task: str = "train", from_round: int = 0) -> AsyncGenerator[control_pb2.Round, None]:
        """Each change until the task ends."""
        request = control_pb2.WatchRoundsRequest(task=task, from_round=from_round, follow=True)
        call = self.control.WatchRounds(request, metadata=OPERATOR)
        try:
            async for change in call:
                yield change
        finally:
            call.cancel()

    async def ended(self, round_num: int, task: str = "train") -> control_pb2.Round:
        """Wait until that round has ended."""
        async with asyncio.timeout(DEADLINE_S):
            async with contextlib.aclosing(self.rounds(task, round_num)) as changes:
                async for change in changes:
                    if change.phase in (control_pb2.ROUND_PHASE_COMMITTED, control_pb2.ROUND_PHASE_ABANDONED):
                        return change
        raise AssertionError(f"task {task} ended before round {round_num} did")

    async def models(self, task: str = "train") -> list[str]:
        """The digests of all versions."""
        response = await self.operate("ListModels", control_pb2.TaskRequest(name=task))
        return [model.content.sha256.hex() for model in response.models]

    async def run_round(self, devices: tuple[str, ...]) -> Assignment:
        """All of ``devices`` take part in one round."""
        assignments = await asyncio.gather(*map(self.assignment, devices))
        for device, assignment in zip(devices, assignments, strict=True):
            await self.report(device, update_for(assignment, device))
        return assignments[0]


async def seen(caller: Caller, device: str) -> None:
    """Wait until the server has taken a check-in of ``device``."""
    while True:
        devices = (await caller.operate("ListDevices", control_pb2.ListDevicesRequest())).devices
        if device in [d.name for d in devices]:
            return


def as_device(name: str) -> tuple[tuple[str, str], ...]:
    return ((IDENTITY_KEY, f"device/{name}"),)


OPERATOR = ((IDENTITY_KEY, "operator/olga"),)


def server_config(folder: Path, **changes: Any) -> ServerConfig:
    fields: dict[str, Any] = {
        "data_dir": folder / "data",
        "listen": "127.0.0.1:0",
        "insecure": True,
        "gather_window_ms": 1.0,
        "drain_s": 5.0,
    }
    return ServerConfig(**{**fields, **changes})


@contextlib.asynccontextmanager
async def served(config: ServerConfig) -> AsyncIterator[Caller]:
    """A server in this process, and a channel to it."""
    daemon = Daemon(config)
    await daemon.start()
    caller = Caller(daemon.address)
    try:
        yield caller
    finally:
        await caller.channel.close()
        await daemon.drain()


def run(folder: Path, body: Callable[[Caller], Awaitable[None]], **changes: Any) -> None:
    """Run ``body`` against a server of this process."""

    async def main() -> None:
        async with served(server_config(folder, **changes)) as caller:
            async with asyncio.timeout(DEADLINE_S):
                await body(caller)

    asyncio.run(main())


# ------------------------------------------------------------------------------------------------ processes


class ServerProcess:
    """``edgefl-server run`` as a process of its own."""

    def __init__(self, folder: Path, *options: str, **changes: Any) -> None:
        self.config = folder / "server.toml"
        keys = {"gather_window_ms": 1.0, "drain_s": 5.0, **changes}
        lines = ['data_dir = "data"', 'listen = "127.0.0.1:0"', "insecure = true"]
        lines += [f"{key} = {value}" for key, value in keys.items()]
        self.config.write_text("\n".join(lines) + "\n")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "edgefl_server.main", "run", "--config", str(self.config), *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        # Its log is read all the time: a full pipe would stop the server.
        self._log: list[str] = []
        assert self.process.stderr is not None
        stderr = self.process.stderr
        self._reader = threading.Thread(target=lambda: self._log.extend(stderr))
        self._reader.start()

    def wait_ready(self) -> str:
        """The address, once it serves."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            raise AssertionError(f"no server: exit status {self.wait()}: {self.log}")
        return line.removeprefix("listening on ").strip()

    def wait(self) -> int:
        """The exit status, once it has ended."""
        status = self.process.wait(DEADLINE_S)
        self._reader.join(DEADLINE_S)
        return status

    @property
    def log(self) -> str:
        return "".join(self._log)

    def signal(self, number: int) -> None:
        self.process.send_signal(number)

    def kill(self) -> None:
        self.signal(signal.SIGKILL)
        self.wait()

    def limit_files(self, size_bytes: int) -> None:
        """No file of the process may grow beyond ``size_bytes``: to it, the disk is full."""
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (size_bytes, size_bytes))


@contextlib.contextmanager
def server_process(folder: Path, *options: str, **changes: Any) -> Iterator[ServerProcess]:
    server = ServerProcess(folder, *options, **changes)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.process.kill()
        server.wait()
        for pipe in (server.process.stdout, server.process.stderr):
            if pipe is not None:
                pipe.close()


@contextlib.asynccontextmanager
async def calling(server: ServerProcess) -> AsyncIterator[Caller]:
    """A channel to a server process, once it serves."""
    address = await asyncio.to_thread(server.wait_ready)
    caller = Caller(address)
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield caller
    finally:
        await caller.channel.close()
