"""Tells systemd how the service is (``Type=notify``): one datagram, no library. Source: sd_notify(3)."""

from __future__ import annotations

import os
import socket


def notify_systemd(state: str) -> None:
    """Send ``state`` ("READY=1", "STOPPING=1") when systemd started this process; else do nothing."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    if address.startswith("@"):
        address = "\0" + address[1:]  # an abstract socket
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as connection:
        connection.connect(address)
        connection.sendall(state.encode())
