"""Writes a sample of what this version leaves behind and sends: run it before a format changes, never over a sample.

    PYTHONPATH=tests python tests/samples/make.py tests/samples/0.1

``server.sql``: the database of a server that ended in round 4 of ``train``, with the report of ``a`` accepted and that
of ``b`` awaited. ``device-b/``: the state folder of ``b``, whose outbox holds that report. ``examples.sql``: an example
store with the rows of an application and of a file. ``wire.json``: requests and answers of the two, in hexadecimal.
``expected.json``: what a server of any later version must make of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sqlite3
import sys
import tempfile
from array import array
from pathlib import Path

from server_kit import OPERATOR, Caller, as_device, check_in, definition, served, server_config, update_for

from edgefl.proto.v1 import control_pb2
from edgefl.protocol.messages import Assignment, Split
from edgefl.wire import answer_from_proto, check_in_to_proto, report_to_proto
from edgefl_device.config import ExampleSpec
from edgefl_device.example_store import Batch, ExampleStore, Row
from edgefl_device.state import Notes, StateDir

DEVICES = ("a", "b")


async def three_rounds_and_a_half(folder: Path, into: Path) -> None:
    async with served(server_config(folder, retention_rounds=2)) as caller:
        await caller.create(definition(rounds=6))
        for _ in range(3):
            await caller.run_round(DEVICES)
        await caller.create(EVALUATION)
        release = control_pb2.CreateReleaseRequest(
            name="gestures", task="train", model_version=2, format=control_pb2.MODEL_FORMAT_TFLITE_FLOAT32
        )
        await caller.operate("CreateRelease", release)
        wire: dict[str, str] = {}
        found = await asyncio.gather(*(recorded_assignment(caller, device, wire) for device in DEVICES))
        jobs = dict(zip(DEVICES, found, strict=True))
        reports = {device: report_to_proto(update_for(jobs[device], device)) for device in DEVICES}
        receipt = await caller.fleet.Report(reports["a"], metadata=as_device("a"))
        wire |= {"report": reports["b"].SerializeToString().hex(), "receipt": receipt.SerializeToString().hex()}
        (into / "wire.json").write_text(json.dumps(wire, indent=1) + "\n")
        device_state(into / "device-b", jobs["b"])


EVALUATION = """
name = "eval"
kind = "evaluation"
population = "lab"
evaluates = "train"
rounds = 6

[round]
goal = 2
minimum = 2
selection_s = 30.0
deadline_s = 600.0
"""


async def recorded_assignment(caller: Caller, device: str, wire: dict[str, str]) -> Assignment:
    """Check in, as an agent that only trains, until there is work; the exchange is in ``wire`` then."""
    request = check_in_to_proto(check_in(kinds=("training",)))
    while True:
        answer = await caller.fleet.CheckIn(request, metadata=as_device(device))
        outcome = answer_from_proto(answer).outcome
        if isinstance(outcome, Assignment):
            wire |= {"check_in": request.SerializeToString().hex(), "answer": answer.SerializeToString().hex()}
            return outcome


def device_state(folder: Path, job: Assignment) -> None:
    state = StateDir.open(folder, "b")
    state.note(Notes(state.session, job.task, job.round_num, 0, job.task, job.round_num - 1, 1.0, 3.0))
    state.save_update(update_for(job, "b"))
    state.close()
    (folder / "lock").unlink()


def example_store(folder: Path, into: Path) -> None:
    path, spec = folder / "examples.db", ExampleSpec(num_features=3, num_classes=2)
    with ExampleStore.open(path, spec, clock=lambda: 1_760_000_000.0) as store:
        store.append(array("f", [1, 2, 3]), 0)
        rows = [Row(array("f", [4, 5, 6]), 1), Row(array("f", [7, 8, 9]), 0, Split.HELD_OUT)]
        store.append_many(rows, Batch("monday.csv", "monday.csv 77 42 1760000000000000000", ("x", "y", "z")))
    dump(path, into / "examples.sql")


def dump(path: Path, into: Path) -> None:
    with contextlib.closing(sqlite3.connect(path)) as db:
        pragmas = [(name, db.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("application_id", "user_version")]
        lines = [f"PRAGMA {name} = {value};" for name, value in pragmas]
        into.write_text("\n".join([*lines, *db.iterdump()]) + "\n")


async def last_word(folder: Path, into: Path) -> None:
    """The server goes on with the awaited report: what it then has is what every later version must have."""
    async with served(server_config(folder, retention_rounds=2)) as caller:
        report = bytes.fromhex(json.loads((into / "wire.json").read_text())["report"])
        call = caller.channel.unary_unary("/edgefl.proto.v1.Fleet/Report")
        await call(report, metadata=as_device("b"))
        await caller.ended(4)
        models = await caller.models()
        listed = await caller.control.ListReleases(control_pb2.ListReleasesRequest(), metadata=OPERATOR)
    release = listed.releases[0].release
    expected = {"model": models[4], "release": [release.name, release.version, release.content.sha256.hex()]}
    (into / "expected.json").write_text(json.dumps(expected, indent=1) + "\n")


def main(into: Path) -> None:
    into.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        asyncio.run(three_rounds_and_a_half(folder, into))
        dump(folder / "data" / "edgefl.db", into / "server.sql")
        example_store(folder, into)
        shutil.copytree(folder / "data", folder / "copy" / "data")
        asyncio.run(last_word(folder / "copy", into))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
