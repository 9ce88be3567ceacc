"""A mapping that only grows, as a value: adding to it leaves it as it was, and takes constant time.

A round notes each answer of its cohort in its state, which is a value. Copying a dict for each report makes a round of
n reports cost n * n. Here all values of one history share one dict in order of addition, and each sees its own first
``len`` entries. Adding to the newest value extends the shared dict; adding to an older one copies what that one sees.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice


class Appended(Mapping[str, int]):
    """Names with their numbers, in the order in which they were added."""

    __slots__ = ("_entries", "_len")

    def __init__(self, entries: Mapping[str, int] | None = None) -> None:
        self._entries: dict[str, tuple[int, int]] = {
            name: (place, number) for place, (name, number) in enumerate((entries or {}).items())
        }
        self._len = len(self._entries)

    def plus(self, name: str, number: int) -> Appended:
        """This mapping with one more entry at its end. Raises ``KeyError`` for a name that it has."""
        if name in self:
            raise KeyError(f"{name!r} is here already; expected a new name")
        newest = self._len == len(self._entries)
        after = Appended.__new__(Appended)
        after._entries = self._entries if newest else dict(islice(self._entries.items(), self._len))
        after._entries[name] = (self._len, number)
        after._len = self._len + 1
        return after

    def __getitem__(self, name: str) -> int:
        place, number = self._entries[name]
        if place >= self._len:
            raise KeyError(name)
        return number

    def __iter__(self) -> Iterator[str]:
        return islice(self._entries, self._len)

    def __len__(self) -> int:
        return self._len

    def __repr__(self) -> str:
        return f"Appended({dict(self)})"
