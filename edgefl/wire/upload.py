"""The messages of an upload, and the report that refers to one: dataclasses to protobuf and back.

An update above ``INLINE_UPDATE_MAX_BYTES`` travels apart from its report: the report names its bytes by SHA-256 and
size, and ``Upload`` brings them. What is here refuses a wrong message with ``RemoteProtocolError``, in a report with
``InvalidUpdateError``.

Source: design §6.
"""

from __future__ import annotations

from edgefl.errors import InvalidUpdateError, RemoteProtocolError, UpdateRefusal
from edgefl.proto.v1 import fleet_pb2
from edgefl.protocol import messages as m
from edgefl.wire.fleet import report_to_proto
from edgefl.wire.limits import DIGEST_BYTES


def upload_start_to_proto(content: m.UploadedContent, offset: int) -> fleet_pb2.UploadRequest:
    """The first message of an upload."""
    start = fleet_pb2.UploadStart(content=_content_to_proto(content), offset=offset)
    return fleet_pb2.UploadRequest(start=start)


def upload_start_from_proto(message: fleet_pb2.UploadRequest) -> tuple[m.UploadedContent, int]:
    """What is uploaded, and from which offset on."""
    if message.WhichOneof("part") != "start":
        raise RemoteProtocolError("an upload that begins without its start; expected what is uploaded, and from where")
    content = _content_from_proto(message.start.content)
    if message.start.offset > content.size_bytes:
        raise RemoteProtocolError(
            f"offset {message.start.offset}; expected at most the size, {content.size_bytes}: ask QueryUpload"
        )
    return content, message.start.offset


def upload_data_from_proto(message: fleet_pb2.UploadRequest) -> bytes:
    """The bytes of any message but the first."""
    if message.WhichOneof("part") != "data" or not message.data:
        raise RemoteProtocolError("a message of an upload without data; expected bytes after its start")
    return message.data


def query_to_proto(content: m.UploadedContent) -> fleet_pb2.QueryUploadRequest:
    return fleet_pb2.QueryUploadRequest(content=_content_to_proto(content))


def query_from_proto(message: fleet_pb2.QueryUploadRequest) -> m.UploadedContent:
    return _content_from_proto(message.content)


def have_from_proto(have_bytes: int, content: m.UploadedContent) -> int:
    """How much the server says that it has."""
    if have_bytes > content.size_bytes:
        raise RemoteProtocolError(f"the server has {have_bytes} bytes of an upload of {content.size_bytes}")
    return have_bytes


def referring_report_to_proto(update: m.ClientUpdate, content: m.UploadedContent) -> fleet_pb2.ReportRequest:
    """A report whose payload is uploaded: ``update``'s own payload is left out."""
    message = report_to_proto(update, with_payload=False)
    message.update.payload_ref.CopyFrom(_content_to_proto(content))
    return message


def reference_from_proto(message: fleet_pb2.ReportRequest) -> m.UploadedContent | None:
    """What the report refers to; None for one that has its payload inline. Raises ``InvalidUpdateError``."""
    update = message.update
    if message.WhichOneof("result") != "update" or not update.HasField("payload_ref"):
        return None
    if update.payload:
        raise InvalidUpdateError(UpdateRefusal.MALFORMED, "a payload and a reference to one; expected either")
    try:
        return _content_from_proto(update.payload_ref)
    except RemoteProtocolError as error:
        too_large = update.payload_ref.size_bytes > m.MAX_UPLOAD_BYTES
        reason = UpdateRefusal.TOO_LARGE if too_large else UpdateRefusal.MALFORMED
        raise InvalidUpdateError(reason, str(error)) from None


def _content_to_proto(content: m.UploadedContent) -> fleet_pb2.Content:
    return fleet_pb2.Content(sha256=bytes.fromhex(content.sha256), size_bytes=content.size_bytes)


def _content_from_proto(message: fleet_pb2.Content) -> m.UploadedContent:
    if len(message.sha256) != DIGEST_BYTES:
        raise RemoteProtocolError(f"upload: a digest of {len(message.sha256)} bytes; expected {DIGEST_BYTES}")
    if not m.INLINE_UPDATE_MAX_BYTES < message.size_bytes <= m.MAX_UPLOAD_BYTES:
        raise RemoteProtocolError(
            f"an upload of {message.size_bytes} bytes; expected more than {m.INLINE_UPDATE_MAX_BYTES} (up to that, an "
            f"update goes inline) and at most {m.MAX_UPLOAD_BYTES}"
        )
    return m.UploadedContent(message.sha256.hex(), message.size_bytes)
