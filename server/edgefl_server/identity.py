"""Who calls, and what that caller may do: one interceptor before every method, and one table.

No message carries its sender's identity. The interceptor makes it: on an insecure loopback server from one metadata
key. Deny by default: a method that the table does not name is for nobody. A refused call is answered before its
message is read.

The interceptor is also the one place where errors become statuses, and are counted: an ``EdgeFLError`` by the table in
``edgefl.wire``, anything else INTERNAL, with its traceback in the log. It parses the messages itself, because gRPC
answers one that does not parse with UNKNOWN and a traceback.

Source: design §6 (identity, errors), §7 (deny by default).
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.message import DecodeError

from edgefl.errors import (
    ConfigError,
    EdgeFLError,
    LocalProtocolError,
    PermissionDeniedError,
    RemoteProtocolError,
    UnauthenticatedError,
)
from edgefl.protocol.messages import RetryWindow
from edgefl.protocol.task import check_name
from edgefl.wire import IDENTITY_KEY, error_to_status
from edgefl_server.answers import AnswerCounts

log = logging.getLogger("edgefl_server")


class Role(enum.Enum):
    DEVICE = "device"
    OPERATOR = "operator"


@dataclass(frozen=True)
class Identity:
    role: Role
    name: str


ANYONE = frozenset(Role)
"""For whom the health check and reflection are; even a caller without identity may ask them."""

_DEVICE = frozenset({Role.DEVICE})
_OPERATOR = frozenset({Role.OPERATOR})
_FLEET = "/edgefl.proto.v1.Fleet/"
_CONTROL = "/edgefl.proto.v1.Control/"

METHOD_ROLES: dict[str, frozenset[Role]] = {
    _FLEET + "CheckIn": _DEVICE,
    _FLEET + "Download": _DEVICE,
    _FLEET + "Report": _DEVICE,
    _FLEET + "Upload": _DEVICE,
    _FLEET + "QueryUpload": _DEVICE,
    _CONTROL + "CreateTask": _OPERATOR,
    _CONTROL + "ListTasks": _OPERATOR,
    _CONTROL + "PauseTask": _OPERATOR,
    _CONTROL + "ResumeTask": _OPERATOR,
    _CONTROL + "EndTask": _OPERATOR,
    _CONTROL + "WatchRounds": _OPERATOR,
    _CONTROL + "DescribeFeatures": _OPERATOR,
    _CONTROL + "ListModels": _OPERATOR,
    _CONTROL + "ExportModel": _OPERATOR,
    _CONTROL + "CreateRelease": _OPERATOR,
    _CONTROL + "ListReleases": _OPERATOR,
    _CONTROL + "ListDevices": _OPERATOR,
    _CONTROL + "CountAnswers": _OPERATOR,
    "/grpc.health.v1.Health/Check": ANYONE,
    "/grpc.health.v1.Health/List": ANYONE,
    "/grpc.health.v1.Health/Watch": ANYONE,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": ANYONE,
}
"""Method -> the roles that may call it."""

_caller: ContextVar[Identity] = ContextVar("edgefl_caller")


def caller() -> Identity:
    """The identity of the call that is being served."""
    return _caller.get()


def insecure_identity(metadata: Any) -> Identity:
    """The identity that the caller claims: believed on loopback alone. Raises ``UnauthenticatedError``."""
    claims = [value for key, value in metadata or () if key == IDENTITY_KEY]
    if len(claims) != 1:
        raise UnauthenticatedError(
            f"{len(claims)} values of metadata {IDENTITY_KEY!r}; expected one: device/NAME or operator/NAME"
        )
    role, _, name = str(claims[0]).partition("/")
    try:
        check_name("name", name)
        return Identity(Role(role), name)
    except (ValueError, ConfigError):
        raise UnauthenticatedError(
            f"metadata {IDENTITY_KEY!r} is {claims[0]!r}; expected device/NAME or operator/NAME, NAME of a-z 0-9 . _ -"
        ) from None


class IdentityInterceptor(grpc.aio.ServerInterceptor):  # type: ignore[misc]
    """``identify`` makes the identity from a call's metadata; ``retry`` is the window that errors to devices carry.

    ``counts`` gets every error that leaves.
    ``idle`` is set while no call of a device or an operator is being served.
    """

    def __init__(self, identify: Callable[[Any], Identity], retry: RetryWindow, counts: AnswerCounts) -> None:
        self._identify = identify
        self._retry = retry
        self._counts = counts
        self._in_flight = 0
        self.idle = asyncio.Event()
        self.idle.set()

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        method = details.method
        retry = self._retry if method.startswith(_FLEET) else None
        roles = METHOD_ROLES.get(method)
        if roles is ANYONE:
            return await continuation(details)
        try:
            identity = self._identify(details.invocation_metadata)
            if roles is None or identity.role not in roles:
                raise PermissionDeniedError(f"{identity.role.value} {identity.name!r} may not call {method}")
        except EdgeFLError as refusal:
            return self._refusing(refusal, retry)
        handler = await continuation(details)
        return None if handler is None else self._guarded(handler, identity, retry)

    @contextlib.contextmanager
    def _serving(self, identity: Identity) -> Iterator[None]:
        _caller.set(identity)
        self._in_flight += 1
        self.idle.clear()
        try:
            yield
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self.idle.set()

    def _guarded(self, handler: Any, identity: Identity, retry: RetryWindow | None) -> Any:
        """The handler, called with ``caller()`` set and with its errors made statuses."""
        parse = handler.request_deserializer
        codecs = {"request_deserializer": None, "response_serializer": handler.response_serializer}
        if handler.response_streaming:
            stream = handler.unary_stream

            async def run_stream(raw: bytes, context: Any) -> AsyncIterator[Any]:
                with self._serving(identity):
                    try:
                        async for response in stream(_parsed(parse, raw), context):
                            yield response
                    except Exception as error:
                        await self._fail(context, error, retry)

            return grpc.unary_stream_rpc_method_handler(run_stream, **codecs)
        streaming = handler.request_streaming
        unary = handler.stream_unary if streaming else handler.unary_unary
        read: Callable[[Parse, Any], Any] = _parsed_stream if streaming else _parsed

        async def run_unary(raw: Any, context: Any) -> Any:
            with self._serving(identity):
                try:
                    return await unary(read(parse, raw), context)
                except Exception as error:
                    await self._fail(context, error, retry)

        if streaming:
            return grpc.stream_unary_rpc_method_handler(run_unary, **codecs)
        return grpc.unary_unary_rpc_method_handler(run_unary, **codecs)

    def _refusing(self, refusal: EdgeFLError, retry: RetryWindow | None) -> Any:
        # A streaming handler is called before any message is read; a unary one would first read what it refuses.
        async def refuse(_: Any, context: Any) -> AsyncIterator[bytes]:
            await self._abort(context, refusal, retry)
            yield b""  # not reached; makes this a stream

        return grpc.stream_stream_rpc_method_handler(refuse)

    async def _fail(self, context: Any, error: Exception, retry: RetryWindow | None) -> None:
        if isinstance(error, (asyncio.CancelledError, grpc.aio.AbortError)):
            raise error
        if not isinstance(error, EdgeFLError):
            log.error("a call failed", exc_info=error)
            error = LocalProtocolError(f"the server failed: {type(error).__name__}; its log has the traceback")
        await self._abort(context, error, retry)

    async def _abort(self, context: Any, error: EdgeFLError, retry: RetryWindow | None) -> None:
        self._counts.add_error(error)
        code, details, trailing = error_to_status(error, retry)
        await context.abort(grpc.StatusCode[code], details, trailing)


Parse = Callable[[bytes], Any] | None


def _parsed(parse: Parse, raw: bytes) -> Any:
    """Raises ``RemoteProtocolError`` for bytes that are no such message. Without ``parse`` the handler wants bytes."""
    if parse is None:
        return raw
    try:
        return parse(raw)
    except DecodeError as error:
        raise RemoteProtocolError(f"{len(raw)} bytes that are not a valid message of this call: {error}") from None


async def _parsed_stream(parse: Parse, raw: AsyncIterator[bytes]) -> AsyncIterator[Any]:
    async for message in raw:
        yield _parsed(parse, message)
