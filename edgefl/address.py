"""Where plaintext may go: loopback, and nowhere else (design §7)."""

from __future__ import annotations

import ipaddress

from edgefl.errors import ConfigError


def split_address(address: str) -> tuple[str, int]:
    """Host and port of "HOST:PORT" or "[IPV6]:PORT". Raises ``ConfigError``."""
    host, colon, port = address.rpartition(":")
    if not colon or not port.isdecimal() or not 0 <= int(port) <= 65535 or not host:
        raise ConfigError(f"address is {address!r}; expected HOST:PORT, for example 127.0.0.1:7443")
    return host.removeprefix("[").removesuffix("]"), int(port)


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
        raise ConfigError(f"address {address!r} is not loopback; plaintext (--insecure) is for 127.0.0.1 and ::1 alone")
