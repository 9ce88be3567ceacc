"""How a channel is made and a port is bound: the one place that decides what protects a connection.

Today it is plaintext, on loopback alone. Only what speaks to another process imports this module, and gRPC with it; a
simulation in one process does not.

Source: design §7 (plaintext on loopback, else TLS).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc

from edgefl.address import require_loopback, split_address
from edgefl.wire import MAX_MESSAGE_BYTES

Options = Sequence[tuple[str, int]]
"""Arguments of a gRPC channel or server."""

MESSAGE_OPTIONS: Options = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
)
"""Both sides take and send messages of this size and no larger ones."""


def open_channel(address: str, options: Options = ()) -> grpc.Channel:
    """A blocking channel to the server at HOST:PORT. Nothing is sent before the first call; the caller closes it.

    ``options`` come after ``MESSAGE_OPTIONS``. Raises ``ConfigError`` for an address that is not loopback.
    """
    require_loopback(address)
    return grpc.insecure_channel(address, options=(*MESSAGE_OPTIONS, *options))


def bind_port(server: Any, address: str) -> int:
    """Bind ``server`` (blocking or asyncio) to HOST:PORT and return the port in use; port 0 picks a free one.

    Raises ``ConfigError`` for an address that is not loopback, ``RuntimeError`` when gRPC cannot bind it.
    """
    require_loopback(address)
    host, port = split_address(address)
    shown = f"[{host}]" if ":" in host else host
    return int(server.add_insecure_port(f"{shown}:{port}"))
