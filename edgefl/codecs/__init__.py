"""Encodings of client updates, by registered name. Each is one file of this package that defines ``CODEC``.

A codec turns a vector of numbers into the payload that travels, and back. The name of the file is the name in task
definitions, plans and updates, so adding a codec takes one file (``edgefl.registry``). Other packages cannot add one:
a codec runs on devices too, and an agent announces what every agent of its version has. Invariants:

- ``decode`` of a payload that ``encode`` made under the same key has the size and the format of the values, and it
  raises ``InvalidUpdateError`` for whatever else arrives: a payload comes from a device that may be wrong or may lie;
- both are pure functions: randomness that both sides share derives from the round's key, and what a codec has to
  remember on a device from round to round is its memory, which only ``encode`` reads and returns;
- the bytes are the same on every machine (little-endian); no NumPy: this is the way of the device.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Literal, Protocol, cast

from edgefl.errors import InvalidUpdateError, UpdateRefusal
from edgefl.registry import Registry

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from edgefl.types import RoundKey

__all__ = ["CODECS", "Codec", "codec", "decode", "encode", "names"]

CODECS = Registry("encoding", __name__, "CODEC")


class Codec(Protocol):
    """One encoding. ``value_format`` is the buffer format of what it carries: "f" float32 deltas, "q" int64 sums."""

    @property
    def name(self) -> str: ...

    @property
    def value_format(self) -> Literal["f", "q"]: ...

    def encode(self, values: Buffer, key: RoundKey, memory: bytes) -> tuple[bytes, bytes]:
        """The payload of a C-contiguous vector of ``value_format`` values, and the device's memory after it.

        ``memory``: what the device's last update of this task left behind; b"" before the first.
        """
        ...

    def decode(self, payload: bytes, num_values: int, key: RoundKey) -> bytes:
        """``num_values`` values of ``value_format``. Raises ``InvalidUpdateError``: ENCODING, SHAPE, NON_FINITE."""
        ...


def names() -> tuple[str, ...]:
    """The names of all codecs, sorted: what an agent tells the server that it knows."""
    return CODECS.names()


@functools.cache
def codec(name: str) -> Codec:
    """The codec of that name. Raises ``ConfigError`` when there is none."""
    return cast(Codec, CODECS.load(name))


def encode(name: str, values: Buffer, key: RoundKey, memory: bytes = b"") -> tuple[bytes, bytes]:
    """The payload of ``values`` by the codec of that name, and the device's memory after it. As ``Codec.encode``."""
    return codec(name).encode(values, key, memory)


def decode(name: str, expected: str, payload: bytes, num_values: int, key: RoundKey) -> bytes:
    """Decode a payload that claims the encoding ``name`` for a plan that asked for ``expected``.

    Raises ``InvalidUpdateError``: ENCODING when the two differ, and what the codec raises.
    """
    if name != expected:
        raise InvalidUpdateError(UpdateRefusal.ENCODING, f"encoding is {name!r}; expected {expected!r}, as planned")
    return codec(expected).decode(payload, num_values, key)
