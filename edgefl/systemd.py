"""Telling systemd: one datagram to the socket that ``NOTIFY_SOCKET`` names; nothing without it.

Source: sd_notify(3), "Notes" (the protocol is stable and may be implemented independently).
"""

from __future__ import annotations

import contextlib
import os
import socket


def notify(message: str) -> None:
    """Send ``message`` (``READY=1``, ``WATCHDOG=1``, ``STATUS=...``). Never fails: nobody may depend on it."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return
    if address.startswith("@"):
        address = "\0" + address[1:]
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        sock.sendto(message.encode(), address)


def watchdog_interval_s() -> float | None:
    """How often to send ``WATCHDOG=1``: half of what systemd allows. None when nobody watches."""
    limit = os.environ.get("WATCHDOG_USEC", "")
    if os.environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()) or not limit.isdigit() or limit == "0":
        return None
    return int(limit) / 2e6
