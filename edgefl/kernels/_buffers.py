"""Checks of the buffers that callers give, before any pointer is taken.

Everything with the buffer protocol is taken as it is, without a copy: ``memoryview``, ``array.array``, NumPy arrays.
A vector may also come as raw little-endian ``bytes``, the form in which models and deltas travel.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from edgefl.errors import DataError

if TYPE_CHECKING:
    from typing_extensions import Buffer

# Format characters of the buffer protocol, without their byte-order prefix, by dtype. An int32 is "i", or "l" where
# a long has 4 bytes; an int64 "q", or "l" where it has 8: so a format counts only together with its item size.
_FORMATS = {
    "float32": ("f", 4),
    "float64": ("d", 8),
    "int32": ("il", 4),
    "int64": ("ql", 8),
    "uint8": ("B", 1),
    "int8": ("b", 1),
}

# Native order, and explicit little-endian, which is the same on every supported machine.
_BYTE_ORDERS = ("", "@", "=", "<")

_DTYPES = {
    (order + code, size): dtype for dtype, (codes, size) in _FORMATS.items() for code in codes for order in _BYTE_ORDERS
}

_FEATURE_DTYPES = ("float32", "uint8", "int8")


def open_buffer(name: str, value: Buffer) -> memoryview[Any]:
    """A view of a C-contiguous buffer. Raises ``DataError`` for anything else."""
    try:
        view = memoryview(value)
    except (TypeError, ValueError, BufferError) as error:
        raise DataError(
            f"{name} is a {type(value).__name__} ({error}); expected a C-contiguous buffer: a memoryview, an "
            "array.array, a NumPy array"
        ) from None
    if not view.c_contiguous:
        raise DataError(f"{name} is not C-contiguous (strides {view.strides}); copy it into C order first")
    return view


def dtype_of(view: memoryview[Any]) -> str:
    """The name of the dtype, or the format itself for one that is not used here."""
    return _DTYPES.get((view.format, view.itemsize)) or f"format {view.format!r}"


def shape_of(view: memoryview[Any]) -> tuple[int, ...]:
    """The shape; the type of ``memoryview.shape`` allows for None, which a view of a buffer never has."""
    return view.shape or ()


def value_at(view: memoryview[Any], index: int) -> object:
    """A value by its flat index, for a message: a memoryview itself reads no format with a byte-order prefix."""
    code, size = _FORMATS[dtype_of(view)]
    return struct.unpack_from("<" + code[0], view.tobytes(), index * size)[0]


def _cast(view: memoryview[Any], dtype: str) -> memoryview[Any]:
    """Raw bytes as one of the vector dtypes."""
    match dtype:
        case "float32":
            return view.cast("f")
        case "float64":
            return view.cast("d")
        case _:
            return view.cast("q")


def vector(name: str, value: Buffer, dtype: str, length: int | None = None) -> memoryview[Any]:
    """A one-dimensional view of ``dtype``, also of raw bytes. ``length`` None takes any."""
    view = open_buffer(name, value)
    given = dtype_of(view)
    size = _FORMATS[dtype][1]
    if given == "uint8" and view.ndim == 1:
        if len(view) % size:
            raise DataError(f"{name} has {len(view)} bytes; expected {dtype} values, a multiple of {size}")
        view = _cast(view, dtype)
    elif given != dtype or view.ndim != 1:
        raise DataError(f"{name} is {given} of shape {view.shape}; expected one dimension of {dtype}")
    if length is not None and len(view) != length:
        raise DataError(f"{name} has {len(view)} values; expected {length}")
    return view


def writable_sums(name: str, value: Buffer) -> memoryview[Any]:
    """A writable one-dimensional view of int64."""
    view = vector(name, value, "int64")
    if view.readonly:
        raise DataError(f"{name} is read-only; expected a writable buffer of int64, which is added to in place")
    return view


def feature_matrix(value: Buffer) -> tuple[memoryview[Any], str]:
    """A view of features, shape (n, F) with n and F of 1 or more, and its format: "f", "B" or "b"."""
    view = open_buffer("features", value)
    dtype = dtype_of(view)
    if dtype not in _FEATURE_DTYPES or view.ndim != 2:
        raise DataError(
            f"features is {dtype} of shape {view.shape}; expected two dimensions (rows, features) of "
            f"{', '.join(_FEATURE_DTYPES)}"
        )
    if 0 in shape_of(view):
        raise DataError(f"features has shape {view.shape}; expected at least one row and one feature")
    return view, _FORMATS[dtype][0]


def label_vector(value: Buffer, num_rows: int) -> memoryview[Any]:
    """A view of labels: (num_rows,) int32. Raw bytes are refused: uint8 labels would pass for them."""
    view = open_buffer("labels", value)
    dtype = dtype_of(view)
    if dtype != "int32" or view.ndim != 1:
        raise DataError(f"labels is {dtype} of shape {view.shape}; expected one dimension of int32")
    if len(view) != num_rows:
        raise DataError(f"labels has {len(view)} values; expected {num_rows}, one for each row of features")
    return view
