"""The one reader of CSV files: a header, and rows that are as long as it. What columns mean is the caller's.

Invariants: UTF-8 (with or without a byte order mark), comma, double quotes; column names are unique and not empty,
without the spaces around them; blank lines are skipped; one row is held at a time. Whatever is wrong is a ``DataError``
that names the file, the line and the column. What a device stores and what a simulation reads are the same numbers.

Source: RFC 4180.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgefl.errors import DataError

MAX_DIGITS = 9
"""Of a whole number in a cell: each fits an int32, and int() is fast."""


class CsvRows:
    """An open file: the ``names`` of its columns, and its rows by iteration, once."""

    def __init__(self, path: Path, reader: Any) -> None:
        """``reader`` is a ``csv.reader`` (its type has no public name), of which the header is taken."""
        self.path = path
        self._reader = reader
        self.names = tuple(name.strip() for name in next(reader, []))
        if not self.names:
            raise DataError(f"{path} is empty; expected a header line")
        for index, name in enumerate(self.names):
            if not name:
                raise DataError(
                    f"{path}: column {index + 1} has no name; name it, or leave it out (pandas: to_csv(index=False))"
                )
            if name in self.names[:index]:
                raise DataError(f"{path} has two columns named {name!r}; expected unique names")

    def __iter__(self) -> Iterator[tuple[str, list[str]]]:
        """The place of each row, for errors ("FILE, line 7"), and its cells, one for each name."""
        for cells in self._reader:
            if not cells:
                continue  # a blank line
            where = f"{self.path}, line {self._reader.line_num}"
            if len(cells) != len(self.names):
                raise DataError(f"{where} has {len(cells)} values; expected {len(self.names)}, one per column")
            yield where, cells


@contextmanager
def open_csv(path: Path) -> Iterator[CsvRows]:
    """Open a CSV file. Raises ``DataError``, also while its rows are read."""
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            try:
                yield CsvRows(path, reader)
            except csv.Error as error:
                raise DataError(f"{path}, line {reader.line_num}: {error}; expected comma-separated values") from error
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8 text ({error.reason}); save it as UTF-8") from error


def parse_whole(text: str, where: str, low: int, high: int) -> int:
    """A whole number written in decimal digits, from ``low`` to ``high``. Raises ``DataError`` at ``where``."""
    text = text.strip()
    # int() would also take "1_000" and digits of other scripts.
    digits = text.removeprefix("-") if low < 0 else text
    if not (digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS) or not low <= int(text) <= high:
        raise DataError(f"{where} is {text!r}; expected a whole number from {low} to {high}")
    return int(text)


def parse_held_out(text: str, where: str) -> bool:
    """Whether a row of a split column is held out: ``train`` or ``held_out``. Raises ``DataError`` at ``where``."""
    value = text.strip()
    if value not in ("train", "held_out"):
        raise DataError(f"{where} is {value!r}; expected train or held_out")
    return value == "held_out"
