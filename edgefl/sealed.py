"""A file of one JSON text and parts of bytes behind it, of which every byte is as it was written, or none is used.

    head    magic (8 bytes), format version (u32), size of the text (u64), size of the parts (u64), SHA-256 of both
    text    UTF-8 JSON, in which the sizes of the parts stand
    parts   one behind the other

Integers are little-endian. No code is in such a file, and none is run.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefl.errors import StorageError
from edgefl.files import check_regular, write_file

_HEAD = struct.Struct("<8sIQQ32s")


class Parts:
    """The bytes behind a text, to be taken in their order."""

    def __init__(self, raw: memoryview) -> None:
        self._raw = raw

    def take(self, size: int) -> bytes:
        """The next ``size`` bytes."""
        taken, self._raw = bytes(self._raw[:size]), self._raw[size:]
        return taken


@dataclass(frozen=True)
class SealedFormat:
    """A kind of such files. ``magic``: 8 bytes. ``what`` it is, and ``advice`` for one not whole: for people.

    ``older``: versions that are read too.
    """

    magic: bytes
    version: int
    what: str
    advice: str
    older: tuple[int, ...] = ()

    def write(self, path: Path, text: dict[str, Any], parts: Iterable[bytes]) -> None:
        """Replace ``path`` in one step, durably. Raises ``StorageError``."""
        raw = json.dumps(text, separators=(",", ":")).encode()
        body = b"".join([raw, *parts])
        digest = hashlib.sha256(body).digest()
        write_file(path, _HEAD.pack(self.magic, self.version, len(raw), len(body) - len(raw), digest) + body)

    def read(self, path: Path) -> tuple[dict[str, Any], Parts] | None:
        """None when there is no file. Raises ``StorageError`` for one that cannot be read, or is not whole."""
        check_regular(path)
        try:
            raw = path.read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"{self.what} {path} cannot be read: {error.strerror}") from None
        text, parts = self._checked(path, raw)
        return json.loads(text), Parts(parts)

    def _checked(self, path: Path, raw: bytes) -> tuple[bytes, memoryview]:
        what = f"{self.what} {path}"
        if not raw.startswith(self.magic[: len(raw)]):
            raise StorageError(f"{path} is no {self.what} of EdgeFL: it starts with {raw[:8]!r}; choose another file")
        if len(raw) < _HEAD.size:
            raise StorageError(f"{what} is cut off: {len(raw)} bytes, less than its head; {self.advice}")
        _, version, text_size, parts_size, digest = _HEAD.unpack_from(raw)
        if version not in (self.version, *self.older):
            raise StorageError(f"{what} is of format {version}; this EdgeFL reads {self.version}; {self.advice}")
        expected = _HEAD.size + text_size + parts_size
        if len(raw) < expected:
            raise StorageError(f"{what} is cut off: {len(raw)} bytes of {expected}; {self.advice}")
        if len(raw) > expected or hashlib.sha256(memoryview(raw)[_HEAD.size :]).digest() != digest:
            raise StorageError(f"{what} is corrupt: its checksum is not that of its content; {self.advice}")
        cut = _HEAD.size + text_size
        return raw[_HEAD.size : cut], memoryview(raw)[cut:]
