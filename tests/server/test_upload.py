"""Updates above 1 MiB as the server takes them: in pieces, resumed, reported by SHA-256 (real server)."""

from __future__ import annotations

import asyncio
import dataclasses
import os
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from server_kit import Caller, as_device, error_of, run, update_for
from upload_kit import (
    PIECE,
    SIZE,
    content_of,
    have,
    large_assignment,
    refer,
    refused,
    staged,
    upload,
    wide,
)

from edgefl.errors import (
    BusyError,
    ConflictError,
    EdgeFLError,
    NotFoundError,
    PermissionDeniedError,
    RemoteProtocolError,
    UnavailableError,
    UpdateRefusal,
    VerificationError,
)
from edgefl.proto.v1 import control_pb2, fleet_pb2
from edgefl.protocol.messages import (
    INLINE_UPDATE_MAX_BYTES,
    MAX_UPLOAD_BYTES,
    Accepted,
    AlreadyAccepted,
    Late,
    Refused,
    UploadedContent,
)
from edgefl.wire import query_to_proto, upload_start_to_proto
from edgefl_server.uploads import Uploads

# ------------------------------------------------------------------------------------------------ the plain way


def test_an_uploaded_update_is_accepted_and_then_leaves_the_staging(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        update = update_for(await large_assignment(caller, "a"), "a")
        content = content_of(update.payload)
        error = await refused(refer(caller, "a", update))
        assert isinstance(error, NotFoundError)
        assert f"0 of {SIZE} bytes" in str(error)
        assert await upload(caller, "a", content, update.payload) == SIZE
        assert await have(caller, "a", content) == SIZE
        assert [path.stat().st_size for path in staged(tmp_path)] == [SIZE]
        assert await refer(caller, "a", update) == Accepted(1)
        assert staged(tmp_path) == []
        # The receipt may be lost: the report again needs no upload.
        assert await refer(caller, "a", update) == AlreadyAccepted(1)

    run(tmp_path, body)


def test_an_upload_goes_on_where_it_stopped(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        update = update_for(await large_assignment(caller, "a"), "a")
        content = content_of(update.payload)
        for end in (PIECE, 3 * PIECE):
            begin = await have(caller, "a", content)
            assert await upload(caller, "a", content, update.payload, begin, end) == end
        assert isinstance(await refused(refer(caller, "a", update)), NotFoundError)
        await upload(caller, "a", content, update.payload, 3 * PIECE)
        # All of it again, with nothing to add: verified once more.
        assert await upload(caller, "a", content, update.payload, SIZE) == SIZE
        assert await refer(caller, "a", update) == Accepted(1)

    run(tmp_path, body)


# ------------------------------------------------------------------------------------------------ refusals


def test_a_wrong_offset_is_refused_and_the_right_one_is_told(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        update = update_for(await large_assignment(caller, "a"), "a")
        content = content_of(update.payload)
        await upload(caller, "a", content, update.payload, 0, PIECE)
        for offset in (0, PIECE - 1, PIECE + 1, SIZE):
            error = await refused(upload(caller, "a", content, update.payload, offset))
            assert isinstance(error, ConflictError)
            assert f"the server has {PIECE} bytes" in str(error)
        assert isinstance(await refused(upload(caller, "a", content, b"", SIZE + 1)), RemoteProtocolError)
        assert await have(caller, "a", content) == PIECE

    run(tmp_path, body)


def test_bytes_of_another_digest_are_dropped(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        update = update_for(await large_assignment(caller, "a"), "a")
        content = content_of(update.payload)
        wrong = b"\1" + update.payload[1:]
        assert isinstance(await refused(upload(caller, "a", content, wrong)), VerificationError)
        assert await have(caller, "a", content) == 0
        assert isinstance(await refused(refer(caller, "a", update)), NotFoundError)
        await upload(caller, "a", content, update.payload)
        assert await refer(caller, "a", update) == Accepted(1)

    run(tmp_path, body)


def test_sizes_out_of_bounds_are_refused(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        update = update_for(await large_assignment(caller, "a"), "a")
        content = content_of(update.payload)
        more = await refused(upload(caller, "a", content, update.payload + b"x"))
        assert isinstance(more, RemoteProtocolError)
        assert f"expected {SIZE}, as announced" in str(more)
        for size in (0, INLINE_UPDATE_MAX_BYTES, MAX_UPLOAD_BYTES + 1, 2**63):
            other = UploadedContent(content.sha256, size)
            assert isinstance(await refused(upload(caller, "a", other, b"")), RemoteProtocolError)
            assert isinstance(await refused(have(caller, "a", other)), RemoteProtocolError)
            receipt = await refer(caller, "a", update, other)
            assert isinstance(receipt, Refused)
            large = size > MAX_UPLOAD_BYTES
            assert receipt.reason is (UpdateRefusal.TOO_LARGE if large else UpdateRefusal.MALFORMED)
        assert all(path.stat().st_size <= SIZE for path in staged(tmp_path))

    run(tmp_path, body)


async def _raw(caller: Caller, *messages: fleet_pb2.UploadRequest) -> EdgeFLError:
    async def stream() -> AsyncIterator[fleet_pb2.UploadRequest]:
        for message in messages:
            yield message

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await caller.fleet.Upload(stream(), metadata=as_device("a"))
    return error_of(caught.value)[0]


def test_messages_out_of_order_are_refused(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        update = update_for(await large_assignment(caller, "a"), "a")
        start = upload_start_to_proto(content_of(update.payload), 0)
        data = fleet_pb2.UploadRequest(data=b"x")
        empty = fleet_pb2.UploadRequest(data=b"")
        for messages in ((), (data,), (fleet_pb2.UploadRequest(),), (start, start), (start, empty)):
            assert isinstance(await _raw(caller, *messages), RemoteProtocolError)
        short = upload_start_to_proto(content_of(update.payload), 0)
        short.start.content.sha256 = b"short"
        assert isinstance(await _raw(caller, short), RemoteProtocolError)

    run(tmp_path, body)


def test_a_report_with_a_payload_and_a_reference_is_malformed(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        update = update_for(await large_assignment(caller, "a"), "a")
        request = fleet_pb2.ReportRequest()
        request.update.key.task, request.update.key.round = update.task, 1
        request.update.payload = b"1234"
        request.update.payload_ref.size_bytes = SIZE
        request.update.payload_ref.sha256 = bytes(32)
        response = await caller.fleet.Report(request, metadata=as_device("a"))
        assert response.refused.reason == fleet_pb2.REFUSAL_REASON_MALFORMED

    run(tmp_path, body)


def test_what_a_device_uploaded_is_nobody_elses(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(wide(goal=2))
        ours, theirs = await asyncio.gather(caller.assignment("a"), caller.assignment("b"))
        update = update_for(ours, "a")
        content = content_of(update.payload)
        await upload(caller, "a", content, update.payload)
        assert await have(caller, "b", content) == 0
        stolen = dataclasses.replace(update_for(theirs, "b"), payload=update.payload)
        assert isinstance(await refused(refer(caller, "b", stolen)), NotFoundError)
        assert await refer(caller, "a", update) == Accepted(1)

    run(tmp_path, body)


def test_an_operator_may_not_upload(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        content = UploadedContent("ab" * 32, SIZE)
        request = query_to_proto(content)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await caller.fleet.QueryUpload(request, metadata=(("edgefl-identity", "operator/olga"),))
        assert isinstance(error_of(caught.value)[0], PermissionDeniedError)

    run(tmp_path, body)


def test_nothing_is_taken_from_a_device_that_no_round_waits_for(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        assignment = await large_assignment(caller, "a")
        update = update_for(assignment, "a")
        outsider = update_for(assignment, "z")
        content = content_of(outsider.payload)
        assert isinstance(await refused(upload(caller, "z", content, outsider.payload)), ConflictError)
        receipt = await refer(caller, "z", outsider)
        assert isinstance(receipt, Refused)
        assert receipt.reason is UpdateRefusal.NOT_ASSIGNED
        unknown = await refer(caller, "a", dataclasses.replace(update, task="other"))
        assert isinstance(unknown, Refused)
        assert unknown.reason is UpdateRefusal.WRONG_TASK
        # A wrong base model is the member's failure, so it is told with the bytes at hand, as it is inline.
        stale = dataclasses.replace(update, base_model_digest="ab" * 32)
        assert isinstance(await refused(refer(caller, "a", stale)), NotFoundError)
        await upload(caller, "a", content_of(update.payload), update.payload)
        told = await refer(caller, "a", stale)
        assert isinstance(told, Refused)
        assert told.reason is UpdateRefusal.WRONG_BASE_MODEL
        assert (await caller.ended(1)).phase == control_pb2.ROUND_PHASE_ABANDONED
        assert await refer(caller, "a", update) == Late()
        assert staged(tmp_path) == []

    run(tmp_path, body)


def test_the_room_for_uploads_is_bounded_and_freed_when_their_round_ends(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(wide("first", goal=2))
        await asyncio.gather(caller.assignment("a"), caller.assignment("b"))
        large = UploadedContent("ab" * 32, MAX_UPLOAD_BYTES)
        assert await upload(caller, "a", large, bytes(PIECE), 0, PIECE) == PIECE
        error = await refused(upload(caller, "b", UploadedContent("cd" * 32, SIZE), b""))
        assert isinstance(error, BusyError)
        # Another content of the same device replaces what it had.
        assert await upload(caller, "a", UploadedContent("cd" * 32, SIZE), b"") == 0
        assert len(staged(tmp_path)) == 1
        await caller.operate("EndTask", control_pb2.TaskRequest(name="first"))
        await caller.create(wide("second"))
        update = update_for(await caller.assignment("c"), "c")
        await upload(caller, "c", content_of(update.payload), update.payload)
        assert [path.name[-2:] for path in staged(tmp_path)] == ["-c"]

    run(tmp_path, body, max_uploads_bytes=MAX_UPLOAD_BYTES)


# ------------------------------------------------------------------------------------------------ two at once


def test_a_newer_upload_of_a_device_takes_over(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        update = update_for(await large_assignment(caller, "a"), "a")
        content = content_of(update.payload)
        hold = asyncio.Event()

        async def hanging() -> AsyncIterator[fleet_pb2.UploadRequest]:
            yield upload_start_to_proto(content, 0)
            yield fleet_pb2.UploadRequest(data=update.payload[:PIECE])
            await hold.wait()

        older = caller.fleet.Upload(hanging(), metadata=as_device("a"))
        while await have(caller, "a", content) < PIECE:
            pass
        assert await upload(caller, "a", content, update.payload, PIECE) == SIZE
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await older
        error = error_of(caught.value)[0]
        assert isinstance(error, UnavailableError)
        assert "newer upload" in str(error)
        hold.set()
        assert await refer(caller, "a", update) == Accepted(1)

    run(tmp_path, body)


def test_more_uploads_than_may_run_are_told_to_come_back(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(wide(goal=2))
        given = await asyncio.gather(caller.assignment("a"), caller.assignment("b"))
        first, second = (update_for(one, device) for one, device in zip(given, "ab", strict=True))
        content = content_of(first.payload)
        hold = asyncio.Event()

        async def hanging() -> AsyncIterator[fleet_pb2.UploadRequest]:
            yield upload_start_to_proto(content, 0)
            yield fleet_pb2.UploadRequest(data=first.payload[:PIECE])
            await hold.wait()

        older = caller.fleet.Upload(hanging(), metadata=as_device("a"))
        while await have(caller, "a", content) < PIECE:
            pass
        other = content_of(second.payload)
        assert isinstance(await refused(upload(caller, "b", other, second.payload)), BusyError)
        hold.set()
        assert (await older).have_bytes == PIECE
        assert await upload(caller, "b", other, second.payload) == SIZE

    run(tmp_path, body, max_reports_in_flight=1)


# ------------------------------------------------------------------------------------------------ the staging alone


def test_of_what_an_earlier_run_left_the_newest_of_each_device_stays(tmp_path: Path) -> None:
    folder = tmp_path / "uploads"
    uploads = Uploads(folder, max_total_bytes=MAX_UPLOAD_BYTES)
    assert uploads.devices == frozenset()
    old, new = UploadedContent("ab" * 32, SIZE), UploadedContent("cd" * 32, SIZE + 1)
    uploads.begin("a.b-c", new)
    uploads.append("a.b-c", new, 0, b"12345")
    left = folder / f"{old.sha256}-{old.size_bytes}-a.b-c"
    left.write_bytes(b"1")
    os.utime(left, (1, 1))
    (folder / "notes.txt").write_text("mine")
    again = Uploads(folder, max_total_bytes=MAX_UPLOAD_BYTES)
    assert again.devices == {"a.b-c"}
    assert again.have("a.b-c", new) == 5
    assert again.have("a.b-c", old) == 0
    assert {path.name for path in folder.iterdir()} == {"notes.txt", f"{new.sha256}-{new.size_bytes}-a.b-c"}
    again.remove("a.b-c", old)
    assert again.have("a.b-c", new) == 5
    again.remove("a.b-c")
    with pytest.raises(ConflictError):
        again.append("a.b-c", new, 5, b"late")
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
