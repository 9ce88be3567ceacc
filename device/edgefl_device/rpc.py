"""The device's calls to ``Fleet``: blocking, with a deadline each, and with errors as ``EdgeFLError``.

Called from worker threads; ``close`` from any thread ends the calls in flight. Content is downloaded into a ``.part``
file, resumed after a break from where it stopped, and verified before anybody uses it. An update above 1 MiB is
uploaded, resumed likewise, and then reported by its SHA-256.

Source: design §6 (the wire), §5 (retry windows on errors too).
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import grpc

from edgefl.errors import EdgeFLError, RemoteProtocolError, UnavailableError, VerificationError
from edgefl.proto.v1 import fleet_pb2, fleet_pb2_grpc
from edgefl.protocol.delivery import CallError, Delivery, QueryUpload, ReportBySha256, UploadFrom
from edgefl.protocol.messages import (
    INLINE_UPDATE_MAX_BYTES,
    PLAN_NOT_UNDERSTOOD,
    CheckIn,
    CheckInAnswer,
    Receipt,
    Report,
    RetryWindow,
    UploadedContent,
    WorkFailure,
)
from edgefl.transport import open_channel
from edgefl.wire import (
    IDENTITY_KEY,
    UPLOAD_CHUNK_BYTES,
    answer_from_proto,
    check_in_to_proto,
    error_from_status,
    have_from_proto,
    query_to_proto,
    receipt_from_proto,
    referring_report_to_proto,
    report_to_proto,
    upload_start_to_proto,
)
from edgefl_device.files import storage_errors

DOWNLOAD_CALL_S = 60.0
"""One call of a download may take this long; a slow link resumes in the next, as long as each brings something."""

UPLOAD_CALL_S = 60.0
"""The same for an upload."""

CHANNEL_OPTIONS = (
    # A waiting check-in whose server vanished is noticed; a longer silence than a long poll never occurs in health.
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    # Our retry windows set the pace: the channel must be ready to try when they end.
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.min_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 5_000),
    # Plaintext goes to loopback alone, so never by a proxy.
    ("grpc.enable_http_proxy", 0),
    # A download needs no thread of its own besides the caller's.
    ("SingleThreadedUnaryStream", 1),
)


OTHER = "other"
"""The purpose of traffic that serves no kind of work: idle check-ins, releases."""


@dataclass(frozen=True)
class Traffic:
    """Serialized bytes of some calls that were answered, without HTTP/2's framing."""

    calls: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


