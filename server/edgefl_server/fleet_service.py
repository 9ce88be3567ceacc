"""The ``Fleet`` service: what enrolled devices call. Thin: wire to values, the engine, values to wire."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator
from typing import Any

import grpc

from edgefl.errors import BusyError, InvalidUpdateError, NotFoundError, RemoteProtocolError
from edgefl.proto.v1 import fleet_pb2, fleet_pb2_grpc
from edgefl.protocol.messages import ClientUpdate, Receipt, Refused, RetryWindow
from edgefl.wire import (
    DOWNLOAD_CHUNK_BYTES,
    answer_to_proto,
    check_in_from_proto,
    parse_report,
    query_from_proto,
    receipt_to_proto,
    reference_from_proto,
    refused_report,
    report_from_proto,
)
from edgefl_server.answers import AnswerCounts
from edgefl_server.engine import Engine
from edgefl_server.identity import caller
from edgefl_server.store import Store
from edgefl_server.upload_calls import UploadCalls

MAX_CACHED_BYTES = 8 << 20
"""Content kept for the devices of one cohort, which all ask for the same model."""


class ContentCache:
    """The content asked for last, so that a cohort's downloads read the database once and share one copy."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._size = 0

    def get(self, sha256: str) -> bytes:
        """Raises ``NotFoundError``."""
        data = self._kept.get(sha256)
        if data is None:
            data = self._store.content(sha256)
        self.put(sha256, data)
        return data

    def put(self, sha256: str, data: bytes) -> None:
        """Keep ``data``, and drop what was asked for longest ago."""
        self._size += len(data) - len(self._kept.pop(sha256, b""))
        self._kept[sha256] = data
        while self._size > MAX_CACHED_BYTES and len(self._kept) > 1:  # a large one is shared too, else all copy it
            _, dropped = self._kept.popitem(last=False)
            self._size -= len(dropped)


class FleetService(fleet_pb2_grpc.FleetServicer):
    """``retry``: when a device that found too many reports in flight. ``counts`` gets every receipt."""

    def __init__(
        self,
        engine: Engine,
        store: Store,
        uploads: UploadCalls,
        *,
        max_reports_in_flight: int,
        retry: RetryWindow,
        counts: AnswerCounts,
    ) -> None:
        self._engine = engine
        self._uploads = uploads
        self._content = ContentCache(store)
        self._max_reports = max_reports_in_flight
        self._reports = 0
        self._retry = retry
        self._counts = counts

    def add_to(self, server: grpc.aio.Server) -> None:
        """Register the service. ``Report`` takes bytes: the gate looks at their size before they are parsed."""
        report = grpc.unary_unary_rpc_method_handler(
            self.Report, response_serializer=fleet_pb2.ReportResponse.SerializeToString
        )
        service = fleet_pb2.DESCRIPTOR.services_by_name["Fleet"].full_name
        # The first handler of a method is the one that is called.
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Report": report}),))
        fleet_pb2_grpc.add_FleetServicer_to_server(self, server)

    async def CheckIn(self, request: fleet_pb2.CheckInRequest, context: Any) -> fleet_pb2.CheckInResponse:  # noqa: ARG002
        answer = await self._engine.check_in(caller().name, check_in_from_proto(request))
        return answer_to_proto(answer)

    async def Report(self, request: bytes, context: Any) -> fleet_pb2.ReportResponse:  # type: ignore[override]  # noqa: ARG002
        if self._reports >= self._max_reports:
            raise BusyError(f"{self._reports} reports in flight; send this one again after the retry window")
        self._reports += 1
        try:
            receipt, retry = await self._take(caller().name, request)
        finally:
            self._reports -= 1
        self._counts.add_receipt(receipt)
        return receipt_to_proto(receipt, retry)

    async def _take(self, device: str, raw: bytes) -> tuple[Receipt, RetryWindow]:
        try:
            request = parse_report(raw)
        except InvalidUpdateError as error:
            return Refused(error.reason, str(error)), self._retry
        try:
            content = reference_from_proto(request)
            report = report_from_proto(request)
        except InvalidUpdateError as error:
            # To its round it is the member's failure, whichever part of the gate refused what could be read.
            _, retry = await self._engine.report(device, refused_report(request, error))
            return Refused(error.reason, str(error)), retry
        if content is not None and isinstance(report, ClientUpdate):
            return await self._uploads.report(device, report, content)
        return await self._engine.report(device, report)

    async def Upload(self, request_iterator: Any, context: Any) -> fleet_pb2.UploadResponse:  # noqa: ARG002
        return fleet_pb2.UploadResponse(have_bytes=await self._uploads.take(caller().name, request_iterator))

    async def QueryUpload(self, request: fleet_pb2.QueryUploadRequest, context: Any) -> fleet_pb2.QueryUploadResponse:  # noqa: ARG002
        return fleet_pb2.QueryUploadResponse(have_bytes=self._uploads.have(caller().name, query_from_proto(request)))

    async def _download(self, sha256: str) -> bytes:
        """A model or a release of the store; or what a round that goes on now adds to its model for its devices."""
        try:
            return self._content.get(sha256)
        except NotFoundError:
            made = await self._engine.ask(lambda coordinator: coordinator.content(sha256))
            if made is None:
                raise
            self._content.put(sha256, made)
            return made

    async def Download(
        self,
        request: fleet_pb2.DownloadRequest,
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[fleet_pb2.DownloadResponse]:
        if len(request.sha256) != 32:
            raise RemoteProtocolError(f"a digest of {len(request.sha256)} bytes; expected the 32 of a SHA-256")
        data = await self._download(request.sha256.hex())
        if request.offset > len(data):
            raise RemoteProtocolError(f"offset {request.offset} of {len(data)} bytes; begin again at 0")
        for start in range(request.offset, len(data), DOWNLOAD_CHUNK_BYTES):
            yield fleet_pb2.DownloadResponse(data=data[start : start + DOWNLOAD_CHUNK_BYTES])
