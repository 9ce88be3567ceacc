"""The names of the classes inside a ``.tflite`` file: one entry of ``Model.metadata``, which runtimes pass over.

The entry is named ``edgefl.classes``; its buffer is UTF-8 text with one name per line, in index order, as label files
of TFLite have them. A file without the entry has no names.

The reader needs no runtime and no package: a device reads names before it starts a child that does. It follows the
FlatBuffer by hand and trusts no number in it; every place is checked against the file's end.

Source: ``tensorflow/compiler/mlir/lite/schema/schema.fbs``, version 3, for the fields' numbers; the FlatBuffers
internals page for tables, vtables and vectors.
"""

from __future__ import annotations

import struct

from edgefl.classes import check_classes
from edgefl.errors import VerificationError

CLASSES_ENTRY = "edgefl.classes"

_IDENTIFIER = b"TFL3"
_MODEL_BUFFERS, _MODEL_METADATA = 4, 6
_METADATA_NAME, _METADATA_BUFFER = 0, 1
_BUFFER_DATA = 0
"""Numbers of fields in their tables, in the order of the schema."""


def classes_metadata(classes: tuple[str, ...]) -> dict[str, bytes]:
    """The entry for checked names, as ``tflite_file.serialize`` takes it; none for ()."""
    return {CLASSES_ENTRY: "".join(f"{name}\n" for name in classes).encode()} if classes else {}


def read_classes(model: bytes) -> tuple[str, ...]:
    """The names of the classes in index order; () where the file has none.

    Raises ``VerificationError`` for what is not a TFLite file, is cut off, or has names that cannot be.
    """
    check_identifier(model)
    try:
        raw = _entry(model)
        names = tuple(raw.decode().splitlines())
    except (struct.error, UnicodeDecodeError):
        raise VerificationError(f"the model file of {len(model)} bytes is cut off or damaged; fetch it again") from None
    check_classes(names, len(names), VerificationError)
    return names


def check_identifier(model: bytes) -> None:
    """Raises ``VerificationError`` for bytes that are not a TFLite file: an error before a runtime is started."""
    if model[4:8] != _IDENTIFIER:
        raise VerificationError(f"not a TFLite file: it has {model[4:8]!r} at byte 4; expected {_IDENTIFIER!r}")


def _entry(model: bytes) -> bytes:
    root = _follow(model, 0)
    buffers, entries = _field(model, root, _MODEL_BUFFERS), _field(model, root, _MODEL_METADATA)
    if not buffers or not entries:
        return b""
    for entry in _tables(model, entries):
        name = _field(model, entry, _METADATA_NAME)
        if not name or _bytes(model, name) != CLASSES_ENTRY.encode():
            continue
        place = _field(model, entry, _METADATA_BUFFER)
        data = _field(model, _table(model, buffers, _uint32(model, place) if place else 0), _BUFFER_DATA)
        return _bytes(model, data) if data else b""
    return b""


def _tables(model: bytes, field: int) -> list[int]:
    vector = _follow(model, field)
    count = _uint32(model, vector)
    _uint32(model, vector + 4 * count)  # a count beyond the file's end is found before it is counted to
    return [_follow(model, vector + 4 + 4 * index) for index in range(count)]


def _table(model: bytes, field: int, index: int) -> int:
    vector = _follow(model, field)
    if index >= _uint32(model, vector):
        raise struct.error(f"metadata names buffer {index}, which is not there")
    return _follow(model, vector + 4 + 4 * index)


def _bytes(model: bytes, field: int) -> bytes:
    """A vector of bytes, or a string."""
    vector = _follow(model, field)
    size = _uint32(model, vector)
    if vector + 4 + size > len(model):
        raise struct.error("a text ends beyond the file")
    return model[vector + 4 : vector + 4 + size]


def _field(model: bytes, table: int, number: int) -> int:
    """Where a field of a table stands; 0 when it is absent."""
    vtable = table - _unpack("<i", model, table)
    if 4 + 2 * number >= _unpack("<H", model, vtable):
        return 0
    offset = _unpack("<H", model, vtable + 4 + 2 * number)
    return table + offset if offset else 0


def _follow(model: bytes, place: int) -> int:
    return place + _uint32(model, place)


def _uint32(model: bytes, place: int) -> int:
    return _unpack("<I", model, place)


def _unpack(layout: str, model: bytes, place: int) -> int:
    if place < 0:  # struct would count from the end
        raise struct.error(f"an offset leads to {place}")
    return int(struct.unpack_from(layout, model, place)[0])
