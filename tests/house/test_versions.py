"""One minor version apart, both ways: samples of what 0.1 left behind and sent are migrated, taken and answered.

``tests/samples/make.py`` says how the samples were made.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import shutil
import sqlite3
import subprocess
import sys
from array import array
from pathlib import Path
from typing import Any

import pytest
from device_fleet import wait_for_line
from places import TESTS
from server_kit import OPERATOR, Caller, as_device, calling, run, server_process

from edgefl.errors import StorageError
from edgefl.proto.v1 import control_pb2, fleet_pb2
from edgefl.protocol.messages import Accepted, Assignment, CheckInAnswer, Rejection, Split
from edgefl.wire import answer_from_proto, receipt_from_proto
from edgefl_device.config import ExampleSpec
from edgefl_device.example_store import Batch, ExampleStore, Row
from edgefl_device.state import StateDir
from edgefl_server.check import check
from edgefl_server.main import main
from edgefl_server.schema import MIGRATIONS
from edgefl_server.sqlite_restore import restore
from edgefl_server.sqlite_store import SqliteStore

SAMPLE = TESTS / "samples" / "0.1"
EXPECTED: dict[str, Any] = json.loads((SAMPLE / "expected.json").read_text())
WIRE = {name: bytes.fromhex(text) for name, text in json.loads((SAMPLE / "wire.json").read_text()).items()}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """The data folder of the 0.1 server."""
    folder = tmp_path / "data"
    folder.mkdir()
    with contextlib.closing(sqlite3.connect(folder / "edgefl.db")) as db:
        db.executescript((SAMPLE / "server.sql").read_text())
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
    return folder


def version_of(data: Path) -> int:
    with contextlib.closing(sqlite3.connect(data / "edgefl.db")) as db:
        return int(db.execute("PRAGMA user_version").fetchone()[0])


def test_a_database_of_0_1_is_migrated_and_its_round_goes_on(data: Path, tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        call = caller.channel.unary_unary("/edgefl.proto.v1.Fleet/Report")
        answer = fleet_pb2.ReportResponse.FromString(await call(WIRE["report"], metadata=as_device("b")))
        assert isinstance(receipt_from_proto(answer)[0], Accepted)
        await caller.ended(4)
        assert (await caller.models())[-1] == EXPECTED["model"]
        listed = await caller.control.ListReleases(control_pb2.ListReleasesRequest(), metadata=OPERATOR)
        (release,) = [info.release for info in listed.releases]
        assert [release.name, release.version, release.content.sha256.hex()] == EXPECTED["release"]
        assert len(await caller.download(EXPECTED["release"][2])) == release.content.size_bytes

    run(tmp_path, body, retention_rounds=2)
    assert version_of(data) == len(MIGRATIONS)
    verdict = check(data)
    assert (verdict.findings, verdict.recomputed) == ((), 2)


def test_a_migration_that_is_killed_is_done_again(data: Path) -> None:
    class Killed(BaseException):
        pass

    class Dies(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            if sql.startswith("PRAGMA user_version ="):
                raise Killed
            return super().execute(sql, *parameters)

    with pytest.raises(Killed):
        SqliteStore(
            data, retention_rounds=2, factory=lambda path: sqlite3.connect(path, isolation_level=None, factory=Dies)
        )
    assert version_of(data) == 1
    with contextlib.closing(SqliteStore(data, retention_rounds=2)) as store:
        assert store.load().tasks[0].spec.name == "train"
    assert version_of(data) == len(MIGRATIONS)


def test_check_says_what_to_do_with_an_older_database(data: Path) -> None:
    with pytest.raises(StorageError, match="schema version 1; expected 4; a server of this version migrates"):
        check(data)


def test_a_backup_of_0_1_is_migrated_by_restore(data: Path, tmp_path: Path) -> None:
    restore(tmp_path / "new", data / "edgefl.db", clock=lambda: 0.0)
    assert version_of(tmp_path / "new") == len(MIGRATIONS)
    assert version_of(data) == 1, "the backup stays as it is"
    assert check(tmp_path / "new").findings == ()


def test_an_outbox_of_0_1_is_delivered_by_an_agent_of_today(data: Path, tmp_path: Path) -> None:
    """The state folder of ``b``, whose report the migrated server awaits; processes, as they would be updated."""
    del data
    device = tmp_path / "device-b"
    shutil.copytree(SAMPLE / "device-b", device)

    async def body() -> None:
        with server_process(tmp_path) as server:
            async with calling(server) as caller:
                agent = start_agent(tmp_path, device, caller.address)
                try:
                    await caller.ended(4)
                    assert (await caller.models())[-1] == EXPECTED["model"]
                    await asyncio.to_thread(wait_for_line, agent, "accepted as")
                finally:
                    agent.terminate()
                    await asyncio.to_thread(agent.communicate, timeout=30)
                assert agent.returncode == 0

    asyncio.run(body())
    with contextlib.closing(StateDir.open(device, "b")) as state:
        assert state.session == 3  # one start in the sample, one of the agent, one of this test
        assert state.found_outbox is None
        assert (state.notes.last_task, state.notes.last_round) == ("train", 4)


def start_agent(folder: Path, state_dir: Path, address: str) -> subprocess.Popen[str]:
    config = folder / "device.toml"
    config.write_text(f"""
