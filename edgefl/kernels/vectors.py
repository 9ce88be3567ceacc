"""Exact aggregation, and reductions and steps in libedgefl's fixed order: checked calls.

Vectors are one-dimensional C-contiguous buffers of the named dtype, or raw little-endian ``bytes`` of it; they are
neither copied nor, but for ``sums``, changed. Source: design §4.4, §4.6.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgefl.errors import ConfigError
from edgefl.kernels import _kernels
from edgefl.kernels._buffers import value_at, vector, writable_sums
from edgefl.kernels._grid import MAX_WEIGHT, check_grid_shift
from edgefl.kernels._status import StatusError, vector_error

if TYPE_CHECKING:
    from typing_extensions import Buffer


def accumulate(sums: Buffer, delta: Buffer, weight: int, grid_shift: int, factor: float = 1.0) -> None:
    """``sums[j] += q * weight``, with ``q = round_even(delta[j] * 2**grid_shift * factor)`` in binary64.

    ``sums`` is writable int64, ``delta`` float32 of the same length, ``weight`` 1 to 2**32, ``factor`` finite and
    0 or more: 1 when the update is not clipped.
    Raises ``DataError`` when some ``|q|`` exceeds 2**30 or is not a number, and when the two share memory;
    ``KernelError`` when a sum would leave 64 bits, ``ConfigError`` for the other arguments; ``sums`` is then unchanged.
    """
    target = writable_sums("sums", sums)
    values = vector("delta", delta, "float32", len(target))
    check_grid_shift(grid_shift)
    if not 1 <= weight <= MAX_WEIGHT:
        raise ConfigError(f"weight is {weight}; expected 1 to {MAX_WEIGHT}")
    if not (math.isfinite(factor) and factor >= 0):
        raise ConfigError(f"factor is {factor!r}; expected a finite number of 0 or more")
    try:
        _kernels.accumulate(target, values, weight, grid_shift, factor)
    except StatusError as error:
        raise vector_error(error, lambda index, _: value_at(values, index)) from None


def add_sums(sums: Buffer, other: Buffer) -> None:
    """``sums[j] += other[j]``, int64; ``other`` may be ``sums`` itself.

    Raises ``KernelError`` when a sum would leave 64 bits, ``DataError`` when the two share a part of their memory;
    ``sums`` is then unchanged.
    """
    target = writable_sums("sums", sums)
    values = vector("other", other, "int64", len(target))
    try:
        _kernels.add_sums(target, values)
    except StatusError as error:
        raise vector_error(error, lambda index, _: value_at(values, index)) from None


def finalize_mean(sums: Buffer, total_weight: int, grid_shift: int) -> bytes:
    """``float(sums[j]) / float(total_weight) * 2**-grid_shift``, float64 as bytes; ``sums`` is int64."""
    values = vector("sums", sums, "int64")
    check_grid_shift(grid_shift)
    if not 1 <= total_weight < 2**63:
        raise ConfigError(f"total_weight is {total_weight}; expected 1 to 2**63 - 1")
    return _kernels.finalize_mean(values, total_weight, grid_shift)


def squared_norm(values: Buffer) -> float:
    """The sum of squares of float32 values, in binary64 and in the library's order."""
    return _kernels.squared_norm(vector("values", values, "float32"))


def first_non_finite(values: Buffer) -> int:
    """The index of the first NaN or infinity of float32 values, or -1."""
    return _kernels.first_non_finite(vector("values", values, "float32"))


def subtract(a: Buffer, b: Buffer) -> bytes:
    """``a[j] - b[j]``, float32 as bytes."""
    left = vector("a", a, "float32")
    return _kernels.subtract(left, vector("b", b, "float32", len(left)))


def apply_update(model: Buffer, update: Buffer, rate: float) -> bytes:
    """``model[j] + rate * update[j]`` in binary64, rounded to float32 once; below 2**-50 it is 0.

    ``model`` is float32, ``update`` float64 of the same length, ``rate`` finite. Raises ``KernelError`` when a result
    is not finite.
    """
    values = vector("model", model, "float32")
    changes = vector("update", update, "float64", len(values))
    if not math.isfinite(rate):
        raise ConfigError(f"rate is {rate!r}; expected a finite number")
    try:
        return _kernels.apply_update(values, changes, rate)
    except StatusError as error:
        raise vector_error(error, lambda index, _: value_at(changes, index)) from None
