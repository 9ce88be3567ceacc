"""The framing between ``tflite_runner`` and its child: one JSON header and one block of raw bytes each way.

::

    magic (4) | header length (u32) | body length (u64) | header (JSON, UTF-8) | body

Request: header ``Request``, body = the model file, then the features. Reply: header ``Reply``, body = probabilities.
Both ends run on one machine and from one installation, so numbers are little-endian and nothing carries a version.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from dataclasses import dataclass
from typing import TypeVar

MAGIC = b"EFLT"
MAX_HEADER_BYTES = 1 << 16
"""A header is a few names and an error message."""

MAX_BODY_BYTES = 1 << 31
"""A FlatBuffer ends at 2 GiB, and the rows of one call are far below that."""

_PREFIX = struct.Struct("<4sIQ")
PREFIX_BYTES = _PREFIX.size

Header = TypeVar("Header", "Request", "Reply")


@dataclass(frozen=True)
class Request:
    """Run ``num_rows`` rows of ``num_features`` float32 through the model in the first ``model_bytes`` of the body."""

    runtime: str
    model_bytes: int
    num_rows: int
    num_features: int


@dataclass(frozen=True)
class Reply:
    """What the child did. ``error`` is empty or an ``EdgeFLError``'s class name; ``seconds`` is inference alone."""

    error: str = ""
    message: str = ""
    num_classes: int = 0
    seconds: float = 0.0


def pack(header: Request | Reply, body: bytes) -> bytes:
    """One framed message."""
    text = json.dumps(dataclasses.asdict(header)).encode()
    return _PREFIX.pack(MAGIC, len(text), len(body)) + text + body


def split_prefix(prefix: bytes) -> tuple[int, int]:
    """Lengths of header and body. Raises ``ValueError`` for anything that this module did not write."""
    if len(prefix) != PREFIX_BYTES:
        raise ValueError(f"a message of {len(prefix)} bytes; expected at least {PREFIX_BYTES}")
    magic, header_bytes, body_bytes = _PREFIX.unpack(prefix)
    if magic != MAGIC or header_bytes > MAX_HEADER_BYTES or body_bytes > MAX_BODY_BYTES:
        raise ValueError(f"a message that starts with {prefix.hex()}; expected {MAGIC!r} and sane lengths")
    return int(header_bytes), int(body_bytes)


def parse_header(raw: bytes, kind: type[Header]) -> Header:
    """A ``Request`` or ``Reply`` from JSON. Raises ``ValueError`` for any field missing, extra or of another type."""
    fields = json.loads(raw.decode())
    if not isinstance(fields, dict):
        raise ValueError(f"a header of type {type(fields).__name__}; expected an object")
    expected = {field.name: field.type for field in dataclasses.fields(kind)}
    found = {name: type(value).__name__ for name, value in fields.items()}
    if found != expected:
        raise ValueError(f"a header with {found}; expected {expected}")
    return kind(**fields)


def unpack(message: bytes, kind: type[Header]) -> tuple[Header, bytes]:
    """Header and body of one whole message. Raises ``ValueError`` for garbage and for bytes missing or left over."""
    header_bytes, body_bytes = split_prefix(message[:PREFIX_BYTES])
    if len(message) != PREFIX_BYTES + header_bytes + body_bytes:
        raise ValueError(
            f"a message of {len(message)} bytes; expected {PREFIX_BYTES + header_bytes + body_bytes} by its prefix"
        )
    start = PREFIX_BYTES + header_bytes
    return parse_header(message[PREFIX_BYTES:start], kind), message[start:]