[device]
name = "b"
population = "lab"
state_dir = "{state_dir}"

[server]
address = "{address}"
insecure = true

[examples]
num_features = 3
num_classes = 2
""")
    command = [sys.executable, "-m", "edgefl_device.main", "run", "--config", str(config)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def examples(tmp_path: Path) -> Path:
    """The example store of a device of 0.1."""
    path = tmp_path / "examples.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.executescript((SAMPLE / "examples.sql").read_text())
    return path


SPEC = ExampleSpec(num_features=3, num_classes=2)


def test_an_example_store_of_0_1_is_migrated(examples: Path) -> None:
    with ExampleStore.open(examples, SPEC) as store:
        train = store.load(Split.TRAIN)
        assert (train.features, train.labels) == (array("f", range(1, 7)).tobytes(), array("i", [0, 1]).tobytes())
        assert store.load(Split.HELD_OUT).features == array("f", [7, 8, 9]).tobytes()
        assert store.feature_names == ()
        assert store.has_stamp("monday.csv 77 42 1760000000000000000"), "the file that the inbox took last"
        store.append_many([Row(array("f", [1, 1, 1]), 0)], Batch("a.csv", feature_names=("x", "y", "z")))
    with contextlib.closing(sqlite3.connect(examples)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (2,)
        with contextlib.closing(sqlite3.connect(":memory:")) as new:
            ExampleStore.open(examples.with_name("new.db"), SPEC).close()
            new.execute("ATTACH ? AS new", (str(examples.with_name("new.db")),))
            schema = "SELECT name, sql FROM {}.sqlite_master ORDER BY name"
            assert db.execute(schema.format("main")).fetchall() == new.execute(schema.format("new")).fetchall()


def test_a_migration_of_examples_that_is_killed_is_done_again(examples: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    class Dies(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            if sql.startswith("PRAGMA user_version ="):
                raise Killed
            return super().execute(sql, *parameters)

    real = sqlite3.connect
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", lambda path, **options: real(path, factory=Dies, **options))
        with pytest.raises(Killed):
            ExampleStore.open(examples, SPEC)
    with contextlib.closing(sqlite3.connect(examples)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
    with ExampleStore.open(examples, SPEC) as store:
        assert store.count(Split.TRAIN) == 2


def answer_of(raw: bytes) -> CheckInAnswer:
    return answer_from_proto(fleet_pb2.CheckInResponse.FromString(raw))


def without_deadline(answer: CheckInAnswer) -> CheckInAnswer:
    """Time has passed since the sample was made."""
    assert isinstance(answer.outcome, Assignment)
    return dataclasses.replace(answer, outcome=dataclasses.replace(answer.outcome, deadline_s=0.0))


def test_a_device_of_0_1_is_served(data: Path, tmp_path: Path) -> None:
    """Its requests, byte by byte; it must be able to read the answers, so their known fields stay what they were."""
    del data

    async def body(caller: Caller) -> None:
        call = caller.channel.unary_unary("/edgefl.proto.v1.Fleet/CheckIn")
        answer = answer_of(await call(WIRE["check_in"], metadata=as_device("b")))
        assert without_deadline(answer) == without_deadline(answer_of(WIRE["answer"]))
        again = fleet_pb2.CheckInRequest.FromString(WIRE["check_in"])
        again.population = "elsewhere"
        other = await call(again.SerializeToString(), metadata=as_device("z"))
        assert isinstance(answer_of(other).outcome, Rejection)

    run(tmp_path, body, retention_rounds=2)


def test_an_agent_of_today_reads_what_0_1_answers() -> None:
    outcome = answer_of(WIRE["answer"]).outcome
    assert isinstance(outcome, Assignment)
    assert (outcome.task, outcome.round_num, outcome.plan.encoding) == ("train", 4, "float32")
    receipt, _ = receipt_from_proto(fleet_pb2.ReportResponse.FromString(WIRE["receipt"]))
    assert receipt == Accepted(7)


def test_replay_computes_what_0_1_recorded(data: Path, tmp_path: Path) -> None:
    SqliteStore(data, retention_rounds=2).close()
    (tmp_path / "server.toml").write_text('data_dir = "data"\n')
    for version in (2, 3):
        assert main(["replay", "--config", str(tmp_path / "server.toml"), "train", "--version", str(version)]) == 0
