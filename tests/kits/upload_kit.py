"""Parts for the tests of uploads: a link that breaks where a test says, a task above 1 MiB, raw uploads."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from server_kit import Caller, as_device, definition, unwrap

from edgefl.errors import EdgeFLError
from edgefl.proto.v1 import fleet_pb2
from edgefl.protocol.messages import Assignment, ClientUpdate, Receipt, UploadedContent
from edgefl.wire import (
    query_to_proto,
    receipt_from_proto,
    referring_report_to_proto,
    upload_start_to_proto,
)

FEATURES, CLASSES = 299, 1000
SIZE = 4 * CLASSES * (FEATURES + 1)
"""300,000 weights: 1.2 MB."""
PIECE = 256 << 10


def wide(
    name: str = "train", *, goal: int = 1, rounds: int = 1, features: int = FEATURES, classes: int = CLASSES
) -> str:
    """A task whose updates are above 1 MiB."""
    text = definition(name, goal=goal, rounds=rounds, features=features)
    return text.replace("num_classes = 2\n", f"num_classes = {classes}\n")


def content_of(data: bytes) -> UploadedContent:
    return UploadedContent(hashlib.sha256(data).hexdigest(), len(data))


async def upload(
    caller: Caller, device: str, content: UploadedContent, data: bytes, offset: int = 0, until: int | None = None
) -> int:
    """Upload ``data`` from ``offset`` to ``until``. Returns what the server then has."""

    async def messages() -> AsyncIterator[fleet_pb2.UploadRequest]:
        yield upload_start_to_proto(content, offset)
        for start in range(offset, len(data) if until is None else until, PIECE):
            yield fleet_pb2.UploadRequest(data=data[start : start + PIECE])

    response = await unwrap(caller.fleet.Upload(messages(), metadata=as_device(device)))
    return int(response.have_bytes)


async def have(caller: Caller, device: str, content: UploadedContent) -> int:
    response = await unwrap(caller.fleet.QueryUpload(query_to_proto(content), metadata=as_device(device)))
    return int(response.have_bytes)


async def refer(caller: Caller, device: str, update: ClientUpdate, content: UploadedContent | None = None) -> Receipt:
    """Report by reference."""
    request = referring_report_to_proto(update, content or content_of(update.payload))
    return receipt_from_proto(await unwrap(caller.fleet.Report(request, metadata=as_device(device))))[0]


async def large_assignment(caller: Caller, device: str) -> Assignment:
    await caller.create(wide())
    return await caller.assignment(device)


def staged(folder: Path) -> list[Path]:
    """The files of uploads in the data folder below ``folder``."""
    return list((folder / "data" / "uploads").iterdir())


async def refused(call: object) -> EdgeFLError:
    """The error that ``call`` ends with."""
    with pytest.raises(EdgeFLError) as caught:
        await call  # type: ignore[misc]
    return caught.value


@dataclass(frozen=True)
class Cut:
    """Break the connection when ``after`` bytes went ``up`` (to the server) or down, once ``then`` has returned."""

    after: int
    up: bool = True
    then: Callable[[], Awaitable[None]] | None = None


class BreakingLink:
    """A TCP proxy before ``target``. Each connection takes the next of ``cuts``; without one it holds."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.cuts: list[Cut] = []
        self.made: list[Cut] = []
        self.bytes_up = 0
        self._connections: set[asyncio.Task[None]] = set()

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[str]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        try:
            yield f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        finally:
            server.close()
            for connection in self._connections:
                connection.cancel()
            await asyncio.gather(*self._connections, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        me = asyncio.current_task()
        assert me is not None
        self._connections.add(me)
        try:
            with contextlib.suppress(OSError):
                host, port = self.target.split(":")
                far_reader, far_writer = await asyncio.open_connection(host, int(port))
                try:
                    await self._join(reader, writer, far_reader, far_writer)
                finally:
                    far_writer.close()
        finally:
            writer.close()
            self._connections.discard(me)

    async def _join(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        far_reader: asyncio.StreamReader,
        far_writer: asyncio.StreamWriter,
    ) -> None:
        cut = self.cuts.pop(0) if self.cuts else None
        pumps = [
            asyncio.ensure_future(self._pump(reader, far_writer, cut if cut and cut.up else None, up=True)),
            asyncio.ensure_future(self._pump(far_reader, writer, cut if cut and not cut.up else None, up=False)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)

    async def _pump(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, cut: Cut | None, *, up: bool
    ) -> None:
        passed = 0
        while data := await reader.read(16384):
            if cut is not None:
                data = data[: cut.after - passed]
            writer.write(data)
            await writer.drain()
            passed += len(data)
            self.bytes_up += len(data) * up
            if cut is not None and passed >= cut.after:
                self.made.append(cut)
                if cut.then is not None:
                    await cut.then()
                return
