"""Where plaintext may go: loopback, and nowhere else (design §7)."""

from __future__ import annotations

import ipaddress
import re

from edgefl.errors import ConfigError

ADDRESS = re.compile(r"(?P<host>[^\s:\[\]]+|\[[^\s\[\]]*:[^\s\[\]]*\]):(?P<port>[0-9]{1,5})")
"""HOST:PORT or [IPV6]:PORT. Without the brackets gRPC would read the port of an IPv6 address as part of the host."""


def split_address(address: str) -> tuple[str, int]:
    """Host and port of "HOST:PORT" or "[IPV6]:PORT". Raises ``ConfigError``."""
    found = ADDRESS.fullmatch(address)
    if found is None or int(found["port"]) > 65535:
        raise ConfigError(f"address is {address!r}; expected HOST:PORT, for example 127.0.0.1:7443 or [::1]:7443")
    return found["host"].strip("[]"), int(found["port"])


def require_loopback(address: str) -> None:
    """Refuse an address that is not loopback: without TLS, data must not leave the machine."""
    host, _ = split_address(address)
    if host == "localhost":
        return
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise ConfigError(f"address {address!r} is not loopback; plaintext (--insecure) is only for 127.0.0.1 and ::1")
