"""Random damage to a serialized message, by the project's counter-based generator: the same key, the same damage."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from edgefl.kernels.randomness import random_words

T = TypeVar("T")


class Draws:
    """Uniform whole numbers of the stream of a 16-byte key."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        self._epoch = 0
        self._words: list[int] = []

    def below(self, n: int) -> int:
        if not self._words:
            self._words = list(random_words(self._key, self._epoch, 4096))
            self._epoch += 1
        return self._words.pop() % n  # no n here is large enough for the bias to matter

    def one(self, options: Sequence[T]) -> T:
        return options[self.below(len(options))]

    def shuffled(self, items: Sequence[T]) -> list[T]:
        rest = list(items)
        return [rest.pop(self.below(len(rest))) for _ in items]


def damaged(raw: bytes, draws: Draws) -> bytes:
    """``raw`` after one to three flips of a bit, cuts, or splices.

    Half of them fall into the few bytes around the payload, which tell fields and lengths; the payload is the most.
    """
    out = bytearray(raw)
    for _ in range(1 + draws.below(3)):
        draws.one((_flip, _flip, _cut, _truncate, _splice))(out, draws)
    return bytes(out)


def _position(raw: bytearray, draws: Draws) -> int:
    head, tail, anywhere = draws.below(90), len(raw) - draws.below(20), draws.below(len(raw) + 1)
    return max(0, min(draws.one((head, tail, anywhere, anywhere)), len(raw)))


def _flip(raw: bytearray, draws: Draws) -> None:
    if (at := _position(raw, draws)) < len(raw):
        raw[at] ^= 1 << draws.below(8)


def _cut(raw: bytearray, draws: Draws) -> None:
    at = _position(raw, draws)
    del raw[at : at + 1 + draws.below(8)]


def _truncate(raw: bytearray, draws: Draws) -> None:
    del raw[_position(raw, draws) :]


def _splice(raw: bytearray, draws: Draws) -> None:
    """Bytes of one place in another."""
    source, at = _position(raw, draws), _position(raw, draws)
    raw[at:at] = raw[source : source + 1 + draws.below(40)]
