"""The bounds of exact sums: how far apart grid points lie, and how much an int64 can take (design §4.4)."""

from __future__ import annotations

import math

GRID_BITS = 30
"""A delta's coordinate on the grid is at most 2**30, so 32 x 32 -> 64 bit multiplies suffice."""

MAX_TOTAL_WEIGHT = 1 << 32
"""The largest sum of example weights in a round: with grid values of 2**30 the sums stay within 2**62."""

SUM_BITS = 62
"""Sums stay within 2**62 in magnitude: an int64 with one bit to spare."""

SHARE_SHIFT = 30
"""A share of a client's examples (an accuracy, a gain) is a whole number of steps of 2**-30. It is at most 2**30 in
magnitude, so the sum over 2**32 clients stays within 2**62."""


def share_on_grid(part: int, whole: int) -> int:
    """``part / whole`` in steps of ``2**-SHARE_SHIFT``, rounded half up: integers alone, so the same everywhere."""
    return ((part << (SHARE_SHIFT + 1)) + whole) // (2 * whole)


def ceil_log2(value: float) -> int:
    """The least ``e`` with ``value <= 2**e``; exact. ``value``: positive, finite, at most 53 bits."""
    mantissa, exponent = math.frexp(value)
    return exponent - 1 if mantissa == 0.5 else exponent
