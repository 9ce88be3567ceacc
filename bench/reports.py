"""Durable reports per second of ``edgefl-server``, compared with a bare asyncio gRPC echo of the same messages.

Run by ``make bench-reports``; docs/benchmarks.md says what the figures mean. Both servers are pinned to one core and
the devices to another, and take turns: a round of ``--devices`` reports of 784 x 10 float32 (31 kB) with identity,
gate, and a ledger that is synced, then as many messages to the echo. The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import grpc
from rich.console import Console
from rich.progress import track
from rich.table import Table

from edgefl import kernels
from edgefl.proto.v1 import control_pb2, control_pb2_grpc, fleet_pb2, fleet_pb2_grpc
from edgefl.protocol.messages import Assignment, CheckIn, ClientUpdate
from edgefl.wire import IDENTITY_KEY, answer_from_proto, check_in_to_proto, report_to_proto

HERE = Path(__file__).resolve().parent
FEATURES, CLASSES = 784, 10
IN_FLIGHT = 64
"""Reports under way at once: as many as the server takes by default."""

TASK = f"""
name = "bench"
kind = "training"
population = "bench"
seed = 1
rounds = 1000

[round]
goal = {{devices}}
minimum = {{devices}}
selection_s = 600.0
deadline_s = 600.0

[model]
num_features = {FEATURES}
num_classes = {CLASSES}

[client]
learning_rate = 0.1
"""

SERVER = """
data_dir = "data"
listen = "127.0.0.1:0"
insecure = true
max_waiting_check_ins = 100000
retention_rounds = 2
"""


class Server:
    """A server process pinned to a core, and how much processor time it used."""

    def __init__(self, command: list[str], core: int) -> None:
        self.process = subprocess.Popen(
            ["taskset", "-c", str(core), sys.executable, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line.startswith("listening on "):
            raise RuntimeError(f"{command}: no server: exit status {self.process.wait()}")
        options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
        self.channel = grpc.aio.insecure_channel(line.removeprefix("listening on ").strip(), options=options)
        self.fleet = fleet_pb2_grpc.FleetStub(self.channel)
        self.control = control_pb2_grpc.ControlStub(self.channel)

    def cpu_s(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


@dataclass
class Turns:
    """One figure for each turn."""

    per_s: list[float] = field(default_factory=list)
    cpu_us: list[float] = field(default_factory=list)

    async def take(self, server: Server, calls: list[Callable[[], Awaitable[Any]]]) -> None:
        limit = asyncio.Semaphore(IN_FLIGHT)

        async def one(call: Callable[[], Awaitable[Any]]) -> None:
            async with limit:
                await call()

        cpu, start = server.cpu_s(), perf_counter()
        await asyncio.gather(*map(one, calls))
        self.per_s.append(len(calls) / (perf_counter() - start))
        self.cpu_us.append(1e6 * (server.cpu_s() - cpu) / len(calls))

    @property
    def row(self) -> dict[str, float]:
        return {"per_s": round(median(self.per_s), 1), "cpu_us": round(median(self.cpu_us), 1)}


def identity(device: str) -> tuple[tuple[str, str], ...]:
    return ((IDENTITY_KEY, f"device/{device}"),)


async def assigned(server: Server, device: str) -> Assignment:
    request = check_in_to_proto(
        CheckIn("bench", "0", 1, num_train=100, num_held_out=0, kinds=("training",), encodings=("float32",))
    )
    while True:
        outcome = answer_from_proto(await server.fleet.CheckIn(request, metadata=identity(device))).outcome
        if isinstance(outcome, Assignment):
            return outcome


def report_of(job: Assignment, payload: bytes) -> fleet_pb2.ReportRequest:
    update = ClientUpdate(
        task=job.task,
        round_num=job.round_num,
        base_model_digest=job.model_digest,
        encoding="float32",
        payload=payload,
        weight=100,
        num_examples=100,
        num_correct=50,
        loss_grid=1 << 20,
    )
    return report_to_proto(update)


def calls_to(server: Server, messages: list[tuple[str, fleet_pb2.ReportRequest]]) -> list[Callable[[], Awaitable[Any]]]:
    def call(device: str, message: fleet_pb2.ReportRequest) -> Callable[[], Awaitable[Any]]:
        async def send() -> None:
            answer = await server.fleet.Report(message, metadata=identity(device))
            assert answer.WhichOneof("receipt") in ("accepted", None), answer  # the echo's is empty

        return send

    return [call(device, message) for device, message in messages]


async def measure(ours: Server, echo: Server, devices: int, turns: int, console: Console) -> dict[str, Any]:
    names = [f"d{number:05}" for number in range(devices)]
    words = kernels.random_words(bytes(16), 0, CLASSES * (FEATURES + 1))
    values = [(word / 2**32 - 0.5) * 0.01 for word in memoryview(words).cast("B").cast("I")]
    payload = memoryview(__import__("array").array("f", values)).tobytes()
    operator = ((IDENTITY_KEY, "operator/bench"),)
    await ours.control.CreateTask(
        control_pb2.CreateTaskRequest(definition=TASK.format(devices=devices)), metadata=operator
    )
    found = {"edgefl": Turns(), "echo": Turns()}
    for turn in track(range(turns + 1), "turns", console=console, transient=True):
        jobs = await asyncio.gather(*(assigned(ours, name) for name in names))
        messages = [(name, report_of(job, payload)) for name, job in zip(names, jobs, strict=True)]
        if turn == 0:  # the first turn warms both up
            warm = Turns()
            await warm.take(ours, calls_to(ours, messages))
            await warm.take(echo, calls_to(echo, messages))
            continue
        await found["edgefl"].take(ours, calls_to(ours, messages))
        await found["echo"].take(echo, calls_to(echo, messages))
    return {name: row.row for name, row in found.items()}


@contextlib.contextmanager
def servers(folder: Path, core: int) -> Iterator[tuple[Server, Server]]:
    (folder / "server.toml").write_text(SERVER)
    ours = Server(["-m", "edgefl_server.main", "run", "--config", str(folder / "server.toml")], core)
    try:
        echo = Server([str(HERE / "echo.py")], core)
        try:
            yield ours, echo
        finally:
            echo.stop()
    finally:
        ours.stop()


async def run(arguments: argparse.Namespace, folder: Path, console: Console) -> dict[str, Any]:
    with servers(folder, arguments.core) as (ours, echo):
        found = await measure(ours, echo, arguments.devices, arguments.turns, console)
        await asyncio.gather(ours.channel.close(), echo.channel.close())
    return {"devices": arguments.devices, "turns": arguments.turns, "bytes": CLASSES * (FEATURES + 1) * 4, **found}


def main() -> None:
    cores = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description="Durable reports per second, compared with a bare gRPC echo.")
    parser.add_argument("--devices", type=int, default=500, help="reports in a round (default 500)")
    parser.add_argument("--turns", type=int, default=7, help="rounds that are timed (default 7)")
    parser.add_argument("--core", type=int, default=cores[-1], choices=cores, help="core of the servers")
    parser.add_argument("--folder", type=Path, help="where the ledger is written (default: the system's temporary one)")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, set(cores) - {arguments.core} or {arguments.core})
    console = Console(width=100)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        found = asyncio.run(run(arguments, Path(folder), console))
    table = Table("server", "reports/s", "processor µs a report", title="durable reports")
    for name in ("edgefl", "echo"):
        table.add_row(name, f"{found[name]['per_s']:,.0f}", f"{found[name]['cpu_us']:,.0f}")
    console.print(table)
    found["ratio"] = round(found["edgefl"]["per_s"] / found["echo"]["per_s"], 3)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
