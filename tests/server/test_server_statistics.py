"""A statistics task with histograms and extremes on a real server: told over the wire, computed again, shown."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from pathlib import Path

import grpc
import pytest
from server_kit import OPERATOR, Caller, error_of, run
from simulate_kit import write_files
from small_fleet import fleet

from edgefl import learning
from edgefl.cli.main import main
from edgefl.errors import ConflictError
from edgefl.proto.v1 import control_pb2
from edgefl.protocol.messages import KINDS, Accepted, Assignment, ClientUpdate, DescriptionWork, Rejection
from edgefl_server.recompute import Recomputer
from edgefl_server.sqlite_ledger import SqliteLedger

BOUND = 8.0
TASK = f"""
name = "features"
kind = "statistics"
population = "lab"
rounds = 2
model = {{ num_features = 5, num_classes = 3 }}
statistics = {{ feature_bound = {BOUND}, bins = 6, extremes = true }}
round = {{ goal = 3, minimum = 3 }}
"""
CLIENTS = fleet(3)
KNOWING = tuple(KINDS.values())


async def works(caller: Caller, index: int) -> tuple[Assignment, ClientUpdate]:
    one = CLIENTS[index]
    while True:
        outcome = (await caller.check_in(one.client_id, kinds=KNOWING)).outcome
        if isinstance(outcome, Assignment):
            assert isinstance(outcome.plan.work, DescriptionWork)
            update = learning.run_plan(outcome, b"", one.examples, one.examples, one.client_id)
            assert isinstance(update, ClientUpdate)
            return outcome, update


async def one_round(caller: Caller) -> None:
    updates = [update for _, update in await asyncio.gather(*[works(caller, i) for i in range(3)])]
    for update, one in zip(updates, CLIENTS, strict=True):
        assert isinstance(await caller.report(one.client_id, update), Accepted)


async def told(caller: Caller) -> None:
    request = control_pb2.TaskRequest(name="features")
    try:
        async for _ in caller.control.DescribeFeatures(request, metadata=OPERATOR):
            pass
    except grpc.aio.AioRpcError as error:
        raise error_of(error)[0] from None


def test_the_server_tells_what_a_simulation_tells(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected = learning.build_fed_statistics(5, BOUND, bins=6, extremes=True, max_clients=3).describe(CLIENTS)

    async def body(caller: Caller) -> None:
        await caller.create(TASK)
        rejected = (await caller.check_in("old")).outcome
        assert isinstance(rejected, Rejection)
        assert "an agent that does not know kind 'description' (update it)" in rejected.reason
        for number in (1, 2):
            await one_round(caller)
            await caller.ended(number, "features")
            if number == 1:
                with pytest.raises(ConflictError, match="1 of its 2 rounds"):
                    await told(caller)
        command = ["--server", caller.address, "--insecure", "statistics", "features"]
        assert await asyncio.to_thread(main, [*command, "--json"]) == 0
        assert await asyncio.to_thread(main, command) == 0

    run(tmp_path, body)
    lines = capsys.readouterr().out.splitlines()
    rows = [json.loads(line) for line in lines[:5]]
    assert rows == [
        json.loads(json.dumps({"task": "features", "feature": i, **vars(found)})) for i, found in enumerate(expected)
    ]
    assert lines[5].split() == ["FEATURE", "COUNT", "MEAN", "SPREAD", "MINIMUM", "MAXIMUM", "HISTOGRAM"]
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "edgefl.db")) as db:
        again = [Recomputer(SqliteLedger(db)).version("features", version) for version in (1, 2)]
    assert [one.differences for one in again] == [(), ()]
    assert again[1].state.extra


def test_simulate_shows_them_at_its_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = write_files(tmp_path)
    text = TASK.replace("num_features = 5", "num_features = 3").replace("bins = 6, extremes = true", "bins = 2")
    (files / "features.toml").write_text(text)
    command = ["simulate", str(files / "features.toml"), "--dataset", str(files / "people.csv")]
    assert main([*command, "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = [row for row in rows if "feature" in row]
    assert [(row["task"], row["feature"], row["edges"], row["minimum"]) for row in found] == [
        ("features", i, [-8.0, 0.0, 8.0], None) for i in range(3)
    ]
    assert all(sum(row["histogram"]) == row["count"] > 0 for row in found)
    assert main(command) == 0
    assert "features: every feature over the fleet\nFEATURE" in capsys.readouterr().out
