"""Updates above 1 MiB as a device sends them: resumed after any break (real server, real link)."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import signal
import struct
from array import array
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from device_fleet import end_device, start_device
from server_kit import Caller, calling, run, seen, server_process, update_for
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
    staged,
    upload,
    wide,
)

from edgefl.learning import build_process
from edgefl.proto.v1 import control_pb2
from edgefl.protocol.delivery import CallError
from edgefl.protocol.messages import (
    INLINE_UPDATE_MAX_BYTES,
    Accepted,
    AlreadyAccepted,
    ClientUpdate,
    Late,
    Receipt,
    Refused,
    Split,
)
from edgefl.protocol.task import parse_task
from edgefl.types import ClientDataset
from edgefl_device.config import load_config
from edgefl_device.example_store import ExampleStore, Row
from edgefl_device.rpc import FleetClient
from edgefl_device.state import pack_outbox, unpack_outbox
from edgefl_device.status import peak_rss_bytes
from edgefl_server.fleet_service import MAX_CACHED_BYTES, ContentCache

PROMPT = {"idle_retry_min_s": 0.0, "idle_retry_max_s": 0.01}


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


def test_a_member_that_failed_uploads_all_the_same(tmp_path: Path) -> None:
    """The round can still accept its update, as it would if the update came inline."""

    async def body(caller: Caller) -> None:
        await caller.create(wide(goal=2).replace("minimum = 2", "minimum = 1"))
        given, _ = await asyncio.gather(caller.assignment("a"), caller.assignment("b"))
        update = update_for(given, "a")
        async with linked(caller.address) as (_, client):
            refused = await report(client, dataclasses.replace(update, base_model_digest="ab" * 32))
            assert isinstance(refused, Refused)
            receipt, _ = await asyncio.to_thread(client.report, update, 30.0, "training")
            assert receipt == Accepted(1)

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
