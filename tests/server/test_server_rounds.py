"""Rounds over real gRPC on loopback: receipts, refusals, deadlines, waiting check-ins, limits."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import itertools
import math
import struct
from pathlib import Path

import grpc
import pytest
from server_kit import (
    Caller,
    as_device,
    check_in,
    definition,
    error_of,
    run,
    seen,
    server_config,
    update_for,
)

from edgefl.errors import (
    BusyError,
    EdgeFLError,
    UpdateRefusal,
)
from edgefl.proto.v1 import control_pb2
from edgefl.protocol.messages import (
    Accepted,
    AlreadyAccepted,
    Fate,
    Late,
    Noted,
    Refused,
    Rejection,
    RetryWindow,
    WorkFailure,
)
from edgefl.wire import check_in_to_proto, receipt_from_proto, report_to_proto
from edgefl_server.daemon import make_coordinator
from edgefl_server.engine import Engine
from edgefl_server.sqlite_store import SqliteStore

# ------------------------------------------------------------------------------------------------ rounds


def test_rounds_make_model_versions(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        created = await caller.create(definition(rounds=2))
        assert (created.status, created.wanted_rounds, created.next_round) == (control_pb2.TASK_STATUS_RUNNING, 2, 1)
        for round_num in (1, 2):
            assert (await caller.run_round(("a", "b"))).round_num == round_num
        changes = [change async for change in caller.rounds()]  # ends with the task
        assert [(c.round, c.version, c.accepted) for c in changes] == [(1, 1, 2), (2, 2, 2)]
        (task,) = (await caller.operate("ListTasks", control_pb2.ListTasksRequest())).tasks
        assert (task.status, task.committed_rounds) == (control_pb2.TASK_STATUS_COMPLETED, 2)
        digests = await caller.models()
        assert len(set(digests)) == 3  # versions 0, 1, 2
        model = await caller.download(digests[2])
        assert hashlib.sha256(model).hexdigest() == digests[2]
        devices = (await caller.operate("ListDevices", control_pb2.ListDevicesRequest(population="lab"))).devices
        assert [(d.name, d.num_train) for d in devices] == [("a", 20), ("b", 20)]
        assert not (await caller.operate("ListDevices", control_pb2.ListDevicesRequest(population="x"))).devices

    run(tmp_path, body)


def test_receipts_accepted_repeated_and_late(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=2, over=1.5))
        given = await asyncio.gather(*map(caller.assignment, "abc"))
        updates = {device: update_for(assignment, device) for device, assignment in zip("abc", given, strict=True)}
        first = await caller.report("a", updates["a"])
        assert first == Accepted(1)
        other = dataclasses.replace(updates["a"], weight=99, attempt=2)
        assert await caller.report("a", other) == AlreadyAccepted(1)
        assert await caller.report("b", updates["b"]) == Accepted(2)
        await caller.ended(1)
        assert await caller.report("c", updates["c"]) == Late()
        assert await caller.report("a", updates["a"]) == AlreadyAccepted(1)
        answer = await caller.check_in("z", kinds=(), last_task="train", last_round=1)
        assert answer.last_fate is Fate.OPEN  # it never reported
        answer = await caller.check_in("a", kinds=(), last_task="train", last_round=1)
        assert isinstance(answer.outcome, Rejection)
        assert answer.last_fate is Fate.COUNTED

    run(tmp_path, body)


def test_an_old_rounds_report_is_answered_from_the_ledger(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=1, rounds=9))
        first = await caller.assignment("a")
        update = update_for(first, "a")
        assert await caller.report("a", update) == Accepted(1)
        for _ in range(7):  # more rounds than a coordinator remembers
            await caller.run_round(("a",))
        assert await caller.report("a", update) == AlreadyAccepted(1)
        assert await caller.report("b", update) == Late()

    run(tmp_path, body)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"payload": struct.pack("<8f", *[0.0] * 7, math.nan)}, UpdateRefusal.NON_FINITE),
        ({"payload": struct.pack("<8f", *[1e6] * 8)}, UpdateRefusal.NORM),
        ({"payload": b"\x00" * 12}, UpdateRefusal.SHAPE),
        ({"encoding": "morse"}, UpdateRefusal.ENCODING),
        ({"task": "nothing"}, UpdateRefusal.WRONG_TASK),
        ({"round_num": 99}, UpdateRefusal.WRONG_ROUND),
        ({"base_model_digest": "00" * 32}, UpdateRefusal.WRONG_BASE_MODEL),
        ({"weight": 0}, UpdateRefusal.WEIGHT),
        ({"num_correct": 10**6}, UpdateRefusal.MALFORMED),
        ({"payload": bytes((1 << 20) + 5000)}, UpdateRefusal.TOO_LARGE),
    ],
)
def test_refused_updates_change_nothing(tmp_path: Path, changes: dict[str, object], reason: UpdateRefusal) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=1))
        assignment = await caller.assignment("a")
        receipt = await caller.report("a", update_for(assignment, "a", **changes))
        assert isinstance(receipt, Refused)
        assert receipt.reason is reason
        assert receipt.message
        # Whatever refused it, its round does not wait for it any more; what is too large is not read to find its round.
        if reason not in (UpdateRefusal.TOO_LARGE, UpdateRefusal.WRONG_TASK, UpdateRefusal.WRONG_ROUND):
            ended = await caller.ended(1)
            assert (ended.phase, ended.failed) == (control_pb2.ROUND_PHASE_ABANDONED, 1)
        assert len(await caller.models()) == 1

    run(tmp_path, body)


def test_a_stranger_to_the_round_is_refused(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=1))
        assignment = await caller.assignment("a")
        receipt = await caller.report("b", update_for(assignment, "b"))
        assert isinstance(receipt, Refused)
        assert receipt.reason is UpdateRefusal.NOT_ASSIGNED

    run(tmp_path, body)


@pytest.mark.parametrize("number", [2**63, 2**64 - 1])
def test_numbers_that_no_database_holds_do_no_harm(tmp_path: Path, number: int) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=1))
        with contextlib.suppress(EdgeFLError):
            await caller.check_in("b", session=number, num_train=number, num_held_out=number)
        assignment = await caller.assignment("a")
        large = update_for(assignment, "a", weight=1, num_examples=number, num_correct=number)
        assert isinstance(await caller.report("a", large), Refused)
        assert (await caller.operate("ListTasks", control_pb2.ListTasksRequest())).tasks

    run(tmp_path, body)


def test_a_failed_device_abandons_what_cannot_be_reached(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=2))
        await asyncio.gather(*map(caller.assignment, "ab"))
        failure = WorkFailure("train", 1, "DataError", "no examples")
        message = await caller.fleet.Report(report_to_proto(failure), metadata=as_device("a"))
        assert receipt_from_proto(message)[0] == Noted()
        ended = await caller.ended(1)
        assert (ended.phase, ended.failed) == (control_pb2.ROUND_PHASE_ABANDONED, 1)
        assert "out of reach" in ended.reason

    run(tmp_path, body)


def test_the_deadline_ends_a_round_by_itself(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=2, minimum=1, deadline_s=0.3))
        given = await asyncio.gather(*map(caller.assignment, "ab"))
        await caller.report("a", update_for(given[0], "a"))
        ended = await caller.ended(1)
        assert (ended.phase, ended.accepted, ended.version) == (control_pb2.ROUND_PHASE_COMMITTED, 1, 1)

    run(tmp_path, body)


# ------------------------------------------------------------------------------------------------ check-ins


def test_a_check_in_waits_until_there_is_work(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=2))
        waiting = asyncio.create_task(caller.check_in("a"))
        await seen(caller, "a")
        assert not waiting.done()
        second = await caller.assignment("b")
        assert (await waiting).outcome == second

    run(tmp_path, body)


def test_a_cancelled_check_in_is_no_candidate(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=2))
        request = check_in_to_proto(check_in())
        call = caller.fleet.CheckIn(request, metadata=as_device("gone"))
        await seen(caller, "gone")
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        # Were it still a candidate, the next one to wait would make a round of two with it.
        assert isinstance((await caller.check_in("probe")).outcome, Rejection)
        given = await asyncio.gather(*map(caller.assignment, "ab"))
        for device, assignment in zip("ab", given, strict=True):
            assert await caller.report(device, update_for(assignment, device)) != Late()
        assert (await caller.ended(1)).cohort == 2

    run(tmp_path, body, max_waiting_check_ins=2, long_poll_s=0.2)


def test_check_ins_beyond_the_limit_are_answered_at_once(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=5))
        waiting = [asyncio.create_task(caller.check_in(name)) for name in "ab"]
        for name in "ab":
            await seen(caller, name)
        answer = await caller.check_in("c")
        assert isinstance(answer.outcome, Rejection)
        assert answer.retry.max_s > 0
        for task in waiting:
            task.cancel()

    run(tmp_path, body, max_waiting_check_ins=2)


def test_reports_beyond_the_limit_are_told_when_to_come_back(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=8, rounds=1))
        given = await asyncio.gather(*map(caller.assignment, "abcdefgh"))
        calls = [
            caller.fleet.Report(report_to_proto(update_for(assignment, device)), metadata=as_device(device))
            for device, assignment in zip("abcdefgh", given, strict=True)
        ]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        refused = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert 1 <= len(refused) < len(answers)
        error, retry = error_of(refused[0])
        assert isinstance(error, BusyError)
        assert refused[0].code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert retry is not None
        assert retry.max_s >= retry.min_s > 0
        for device, assignment in zip("abcdefgh", given, strict=True):
            assert isinstance(await caller.report(device, update_for(assignment, device)), (Accepted, AlreadyAccepted))

    run(tmp_path, body, max_reports_in_flight=1, gather_window_ms=200.0)


def test_the_engine_measures_what_an_event_costs(tmp_path: Path) -> None:
    """Each look at the processor's clock finds two seconds more: half an arrival a second is what a crowd may take."""

    async def main() -> RetryWindow:
        config = server_config(tmp_path, max_waiting_check_ins=1)
        with contextlib.closing(SqliteStore(config.data_dir, retention_rounds=1)) as store:
            seconds = itertools.count(step=2.0)
            engine = Engine(
                store, make_coordinator(config, store), gather_window_s=0.0, work_clock=lambda: next(seconds)
            )
            await engine.start()
            for device in ("a", "b", "c", "d"):  # no task: each is answered at once
                answer = await engine.check_in(device, check_in())
            await engine.stop()
            return answer.retry

    window = asyncio.run(main())
    assert window.min_s > 1.0 + 4 / 0.5 / 2, "four devices, a quarter or half of an arrival a second"
    assert window.max_s < 3.0 + 2 * 4 / 0.1
