"""Limits of the integer grid (design §4.4), as ``csrc/include/edgefl.h`` has them."""

from __future__ import annotations

from edgefl.errors import ConfigError

MIN_GRID_SHIFT = -128
MAX_GRID_SHIFT = 128
"""2**shift times any float32 stays a normal binary64 number, exactly."""

MAX_WEIGHT = 2**32
"""With grid values of at most 2**30, sums stay within 2**62."""


def check_grid_shift(grid_shift: int) -> None:
    if not MIN_GRID_SHIFT <= grid_shift <= MAX_GRID_SHIFT:
        raise ConfigError(f"grid_shift is {grid_shift}; expected {MIN_GRID_SHIFT} to {MAX_GRID_SHIFT}")
