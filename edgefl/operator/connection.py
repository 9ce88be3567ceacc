"""The operator's connection to a server: a channel, the operator's name, and errors of our own taxonomy.

gRPC is loaded when a connection is made: what prints rounds imports this module too, and serves simulations.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from edgefl.address import require_loopback
from edgefl.errors import ConfigError, UnavailableError
from edgefl.protocol.task import check_name
from edgefl.wire import ERROR_KEY, IDENTITY_KEY, error_from_status

if TYPE_CHECKING:
    import grpc

R = TypeVar("R")

CALL_TIMEOUT_S = 30.0
"""Bound of a call that answers at once; a server that does not answer in this time is not well."""

RELEASE_TIMEOUT_S = 180.0
"""A release writes a model, runs it in a child process on the server and compares it: seconds on a small machine."""


@dataclass(frozen=True)
class Target:
    """Where the server is and who asks. ``insecure`` is plaintext, for loopback alone."""

    address: str
    operator: str
    insecure: bool

    def __post_init__(self) -> None:
        if not self.insecure:
            raise ConfigError("this version speaks plaintext on loopback only; add --insecure")
        require_loopback(self.address)
        check_name("operator", self.operator)


class Connection:
    """Use as a context manager. Calls raise ``EdgeFLError``s: ``UnavailableError`` when the server is not there."""

    def __init__(self, target: Target) -> None:
        import grpc

        from edgefl.proto.v1 import control_pb2_grpc
        from edgefl.transport import open_channel

        self._target = target
        self._failed: type[grpc.RpcError] = grpc.RpcError
        self._channel = open_channel(target.address)
        self._metadata = ((IDENTITY_KEY, f"operator/{target.operator}"),)
        self.control = control_pb2_grpc.ControlStub(self._channel)

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *exc: object) -> None:
        self._channel.close()

    def call(self, method: Callable[..., R], request: Any, timeout_s: float = CALL_TIMEOUT_S) -> R:
        """One unary call."""
        try:
            return method(request, metadata=self._metadata, timeout=timeout_s)
        except self._failed as error:
            raise self._translate(error) from None

    def stream(self, method: Callable[..., Iterator[R]], request: Any) -> Iterator[R]:
        """The messages of a server stream; no deadline (watching may take days)."""
        call = method(request, metadata=self._metadata)
        try:
            yield from call
        except self._failed as error:
            raise self._translate(error) from None
        finally:
            call.cancel()  # type: ignore[attr-defined]

    def _translate(self, error: grpc.RpcError) -> Exception:
        code = error.code().name
        trailing = error.trailing_metadata() or ()
        failure, _ = error_from_status(code, error.details() or "", trailing)
        if code == "UNAVAILABLE" and all(key != ERROR_KEY for key, _ in trailing):  # gRPC's own word, not the server's
            text = f"no server answers at {self._target.address}; is edgefl-server running? ({error.details()})"
            return UnavailableError(text)
        return failure
