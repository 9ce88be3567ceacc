"""``tf.train.Example`` without TensorFlow: the lists of a serialized example, by its wire format alone.

    Example { Features features = 1 }     Features { map<string, Feature> feature = 1 }
    Feature { oneof: BytesList = 1, FloatList = 2, Int64List = 3 }; each list has its values in field 1.

Numbers may be packed or not; fields of other numbers are passed over, as protobuf does. Source: TensorFlow's
example.proto and feature.proto; the encoding: protobuf.dev/programming-guides/encoding. Free of NumPy.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from typing import TypeAlias

from edgefl.errors import DataError

Values: TypeAlias = "list[bytes] | array[float] | array[int]"
"""Of a BytesList, a FloatList (``array('f')``) or an Int64List (``array('q')``)."""

_VARINT, _FIXED64, _DELIMITED, _FIXED32 = 0, 1, 2, 5

_MAX_VARINT_BYTES = 10


def parse_example(raw: bytes) -> dict[str, Values]:
    """The values of each feature by its name. Raises ``DataError`` for bytes that are not such a message."""
    found: dict[str, Values] = {}
    for features in _messages(raw, 1):
        for entry in _messages(features, 1):
            name, values = _entry(entry)
            found[name] = values
    return found


def _entry(raw: bytes) -> tuple[str, Values]:
    name, values = "", None
    for number, wire, value in _fields(raw):
        if number == 1 and wire == _DELIMITED:
            try:
                name = _bytes(value).decode()
            except UnicodeDecodeError:
                raise DataError("the name of a feature is not UTF-8; expected a tf.train.Example") from None
        elif number == 2 and wire == _DELIMITED:
            values = _feature(_bytes(value))
    return name, [] if values is None else values


def _feature(raw: bytes) -> Values | None:
    found: Values | None = None
    for number, wire, value in _fields(raw):
        if wire != _DELIMITED:
            continue
        if number == 1:
            found = list(_messages(_bytes(value), 1))
        elif number == 2:
            found = _floats(_bytes(value))
        elif number == 3:
            found = _integers(_bytes(value))
    return found


def _floats(raw: bytes) -> array[float]:
    found = array("f")
    for number, wire, value in _fields(raw):
        if number == 1 and wire in (_DELIMITED, _FIXED32):
            if len(_bytes(value)) % 4:
                raise DataError(f"a list of floats has {len(_bytes(value))} bytes; expected 4 for each")
            found.frombytes(_bytes(value))
    return found


def _integers(raw: bytes) -> array[int]:
    found = array("q")
    for number, wire, value in _fields(raw):
        if number != 1:
            continue
        if wire == _VARINT:
            found.append(_signed(_whole(value)))
        elif wire == _DELIMITED:
            packed, place = _bytes(value), 0
            while place < len(packed):
                one, place = _varint(packed, place)
                found.append(_signed(one))
    return found


def _messages(raw: bytes, wanted: int) -> Iterator[bytes]:
    for number, wire, value in _fields(raw):
        if number == wanted and wire == _DELIMITED:
            yield _bytes(value)


def _fields(raw: bytes) -> Iterator[tuple[int, int, bytes | int]]:
    """Number, wire type and value of each field: an int of a varint, else the bytes."""
    place = 0
    while place < len(raw):
        tag, place = _varint(raw, place)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, place = _varint(raw, place)
            yield number, wire, value
            continue
        if wire == _DELIMITED:
            size, place = _varint(raw, place)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise DataError(f"a field of wire type {wire}; expected a tf.train.Example")
        if size > len(raw) - place:
            raise DataError(f"a field of {size} bytes, of which {len(raw) - place} are there; expected a whole message")
        yield number, wire, raw[place : place + size]
        place += size


def _varint(raw: bytes, place: int) -> tuple[int, int]:
    value = 0
    for index in range(_MAX_VARINT_BYTES):
        if place + index >= len(raw):
            break
        byte = raw[place + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value, place + index + 1
    raise DataError("a number that does not end; expected a tf.train.Example")


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value


def _bytes(value: bytes | int) -> bytes:
    return value if isinstance(value, bytes) else b""


def _whole(value: bytes | int) -> int:
    return value if isinstance(value, int) else 0
