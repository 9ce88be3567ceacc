"""The calls around an upload: taking its bytes, telling how many are here, and the report that refers to them.

Invariants
----------
- Bytes are taken from a device only while a round may still accept its update.
- One upload of a device runs: a newer one ends the older, which a broken link may have left hanging.
- At most ``LARGE_REPORTS_AT_ONCE`` uploaded payloads are in memory; uploads themselves hold one message each.
- Bytes leave the disk's staging only when their report was answered, so a crash at any point costs an upload at most.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Iterator
from typing import Any

from edgefl.errors import (
    BusyError,
    ConflictError,
    NotFoundError,
    RemoteProtocolError,
    UnavailableError,
    VerificationError,
)
from edgefl.proto.v1 import fleet_pb2
from edgefl.protocol.messages import ClientUpdate, Receipt, RetryWindow, UploadedContent
from edgefl.wire import upload_data_from_proto, upload_start_from_proto
from edgefl_server.engine import Engine
from edgefl_server.uploads import Uploads

LARGE_REPORTS_AT_ONCE = 2
"""One is read and verified while the engine has the other: 128 MiB at most, and the engine never waits for the disk."""

UPLOAD_IDLE_S = 30.0
"""A link that brings nothing for so long is taken for broken: its device asks how much is here, and goes on."""


class UploadCalls:
    """``most_calls``: uploads that run at once; the others are told to come back."""

    def __init__(self, engine: Engine, uploads: Uploads, *, most_calls: int) -> None:
        self._engine = engine
        self._uploads = uploads
        self._most = most_calls
        self._running: dict[str, asyncio.Future[None]] = {}
        self._large = asyncio.Semaphore(LARGE_REPORTS_AT_ONCE)

    def have(self, device: str, content: UploadedContent) -> int:
        """How many bytes are here."""
        return self._uploads.have(device, content)

    async def take(self, device: str, requests: AsyncIterator[fleet_pb2.UploadRequest]) -> int:
        """Keep what ``requests`` brings; how many bytes are here then.

        Raises ``RemoteProtocolError`` for a wrong message, ``ConflictError`` for an offset that is not what is here or
        a device that no round waits for, ``VerificationError`` for a whole with another digest, ``BusyError`` when
        there is no room, ``UnavailableError`` for a link that went silent or an upload that a newer one replaced.
        """
        with self._turn(device) as replaced:
            first = await _next(requests, replaced)
            if first is None:
                raise RemoteProtocolError("an upload without a message; expected its start")
            content, offset = upload_start_from_proto(first)
            await self._admit(device)
            self._uploads.begin(device, content)
            if (have := self._uploads.have(device, content)) != offset:
                raise ConflictError(f"offset {offset}; the server has {have} bytes: go on from there (QueryUpload)")
            while (message := await _next(requests, replaced)) is not None:
                data = upload_data_from_proto(message)
                if offset + len(data) > content.size_bytes:
                    raise RemoteProtocolError(
                        f"{offset + len(data)} bytes; expected {content.size_bytes}, as announced"
                    )
                await asyncio.to_thread(self._uploads.append, device, content, offset, data)
                offset += len(data)
            if offset == content.size_bytes:
                await asyncio.to_thread(self._uploads.verify, device, content)
            return offset

    async def report(self, device: str, update: ClientUpdate, content: UploadedContent) -> tuple[Receipt, RetryWindow]:
        """Hand in ``update`` with the payload that ``content`` names.

        Raises ``NotFoundError`` while its bytes could count and are not here.
        """
        answer = await self._engine.ask(lambda coordinator: coordinator.early_receipt(device, update))
        if answer is None:
            async with self._large:
                try:
                    payload = await asyncio.to_thread(self._uploads.read, device, content)
                except VerificationError as error:
                    raise NotFoundError(f"the upload was damaged: {error}; send it again") from None
                answer = await self._engine.report(device, dataclasses.replace(update, payload=payload))
        self._uploads.remove(device, content)
        return answer

    async def sweep(self) -> None:
        """Drop what no round waits for any more."""
        await self._wanted(self._uploads.devices)

    async def _admit(self, device: str) -> None:
        if device not in await self._wanted(self._uploads.devices | {device}):
            raise ConflictError(f"no round waits for a report of {device!r}; the report's receipt tells why")

    async def _wanted(self, devices: frozenset[str]) -> frozenset[str]:
        """Those of ``devices`` that a round waits for; what the others have is dropped."""
        wanted = await self._engine.ask(lambda coordinator: frozenset(filter(coordinator.awaits, devices)))
        for device in devices - wanted:
            self._uploads.remove(device)
        return wanted

    @contextlib.contextmanager
    def _turn(self, device: str) -> Iterator[asyncio.Future[None]]:
        """The right to write for ``device``; what it yields is resolved when a newer call takes that right."""
        older = self._running.get(device)
        if older is None and len(self._running) >= self._most:
            raise BusyError(f"{len(self._running)} uploads are running; go on with this one after the retry window")
        if older is not None and not older.done():
            older.set_result(None)
        mine = self._running[device] = asyncio.get_running_loop().create_future()
        try:
            yield mine
        finally:
            if self._running.get(device) is mine:
                del self._running[device]


async def _next(requests: AsyncIterator[Any], replaced: asyncio.Future[None]) -> Any:
    """The next message, None at the end."""
    read = asyncio.ensure_future(_read(requests))
    try:
        await asyncio.wait((read, replaced), timeout=UPLOAD_IDLE_S, return_when=asyncio.FIRST_COMPLETED)
        if replaced.done():
            raise UnavailableError("a newer upload of this device took over")
        if not read.done():
            raise UnavailableError(f"nothing came for {UPLOAD_IDLE_S:g} s; go on from what is here (QueryUpload)")
        return read.result()
    finally:
        read.cancel()


async def _read(requests: AsyncIterator[Any]) -> Any:
    return await anext(requests, None)
