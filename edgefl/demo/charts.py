"""Pictures made of characters: a growing area, a line of small bars, and large digits. Pure functions to rich texts.

A character is a block of eighths, which every font of a terminal has; where the terminal's encoding has none, callers
pass ``ascii_only``.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from operator import itemgetter

from rich.text import Text

EIGHTHS = " ▁▂▃▄▅▆▇█"
ASCII_EIGHTHS = "  .::==##"
MIN_SPAN = 0.05
"""No picture stretches less than this share over its height: noise would look like progress."""

_DIGITS = {
    "0": "###\n# #\n# #\n# #\n###",
    "1": "## \n # \n # \n # \n###",
    "2": "###\n  #\n###\n#  \n###",
    "3": "###\n  #\n ##\n  #\n###",
    "4": "# #\n# #\n###\n  #\n  #",
    "5": "###\n#  \n###\n  #\n###",
    "6": "###\n#  \n###\n# #\n###",
    "7": "###\n  #\n  #\n  #\n  #",
    "8": "###\n# #\n###\n# #\n###",
    "9": "###\n# #\n###\n  #\n###",
    ".": " \n \n \n \n#",
}
_HALVES = {(" ", " "): " ", ("#", " "): "▀", (" ", "#"): "▄", ("#", "#"): "█"}


def large(number: str) -> str:
    """``number`` in digits three lines high."""
    grid = [" ".join(_DIGITS[digit].split("\n")[row] for digit in number) for row in range(5)] + [""]
    width = len(grid[0])
    pairs = zip(grid[::2], grid[1::2], strict=True)
    return "\n".join(
        "".join(_HALVES[pair] for pair in zip(top.ljust(width), low.ljust(width), strict=True)) for top, low in pairs
    )


def sparkline(values: Sequence[float], total: int, width: int, low: float, *, ascii_only: bool = False) -> str:
    """One line: ``values`` so far of ``total``, each column from ``low`` to 1."""
    chars = ASCII_EIGHTHS if ascii_only else EIGHTHS
    levels = _levels(values, total, width, low, 1)
    return "".join(chars[max(1, level)] for level in levels)


def _levels(values: Sequence[float], total: int, width: int, low: float, height: int) -> list[int]:
    """Eighths of a line for each column that has a value; the last column is the last of ``total`` values."""
    columns = min(width, -(-len(values) * width // total))
    span = max(MIN_SPAN, 1.0 - low)
    last = len(values) - 1
    chosen = [
        values[min(last, (column + 1) * total // width - 1 if total >= width else column * total // width)]
        for column in range(columns)
    ]
    return [min(8 * height, max(0, round((value - low) / span * 8 * height))) for value in chosen]


def area(
    values: Sequence[float],
    total: int,
    size: tuple[int, int],
    low: float,
    marks: Sequence[tuple[float, str]],
    *,
    ascii_only: bool = False,
) -> list[Text]:
    """``values`` as a filled area in ``size`` = (columns, lines) from ``low`` to 1.

    What is above the lowest mark is bright. ``marks``: values at the left edge with a style, each as a dotted line
    where the area does not cover it.
    """
    width, height = size
    chars = ASCII_EIGHTHS if ascii_only else EIGHTHS
    levels = _levels(values, total, width, low, height)
    span = max(MIN_SPAN, 1.0 - low)
    places = {min(height - 1, int((value - low) / span * height)): (value, style) for value, style in marks}
    lines = []
    for row in reversed(range(height)):
        value, style = places.get(row, (None, "bright_black"))
        foot = f"{low:.2f} " if row == 0 and (values or marks) else "     "
        line = Text().append(foot if value is None else f"{value:.2f} ", style)
        fill = "green" if not places or row > min(places) else "bright_black"
        dot = None if value is None else "." if ascii_only else "┈"
        cells = [min(8, max(0, level - 8 * row)) for level in levels] + [0] * (width - len(levels))
        drawn = [(dot, style) if dot and not cell else (chars[cell], fill) for cell in cells]
        for look, run in itertools.groupby(drawn, key=itemgetter(1)):
            line.append("".join(char for char, _ in run), look)
        lines.append(line)
    return lines
