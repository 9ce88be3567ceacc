"""Who calls, and what that caller may do: one interceptor before every method, and one table.

No message carries its sender's identity. It is made from the call's context: on an insecure loopback server from one
metadata key. Deny by default: a method that the table does not name is for nobody. A refused call is answered before
its message is read.

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
from collections.abc import AsyncIterator, Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, NoReturn

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


def insecure_identity(context: Any) -> Identity:
    """The identity that the caller claims in the metadata of its call: believed on loopback alone.

    ``context``: the call's ``grpc.aio.ServicerContext``. Raises ``UnauthenticatedError``.
    """
    claims = [value for key, value in context.invocation_metadata() or () if key == IDENTITY_KEY]
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
    """``identify`` makes the identity from a call's context; ``retry`` is the window that errors to devices carry.

    An interceptor sees a call's metadata alone. The context, which also has the certificate of a TLS connection, is
    there when the handler is called: who calls is looked at then, by what stands around each handler.

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
        if METHOD_ROLES.get(method) is ANYONE:
            return await continuation(details)
        handler = await continuation(details) if method in METHOD_ROLES else None
        return self._guarded(method, handler)

    @contextlib.asynccontextmanager
    async def _serving(self, method: str, context: Any) -> AsyncIterator[None]:
        """One call: inside, ``caller()`` is set and may call ``method``; errors leave as statuses."""
        try:
            identity = self._identify(context)
            if identity.role not in METHOD_ROLES.get(method, ()):
                raise PermissionDeniedError(f"{identity.role.value} {identity.name!r} may not call {method}")
            _caller.set(identity)
        except Exception as error:
            await self._fail(context, error, method)
        self._in_flight += 1
        self.idle.clear()
        try:
            yield
        except Exception as error:
            await self._fail(context, error, method)
        finally:
            self._in_flight -= 1
            if self._in_flight == 0:
                self.idle.set()

    def _guarded(self, method: str, handler: Any) -> Any:
        """``handler`` behind ``_serving``; None stands for a method that is not there.

        What takes one message is made a handler of a stream: gRPC calls such a one before it reads any message, and a
        unary one would first read what it refuses.
        """
        if handler is None:

            async def refuse(_: Any, context: Any) -> AsyncIterator[bytes]:
                async with self._serving(method, context):
                    raise LocalProtocolError(f"{method} has a role and no handler")
                yield b""  # not reached; makes this a stream

            return grpc.stream_stream_rpc_method_handler(refuse)
        parse = handler.request_deserializer
        serializer = {"response_serializer": handler.response_serializer}
        if handler.response_streaming:

            async def run_stream(raw: AsyncIterator[bytes], context: Any) -> AsyncIterator[Any]:
                async with self._serving(method, context):
                    async for response in handler.unary_stream(await self._one(parse, raw, context, method), context):
                        yield response

            return grpc.stream_stream_rpc_method_handler(run_stream, **serializer)

        async def run_unary(raw: AsyncIterator[bytes], context: Any) -> Any:
            async with self._serving(method, context):
                if handler.request_streaming:
                    return await handler.stream_unary(_parsed_stream(parse, raw), context)
                return await handler.unary_unary(await self._one(parse, raw, context, method), context)

        return grpc.stream_unary_rpc_method_handler(run_unary, **serializer)

    async def _one(self, parse: Parse, raw: AsyncIterator[bytes], context: Any, method: str) -> Any:
        """The one message of a call. Raises ``RemoteProtocolError`` as ``_parsed`` does."""
        async for message in raw:
            return _parsed(parse, message)
        try:
            return await self._abort(context, RemoteProtocolError("the call brought no message; expected one"), method)
        except grpc.aio.InternalError:  # gRPC itself has answered, and ended, a call whose message is too large
            raise asyncio.CancelledError from None

    async def _fail(self, context: Any, error: Exception, method: str) -> NoReturn:
        """End the call with the status of ``error``."""
        if isinstance(error, grpc.aio.AbortError):
            raise error
        if not isinstance(error, EdgeFLError):
            log.error("a call failed", exc_info=error)
            error = LocalProtocolError(f"the server failed: {type(error).__name__}; its log has the traceback")
        self._counts.add_error(error)
        await self._abort(context, error, method)

    async def _abort(self, context: Any, error: EdgeFLError, method: str) -> NoReturn:
        code, details, trailing = error_to_status(error, self._retry if method.startswith(_FLEET) else None)
        await context.abort(grpc.StatusCode[code], details, trailing)
        raise error  # not reached: abort raises


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
