"""Errors over gRPC: the one table between ``EdgeFLError`` and status codes, and the metadata that goes with them.

This module imports no gRPC: status codes travel by name, so that both shells and the core share it.

Source: design §6 (one taxonomy, one table), §5 (every answer carries a retry window, errors too).
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import DecodeError

from edgefl import errors
from edgefl.errors import EdgeFLError, InvalidUpdateError, RemoteProtocolError, UpdateRefusal
from edgefl.proto.v1 import fleet_pb2
from edgefl.protocol.messages import RetryWindow
from edgefl.wire.fleet import retry_from_proto, retry_to_proto
from edgefl.wire.limits import MAX_TEXT

IDENTITY_KEY = "edgefl-identity"
"""Request metadata, honoured on an insecure loopback server only: "device/NAME" or "operator/NAME"."""

RETRY_KEY = "edgefl-retry-bin"
"""Trailing metadata of an error: a serialized RetryWindow."""

ERROR_KEY = "edgefl-error"
"""Trailing metadata of an error: the class of the ``EdgeFLError``."""

MAX_MESSAGE_BYTES = 4 << 20
"""Bound of one gRPC message both ways: an inline update (1 MiB) and a plan fit with room to spare."""

DOWNLOAD_CHUNK_BYTES = 256 << 10
"""Large enough to be cheap, small enough that a broken connection costs little."""

UPLOAD_CHUNK_BYTES = DOWNLOAD_CHUNK_BYTES
"""The other way, for the same reasons."""

Metadata = tuple[tuple[str, str | bytes], ...]

_CLASSES = {
    name: kind for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, EdgeFLError)
}

_CLASS_OF_CODE: dict[str, type[EdgeFLError]] = {
    "UNAVAILABLE": errors.UnavailableError,
    "DEADLINE_EXCEEDED": errors.UnavailableError,
    "CANCELLED": errors.UnavailableError,
    "RESOURCE_EXHAUSTED": errors.BusyError,
    "UNAUTHENTICATED": errors.UnauthenticatedError,
    "PERMISSION_DENIED": errors.PermissionDeniedError,
    "NOT_FOUND": errors.NotFoundError,
    "INVALID_ARGUMENT": RemoteProtocolError,
    "UNIMPLEMENTED": RemoteProtocolError,
}
"""What a status without our own metadata means: it comes from gRPC itself, or from a proxy."""


def error_to_status(error: EdgeFLError, retry: RetryWindow | None = None) -> tuple[str, str, Metadata]:
    """The gRPC code's name, the details, and the trailing metadata.

    Details are cut to ``MAX_TEXT``: they travel as a header, percent-encoded, and gRPC replaces an error whose headers
    exceed 8 KiB by one of its own.
    """
    trailing: list[tuple[str, str | bytes]] = [(ERROR_KEY, type(error).__name__)]
    if retry is not None:
        trailing.append((RETRY_KEY, retry_to_proto(retry).SerializeToString()))
    return error.grpc_code, str(error)[:MAX_TEXT], tuple(trailing)


def error_from_status(
    code: str, details: str, trailing: Iterable[tuple[str, str | bytes]]
) -> tuple[EdgeFLError, RetryWindow | None]:
    """The error that a failed call means, and the retry window that came with it."""
    name, retry = "", None
    details = details[:MAX_TEXT]
    for key, value in trailing:
        if key == ERROR_KEY:
            name = value.decode("ascii", "replace") if isinstance(value, bytes) else value
        elif key == RETRY_KEY and isinstance(value, bytes):
            retry = _retry(value)
    kind = _CLASSES.get(name)
    if kind is None:
        kind = _CLASS_OF_CODE.get(code, EdgeFLError)
        details = f"{details} ({code})"
    if issubclass(kind, InvalidUpdateError):
        return InvalidUpdateError(UpdateRefusal.MALFORMED, details), retry
    return kind(details), retry


def _retry(raw: bytes) -> RetryWindow | None:
    try:
        return retry_from_proto(fleet_pb2.RetryWindow.FromString(raw))
    except (DecodeError, RemoteProtocolError):
        return None  # an error without a usable window: the caller backs off by itself
