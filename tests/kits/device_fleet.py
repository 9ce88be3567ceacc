"""A scripted ``Fleet`` server, and device configurations, for the tests of the agent: real protos over real gRPC."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from array import array
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from edgefl.models.kinds.softmax import SoftmaxModel
from edgefl.proto.v1 import fleet_pb2, fleet_pb2_grpc
from edgefl.protocol.messages import (
    Accepted,
    Assignment,
    CheckIn,
    CheckInAnswer,
    Plan,
    Receipt,
    Rejection,
    ReleaseInfo,
    Report,
    RetryWindow,
    TrainingWork,
)
from edgefl.types import SgdOptions
from edgefl.wire import answer_to_proto, check_in_from_proto, error_to_status, receipt_to_proto, report_from_proto
from edgefl_device.config import load_config
from edgefl_device.example_store import ExampleStore, Row

NOW = RetryWindow(0.0, 0.0)
LATER = RetryWindow(3000.0, 3000.0)
NO_WORK = CheckInAnswer(Rejection("no work"), LATER)
MODEL = bytes(4 * 3 * 5)
DIGEST = hashlib.sha256(MODEL).hexdigest()


class ScriptedFleet(fleet_pb2_grpc.FleetServicer):
    """Answers by functions that a test sets; each may raise an ``EdgeFLError``."""

    def __init__(self) -> None:
        self.on_check_in: Callable[[CheckIn], CheckInAnswer] = lambda _: CheckInAnswer(Rejection("no work"), LATER)
        self.on_report: Callable[[Report], Receipt] = lambda _: Accepted(1)
        self.on_download: Callable[[bytes, int], Iterator[bytes]] = self._serve
        self.content: dict[bytes, bytes] = {}
        self.check_ins: list[CheckIn] = []
        self.reports: list[Report] = []
        self.downloads: list[tuple[str, int]] = []
        self.identities: set[Any] = set()
        self.report_retry = LATER
        self._server = grpc.server(ThreadPoolExecutor(4))
        fleet_pb2_grpc.add_FleetServicer_to_server(self, self._server)
        self.address = f"127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()

    def stop(self) -> None:
        self._server.stop(None).wait()

    def CheckIn(self, request: fleet_pb2.CheckInRequest, context: Any) -> fleet_pb2.CheckInResponse:
        self.identities.update(value for key, value in context.invocation_metadata() if key == "edgefl-identity")
        check_in = check_in_from_proto(request)
        self.check_ins.append(check_in)
        return self._answer(context, lambda: answer_to_proto(self.on_check_in(check_in)))

    def Report(self, request: fleet_pb2.ReportRequest, context: Any) -> fleet_pb2.ReportResponse:
        report = report_from_proto(request)
        self.reports.append(report)
        return self._answer(context, lambda: receipt_to_proto(self.on_report(report), self.report_retry))

    def Download(self, request: fleet_pb2.DownloadRequest, context: Any) -> Iterator[fleet_pb2.DownloadResponse]:
        self.downloads.append((request.sha256.hex()[:8], request.offset))
        try:
            for data in self.on_download(request.sha256, request.offset):
                yield fleet_pb2.DownloadResponse(data=data)
        except Exception as error:
            self._abort(context, error)

    def _serve(self, sha256: bytes, offset: int) -> Iterator[bytes]:
        content = self.content[sha256]
        for start in range(offset, len(content), 1000):
            yield content[start : start + 1000]

    def _answer(self, context: Any, body: Callable[[], Any]) -> Any:
        try:
            return body()
        except Exception as error:
            self._abort(context, error)

    def _abort(self, context: Any, error: Any) -> None:
        code, details, trailing = error_to_status(error, RetryWindow(7.0, 9.0))
        context.set_trailing_metadata(trailing)
        context.abort(grpc.StatusCode[code], details)


def write_config(folder: Path, address: str = "127.0.0.1:1", *, extra: str = "", examples: str = "") -> Path:
    """A device.toml for 4 features and 3 classes."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "device.toml"
    path.write_text(
        f"""
[device]
name = "pi-01"
population = "watch"
state_dir = "state"
[server]
address = "{address}"
insecure = true
[examples]
num_features = 4
num_classes = 3
{examples}
{extra}
"""
    )
    return path


def fill(config: Path, count: int = 20) -> None:
    """Give the device of ``config`` so many training examples."""
    loaded = load_config(config)
    spec = loaded.examples
    with ExampleStore.open(loaded.store_path, spec) as store:
        store.append_many(
            [
                Row(array("f", [(n * 7 + f) % 11 / 8 for f in range(spec.num_features)]), n % spec.num_classes)
                for n in range(count)
            ]
        )


def answers(fleet: ScriptedFleet, *given: CheckInAnswer) -> None:
    """Let the server answer check-ins with these, one after another, and then with no work."""
    left = list(given)
    fleet.on_check_in = lambda _: left.pop(0) if left else NO_WORK


def assignment(
    model: bytes, digest: str, *, epochs: int = 1, round_num: int = 1, shape: tuple[int, int] = (4, 3)
) -> Any:
    """A training assignment for a model of ``shape`` (features, classes)."""
    work = TrainingWork(SgdOptions(0.125, 8, epochs, 0.0, 0.0, 0.0, 0.0), True, 100_000)
    plan = Plan(SoftmaxModel(*shape), work, "float32")
    return Assignment("shoulder", round_num, 1, plan, digest, len(model), 600.0)


def release(name: str, version: int, digest: str, size: int) -> ReleaseInfo:
    return ReleaseInfo(name, version, digest, size)


def environment() -> dict[str, str]:
    """For child processes: what this process imports from."""
    env = dict(os.environ)
    env.pop("PYTHONWARNINGS", None)
    env["PYTHONPATH"] = os.pathsep.join(entry for entry in sys.path if entry)
    return env


def start_device(*args: str, **options: Any) -> subprocess.Popen[str]:
    """``edgefl-device ARGS`` as a process; stderr is a pipe."""
    command = [sys.executable, "-m", "edgefl_device.main", *args]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment(), **options)


def run_device(*args: str) -> int:
    """Run ``edgefl-device ARGS`` to its end; returns the exit status."""
    with start_device(*args) as process:
        process.communicate(timeout=60)
    return process.returncode


def end_device(process: subprocess.Popen[str], number: int, *, timeout_s: float = 10.0) -> int:
    """Send a signal, drain stderr, and return the exit status."""
    process.send_signal(number)
    process.communicate(timeout=timeout_s)
    return process.returncode


def wait_for_line(process: subprocess.Popen[str], text: str) -> str:
    """Read the process's stderr up to the first line with ``text``."""
    assert process.stderr is not None
    seen = []
    for line in process.stderr:
        if text in line:
            return line
        seen.append(line)
    raise AssertionError(f"the process ended without a line with {text!r}:\n{''.join(seen)}")
