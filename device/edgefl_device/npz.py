"""Arrays of an NPZ file, streamed row by row without NumPy: a zip archive of ``.npy`` files.

Only plain numbers, and lists of texts, in C order and little-endian are read; nothing is unpickled, and no more than
one row of numbers is held.
Source: NumPy Enhancement Proposal 1, "A Simple File Format for NumPy Arrays" (versions 1.0 to 3.0).
"""

from __future__ import annotations

import ast
import contextlib
import math
import re
import struct
import zipfile
import zlib
from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from edgefl.errors import DataError

MAX_HEADER_BYTES = 1 << 16
"""A header names a dtype and a shape; NumPy's own are 128 bytes."""

_MAGIC = b"\x93NUMPY"
_TEXT = re.compile("<U[0-9]{1,5}")
"""NumPy's name of a text of at most so many characters."""

_CODES = {
    "<f4": "f",
    "<f8": "d",
    "|b1": "B",
    "|u1": "B",
    "|i1": "b",
    "<u2": "H",
    "<i2": "h",
    "<u4": "I",
    "<i4": "i",
    "<u8": "Q",
    "<i8": "q",
}
"""NumPy's name of a dtype -> the type code of ``array``."""


@dataclass(frozen=True)
class NpzArray:
    """One array: its ``dtype`` (NumPy's text, "<f4"), its ``shape``, and its numbers by ``rows``."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    path: Path
    stream: IO[bytes]

    @property
    def kind(self) -> str:
        """``f`` float, ``i`` and ``u`` integers, ``b`` bool, ``U`` text."""
        return self.dtype[1]

    def rows(self) -> Iterator[array[Any]]:
        """The entries along the first axis, flat; a single number is one row. Once only. Raises ``DataError``."""
        code = _CODES[self.dtype]
        size = math.prod(self.shape[1:]) * array(code).itemsize
        for index in range(self.shape[0] if self.shape else 1):
            raw = _read(self.path, self.stream, size, f"{self.name}, row {index}")
            yield array(code, raw)

    def texts(self) -> Iterator[str]:
        """The texts of an array of texts, flat. Once only. Raises ``DataError``."""
        size = 4 * int(self.dtype[2:])  # NumPy keeps UTF-32, filled up with zeros
        for index in range(math.prod(self.shape)):
            raw = _read(self.path, self.stream, size, f"{self.name}[{index}]")
            try:
                yield raw.decode("utf-32-le").rstrip("\0")
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{self.path}: {self.name}[{index}] is not text ({error.reason}); write it by numpy.savez"
                ) from error


class NpzArchive:
    """An open archive; ``names`` are those of its arrays."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, stack: contextlib.ExitStack) -> None:
        self._path = path
        self._archive = archive
        self._stack = stack
        self.names = tuple(name.removesuffix(".npy") for name in archive.namelist())

    def array(self, name: str, *, texts: bool = False) -> NpzArray:
        """Open one array. Raises ``DataError`` for what is not a plain array of numbers, or of texts with ``texts``."""
        stream = self._stack.enter_context(self._archive.open(f"{name}.npy"))
        magic = _read(self._path, stream, 8, name)
        if magic[:6] != _MAGIC or magic[6] not in (1, 2, 3):
            raise DataError(f"{self._path}: {name} is not an .npy array of version 1 to 3; write it by numpy.savez")
        width = "<H" if magic[6] == 1 else "<I"
        length = struct.unpack(width, _read(self._path, stream, struct.calcsize(width), name))[0]
        if length > MAX_HEADER_BYTES:
            raise DataError(f"{self._path}: {name} has a header of {length} bytes; expected at most {MAX_HEADER_BYTES}")
        dtype, shape = _parse_header(f"{self._path}: {name}", _read(self._path, stream, length, name))
        if dtype not in _CODES and not (texts and _TEXT.fullmatch(dtype)):
            also = " or texts" if texts else ""
            raise DataError(f"{self._path}: {name} is {dtype!r}; expected numbers{also}: {', '.join(_CODES)}")
        return NpzArray(name, dtype, shape, self._path, stream)


@contextlib.contextmanager
def open_npz(path: Path) -> Iterator[NpzArchive]:
    """Open an NPZ file. Raises ``DataError`` when it is none, or is damaged."""
    try:
        with contextlib.ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(path))
            yield NpzArchive(path, archive, stack)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise DataError(f"{path} is not a readable NPZ file ({error}); write it by numpy.savez") from error


def _read(path: Path, stream: IO[bytes], size: int, what: str) -> bytes:
    raw = stream.read(size)
    if len(raw) != size:
        raise DataError(f"{path}: {what}: the array ends early; write the file again")
    return raw


def _parse_header(where: str, raw: bytes) -> tuple[str, tuple[int, ...]]:
    try:
        header = ast.literal_eval(raw.decode("utf-8"))
        dtype, fortran, shape = header["descr"], header["fortran_order"], header["shape"]
    except (ValueError, SyntaxError, KeyError, TypeError, UnicodeDecodeError, MemoryError, RecursionError) as error:
        raise DataError(f"{where} has a header that cannot be read ({error}); write it by numpy.savez") from error
    if not isinstance(dtype, str):
        raise DataError(f"{where} is {dtype!r}; expected numbers: {', '.join(_CODES)}")
    if not isinstance(shape, tuple) or not all(type(n) is int and n >= 0 for n in shape):
        raise DataError(f"{where} has the shape {shape!r}; expected whole numbers")
    if fortran and len(shape) > 1:
        raise DataError(f"{where} is in Fortran order; save numpy.ascontiguousarray(...) instead")
    return dtype, shape