class FleetClient:
    """A connection to the server at ``address``, as the device ``device``. Nothing is sent before the first call."""

    def __init__(self, address: str, device: str, options: tuple[tuple[str, int], ...] = CHANNEL_OPTIONS) -> None:
        self._address = address
        self._metadata = ((IDENTITY_KEY, f"device/{device}"),)
        self._channel: Any = open_channel(address, options)
        self._stub: Any = fleet_pb2_grpc.FleetStub(self._channel)
        self._lock = threading.Lock()
        self._traffic = {(call, OTHER): Traffic() for call in ("check_in", "download", "report")}
        self._closed = False

    def close(self) -> None:
        """End the calls in flight and the connection."""
        self._closed = True
        self._channel.close()

    @property
    def traffic(self) -> dict[tuple[str, str], Traffic]:
        """What was sent and received, by call (check_in, download, upload, report) and purpose (a kind of work)."""
        with self._lock:
            return dict(self._traffic)

    def check_in(self, check_in: CheckIn, timeout_s: float) -> CheckInAnswer | WorkFailure:
        """Wait for an answer, at most ``timeout_s``. A plan that this agent cannot read gives the failure to report.

        Raises ``CallError``.
        """
        request = check_in_to_proto(check_in)
        response = self._call(self._stub.CheckIn, request, timeout_s)
        purpose = response.assignment.plan.WhichOneof("work") or OTHER
        self._count("check_in", purpose, calls=1, sent=request.ByteSize(), received=response.ByteSize())
        try:
            return answer_from_proto(response)
        except EdgeFLError as error:
            key = response.assignment.key
            if response.WhichOneof("outcome") == "assignment" and key.task:
                return WorkFailure(key.task, key.round, PLAN_NOT_UNDERSTOOD, str(error))
            raise CallError(error, None) from error

    def report(self, report: Report, timeout_s: float, purpose: str = OTHER) -> tuple[Receipt, RetryWindow]:
        """Deliver a report; a large update is uploaded first, as far as the server wants and lacks it.

        Raises ``CallError``. After a transient one the server keeps what it has, and the next try goes on from there.
        """
        if isinstance(report, WorkFailure) or len(report.payload) <= INLINE_UPDATE_MAX_BYTES:
            return self._send_report(report_to_proto(report), timeout_s, purpose)
        until = time.monotonic() + timeout_s
        content = UploadedContent(report.payload_digest, len(report.payload))
        request = referring_report_to_proto(report, content)
        delivery = Delivery()
        while delivery.result is None:
            answer: Any = None
            try:
                match delivery.call:
                    case ReportBySha256():
                        answer = self._send_report(request, _left(until), purpose)
                    case QueryUpload():
                        answer = self._query_upload(content, until)
                    case UploadFrom(offset):
                        self._upload_from(report.payload, content, offset, until, purpose)
            except CallError as error:
                delivery.failed(error)
            else:
                delivery.answered(answer)
        return delivery.result

    def _send_report(
        self, request: fleet_pb2.ReportRequest, timeout_s: float, purpose: str
    ) -> tuple[Receipt, RetryWindow]:
        response = self._call(self._stub.Report, request, timeout_s)
        self._count("report", purpose, calls=1, sent=request.ByteSize(), received=response.ByteSize())
        try:
            return receipt_from_proto(response)
        except EdgeFLError as error:
            raise CallError(error, None) from error

    def _query_upload(self, content: UploadedContent, until: float) -> int:
        response = self._call(self._stub.QueryUpload, query_to_proto(content), _left(until))
        try:
            return have_from_proto(response.have_bytes, content)
        except EdgeFLError as error:
            raise CallError(error, None) from None

    def _upload_from(self, payload: bytes, content: UploadedContent, offset: int, until: float, purpose: str) -> None:
        def messages() -> Iterator[fleet_pb2.UploadRequest]:
            first = upload_start_to_proto(content, offset)
            self._count("upload", purpose, calls=1, sent=first.ByteSize())
            yield first
            for start in range(offset, len(payload), UPLOAD_CHUNK_BYTES):
                message = fleet_pb2.UploadRequest(data=payload[start : start + UPLOAD_CHUNK_BYTES])
                self._count("upload", purpose, sent=message.ByteSize())
                yield message

        response = self._call(self._stub.Upload, messages(), min(UPLOAD_CALL_S, _left(until)))
        self._count("upload", purpose, received=response.ByteSize())

    def download(self, sha256: str, size_bytes: int, part: Path, purpose: str = OTHER) -> None:
        """Complete the file ``part`` with the content of that digest, resuming what is there; verified on return.

        Raises ``CallError``: a transient one keeps the part for the next try; a ``VerificationError`` (longer than
        promised, or another digest) removes it. ``StorageError`` when it cannot be written.
        """
        resumed = _size(part) > 0
        while (have := _size(part)) < size_bytes:
            failure = self._download_from(sha256, have, size_bytes, part, purpose)
            if _size(part) <= have:
                raise failure or CallError(
                    UnavailableError(f"the download of {sha256[:12]} ended after {have} of {size_bytes} bytes"), None
                )
            if failure is not None and (self._closed or not failure.error.transient):
                raise failure
        found = _digest(part)
        if have == size_bytes and found == sha256:
            return None
        with storage_errors(part, "remove"):
            part.unlink()
        if resumed:
            return self.download(
                sha256, size_bytes, part, purpose
            )  # what an earlier run left was damaged: once more, whole
        raise CallError(
            VerificationError(
                f"downloaded {have} bytes with the SHA-256 {found}; expected {size_bytes} bytes with {sha256}"
            ),
            None,
        )

    def _download_from(self, sha256: str, offset: int, size_bytes: int, part: Path, purpose: str) -> CallError | None:
        """Append what one call brings. Returns the error that ended it, None at the stream's end."""
        request = fleet_pb2.DownloadRequest(sha256=bytes.fromhex(sha256), offset=offset)
        with storage_errors(part, "write"), part.open("ab") as file:
            self._count("download", purpose, calls=1, sent=request.ByteSize())
            try:
                stream = self._stub.Download(request, timeout=DOWNLOAD_CALL_S, metadata=self._metadata)
                for response in stream:
                    self._count("download", purpose, received=response.ByteSize())
                    file.write(response.data)
                    offset += len(response.data)
                    if offset > size_bytes:
                        stream.cancel()  # more than promised: the digest cannot be right
                        return None
            except (grpc.RpcError, ValueError) as error:
                return self._call_error(error)
        return None

    def _call(self, method: Callable[..., Any], request: Any, timeout_s: float) -> Any:
        try:
            return method(request, timeout=timeout_s, metadata=self._metadata)
        except (grpc.RpcError, ValueError) as error:
            raise self._call_error(error) from None

    def _call_error(self, error: grpc.RpcError | ValueError) -> CallError:
        if isinstance(error, ValueError):
            if not self._closed:
                raise error
            return CallError(UnavailableError("the connection was closed by this side"), None)
        call: Any = error
        code, details = call.code().name, call.details() or ""
        ours, retry = error_from_status(code, details, call.trailing_metadata() or ())
        if code == "UNAVAILABLE" and "failed to connect" in details.lower():
            ours = UnavailableError(f"no server at {self._address}: is it running, and is the address right?")
        if code == "INTERNAL" and "deserializ" in details.lower():
            ours = RemoteProtocolError(f"the server's answer cannot be read: {details}")
        return CallError(ours, retry)

    def _count(self, call: str, purpose: str, *, calls: int = 0, sent: int = 0, received: int = 0) -> None:
        with self._lock:
            old = self._traffic.get((call, purpose), Traffic())
            self._traffic[call, purpose] = replace(
                old,
                calls=old.calls + calls,
                sent_bytes=old.sent_bytes + sent,
                received_bytes=old.received_bytes + received,
            )


def _left(until: float) -> float:
    """Seconds to ``until``. Raises a transient ``CallError`` when there are none."""
    left = until - time.monotonic()
    if left <= 0:
        raise CallError(UnavailableError("the time for this report is over; the next try goes on from here"), None)
    return left


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _digest(path: Path) -> str:
    with storage_errors(path, "read"), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
