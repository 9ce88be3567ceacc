"""Updates above 1 MiB: uploaded in pieces, resumed after any break, reported by SHA-256 (real server, real link)."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import struct
from array import array
from collections.abc import AsyncIterator
from pathlib import Path

import grpc
import pytest
from device_fleet import end_device, start_device
from server_kit import Caller, as_device, calling, error_of, run, seen, server_process, update_for
from upload_kit import (
    CLASSES,
    FEATURES,
    PIECE,
    SIZE,
    BreakingLink,
    Cut,
    content_of,
    have,
    large_assignment,
    refer,
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
from edgefl.learning import build_process
from edgefl.proto.v1 import control_pb2, fleet_pb2
from edgefl.protocol.messages import (
    INLINE_UPDATE_MAX_BYTES,
    MAX_UPLOAD_BYTES,
    Accepted,
    AlreadyAccepted,
    ClientUpdate,
    Late,
    Receipt,
    Refused,
    Split,
    UploadedContent,
)
from edgefl.protocol.task import parse_task
from edgefl.types import ClientDataset
from edgefl.wire import query_to_proto, upload_start_to_proto
from edgefl_device.config import load_config
from edgefl_device.example_store import ExampleStore, Row
from edgefl_device.rpc import CallError, FleetClient
from edgefl_device.state import pack_outbox, unpack_outbox
from edgefl_device.status import peak_rss_bytes
from edgefl_server.fleet_service import MAX_CACHED_BYTES, ContentCache
from edgefl_server.uploads import Uploads

PROMPT = {"idle_retry_min_s": 0.0, "idle_retry_max_s": 0.01}


def staged(folder: Path) -> list[Path]:
    return list((folder / "data" / "uploads").iterdir())


async def refused(call: object) -> EdgeFLError:
    with pytest.raises(EdgeFLError) as caught:
        await call  # type: ignore[misc]
    return caught.value


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


# ------------------------------------------------------------------------------------------------ the device's calls


async def report(client: FleetClient, update: ClientUpdate) -> Receipt:
    """Report as a session does: again after each transient error."""
    while True:
        try:
            return (await asyncio.to_thread(client.report, update, 30.0, "training"))[0]
        except CallError as error:
            if not error.error.transient:
                raise


@contextlib.asynccontextmanager
async def linked(address: str, device: str = "a") -> AsyncIterator[tuple[BreakingLink, FleetClient]]:
    link = BreakingLink(address)
    async with link.open() as near:
        client = FleetClient(near, device)
        try:
            yield link, client
        finally:
            await asyncio.to_thread(client.close)


@pytest.mark.parametrize("cuts", [(1000,), (PIECE,), (700_000,), (SIZE - 1,), (100, 300_000, 300_000, 600_000, 200)])
def test_a_device_reports_over_a_link_that_breaks(tmp_path: Path, cuts: tuple[int, ...]) -> None:
    async def body(caller: Caller) -> None:
        update = update_for(await large_assignment(caller, "a"), "a")
        async with linked(caller.address) as (link, client):
            link.cuts = [Cut(after) for after in cuts]
            assert isinstance(await report(client, update), (Accepted, AlreadyAccepted))
            assert [cut.after for cut in link.made] == list(cuts)

    run(tmp_path, body)


def test_a_small_update_still_goes_inline(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        # 262,144 weights: 1 MiB to the byte.
        await caller.create(wide(features=255, classes=1024))
        update = update_for(await caller.assignment("a"), "a")
        assert len(update.payload) == INLINE_UPDATE_MAX_BYTES
        async with linked(caller.address) as (_, client):
            assert await report(client, update) == Accepted(1)
            assert ("upload", "training") not in client.traffic
        assert staged(tmp_path) == []

    run(tmp_path, body)


def test_a_late_device_uploads_nothing(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        assignment = await large_assignment(caller, "a")
        update = update_for(assignment, "a")
        await caller.operate("EndTask", control_pb2.TaskRequest(name="train"))
        async with linked(caller.address) as (link, client):
            assert await report(client, update) == Late()
            assert link.bytes_up < 10_000

    run(tmp_path, body)


def test_a_round_that_ends_during_an_upload_ends_it_with_late(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        update = update_for(await large_assignment(caller, "a"), "a")

        async def end() -> None:
            await caller.operate("EndTask", control_pb2.TaskRequest(name="train"))

        async with linked(caller.address) as (link, client):
            link.cuts = [Cut(700_000, then=end)]
            assert await report(client, update) == Late()

    run(tmp_path, body)


@pytest.mark.parametrize("complete", [False, True])
def test_damage_in_the_staging_costs_another_upload_and_nothing_else(tmp_path: Path, complete: bool) -> None:
    async def body(caller: Caller) -> None:
        update = update_for(await large_assignment(caller, "a"), "a")
        content = content_of(update.payload)
        await upload(caller, "a", content, update.payload, 0, SIZE if complete else PIECE)
        (file,) = staged(tmp_path)
        raw = bytearray(file.read_bytes())
        raw[1000:2000] = bytes(1000)  # as a power cut leaves it
        file.write_bytes(raw)
        async with linked(caller.address) as (_, client):
            assert await report(client, update) == Accepted(1)
            sent = client.traffic["upload", "training"]
            assert sent.calls == (1 if complete else 2)
            assert SIZE < sent.sent_bytes < 2 * SIZE

    run(tmp_path, body)


def test_an_upload_survives_the_death_of_the_server(tmp_path: Path) -> None:
    async def main() -> None:
        with server_process(tmp_path) as server:
            async with calling(server) as caller:
                update = update_for(await large_assignment(caller, "a"), "a")
                content = content_of(update.payload)
                async with linked(caller.address) as (link, client):

                    async def kill() -> None:
                        while await have(caller, "a", content) < 2 * PIECE:
                            pass
                        await asyncio.to_thread(server.kill)

                    link.cuts = [Cut(2 * PIECE + 10_000, then=kill)]
                    reporting = asyncio.ensure_future(report(client, update))
                    await asyncio.to_thread(server.process.wait)
                    with server_process(tmp_path) as second:
                        async with calling(second) as again:
                            assert await have(again, "a", content) == 2 * PIECE
                            before = link.bytes_up
                            link.target = again.address
                            assert await reporting == Accepted(1)
                            assert link.bytes_up - before < SIZE - 2 * PIECE + 10_000
                            assert (await again.ended(1)).phase == control_pb2.ROUND_PHASE_COMMITTED

    asyncio.run(main())


def test_a_download_of_16_mib_survives_the_death_of_the_server(tmp_path: Path) -> None:
    size, kept = 16 << 20, 6 << 20

    async def main() -> None:
        with server_process(tmp_path) as server:
            async with calling(server) as caller:
                await caller.create(wide(features=4095, classes=1024))
                assignment = await caller.assignment("a")
                assert assignment.model_size_bytes == size
                part = tmp_path / "part"
                async with linked(caller.address) as (link, client):
                    link.cuts = [Cut(kept, up=False, then=lambda: asyncio.to_thread(server.kill))]
                    with pytest.raises(CallError) as caught:
                        await asyncio.to_thread(client.download, assignment.model_digest, size, part)
                    assert caught.value.error.transient
                    have_bytes = part.stat().st_size
                    assert kept - (2 << 20) < have_bytes < kept
                    with server_process(tmp_path) as second:
                        async with calling(second) as again:
                            link.target = again.address
                            while True:
                                with contextlib.suppress(CallError):
                                    await asyncio.to_thread(client.download, assignment.model_digest, size, part)
                                    break
                            assert part.stat().st_size == size
                            received = sum(t.received_bytes for (c, _), t in client.traffic.items() if c == "download")
                            assert received < size + 100_000

    asyncio.run(main())


def test_many_large_reports_are_not_in_memory_together(tmp_path: Path) -> None:
    """12 updates of 8 MiB, and a restart in the middle of their round, which folds 11 of them again."""
    count, size = 12, 8 << 20
    names = [f"d{index}" for index in range(count)]
    payload = struct.pack("<f", 1e-4) * (size // 4)
    content = content_of(payload)
    peaks = []

    async def main() -> None:
        updates: list[ClientUpdate] = []
        for devices in (names[:-1], names[-1:]):
            with server_process(tmp_path) as server:
                async with calling(server) as caller:
                    if not updates:
                        await caller.create(wide(goal=count, features=2047, classes=1024))
                        assignments = await asyncio.gather(*map(caller.assignment, names))
                        updates.append(update_for(assignments[0], names[0], payload=payload))
                    peaks.append(peak_rss_bytes(server.process.pid))
                    for device in devices:
                        await upload(caller, device, content, payload)
                        assert isinstance(await refer(caller, device, updates[0], content), Accepted)
                    peaks.append(peak_rss_bytes(server.process.pid))
                    server.kill()

    asyncio.run(main())
    before, during, restarted, end = peaks
    assert during - before < 8 * size
    assert restarted - before < 4 * size
    assert end - restarted < 8 * size


def test_a_model_that_is_larger_than_the_cache_is_read_once_for_its_cohort() -> None:
    class Reads:
        count = 0

        def content(self, sha256: str) -> bytes:
            self.count += 1
            return sha256.encode() + bytes(MAX_CACHED_BYTES)

    reads = Reads()
    cache = ContentCache(reads)  # type: ignore[arg-type]
    assert cache.get("a") is cache.get("a")
    assert reads.count == 1
    cache.get("b")
    cache.get("a")
    assert reads.count == 3  # one large model at a time


def test_an_outbox_holds_a_large_update() -> None:
    update = ClientUpdate("t", 1, "ab" * 32, "float32", bytes(16 << 20), 1, 1, 1, 0)
    assert unpack_outbox(pack_outbox(update, 3)) == (update, 3)


# ------------------------------------------------------------------------------------------------ the whole


def device(folder: Path, address: str) -> Path:
    folder.mkdir()
    config = folder / "device.toml"
    config.write_text(
        f'[device]\nname = "pi-01"\npopulation = "lab"\nstate_dir = "state"\n'
        f'[server]\naddress = "{address}"\ninsecure = true\n'
        f"[examples]\nnum_features = {FEATURES}\nnum_classes = {CLASSES}\n"
    )
    loaded = load_config(config)
    with ExampleStore.open(loaded.store_path, loaded.examples) as store:
        rows = [Row(array("f", [(n * 7 + f) % 11 / 8 for f in range(FEATURES)]), n * 13 % CLASSES) for n in range(20)]
        store.append_many(rows)
    return config


def simulated(text: str, config: Path) -> list[str]:
    """The digests that the task makes of the device's examples in this process."""
    process = build_process(parse_task(text, "task"), None, None)
    loaded = load_config(config)
    with ExampleStore.open(loaded.store_path, loaded.examples) as store:
        clients = [ClientDataset("pi-01", store.load(Split.TRAIN))]
    state = process.initialize()
    digests = [state.model_digest]
    for _ in range(2):
        state, _ = process.next(state, clients)
        digests.append(state.model_digest)
    return digests


def test_an_agent_over_a_bad_link_makes_the_simulations_model(tmp_path: Path) -> None:
    text = wide(rounds=2)

    async def main() -> list[str]:
        with server_process(tmp_path, **PROMPT) as server:
            async with calling(server) as caller:
                link = BreakingLink(caller.address)
                async with link.open() as near:
                    config = await asyncio.to_thread(device, tmp_path / "device", near)
                    # The first breaks in the model's download, then in it again, then in the upload, ...
                    link.cuts = [Cut(500_000, up=False), Cut(400_000, up=False), Cut(500_000), Cut(300_000)]
                    wanted = len(link.cuts)
                    agent = start_device("run", "--config", str(config))
                    try:
                        await seen(caller, "pi-01")
                        await caller.create(text)
                        await caller.ended(2)
                        assert len(link.made) == wanted
                        return await caller.models()
                    finally:
                        await asyncio.to_thread(end_device, agent, signal.SIGTERM)

    served = asyncio.run(main())
    assert served == simulated(text, tmp_path / "device" / "device.toml")
    assert len(set(served)) == 3
    assert staged(tmp_path) == []


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
