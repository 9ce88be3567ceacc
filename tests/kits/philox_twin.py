"""The randomness of ``numpy_twin``: our counter-based generator in plain Python (design §4.5)."""

from __future__ import annotations


def philox4x32(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 (Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011)."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (
            (second >> 32) ^ c1 ^ k0,
            second & 0xFFFFFFFF,
            (first >> 32) ^ c3 ^ k1,
            first & 0xFFFFFFFF,
        )
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return c0, c1, c2, c3


class WordStream:
    """The words of one key and epoch, in order."""

    def __init__(self, key: bytes, epoch: int) -> None:
        self._key = [int.from_bytes(key[at : at + 4], "little") for at in (0, 4, 8, 12)]
        self._epoch = epoch
        self._block = 0
        self._words: list[int] = []

    def next(self) -> int:
        if not self._words:
            k0, k1, c2, c3 = self._key
            self._words = list(philox4x32((self._block, self._epoch, c2, c3), (k0, k1)))
            self._block += 1
        return self._words.pop(0)

    def bounded(self, size: int) -> int:
        """Uniform in [0, size), size < 2**32 (Lemire, "Fast random integer generation in an interval", 2019)."""
        product = self.next() * size
        if product & 0xFFFFFFFF < size:
            while product & 0xFFFFFFFF < (2**32 - size) % size:
                product = self.next() * size
        return product >> 32


def random_words(key: bytes, epoch: int, count: int) -> list[int]:
    stream = WordStream(key, epoch)
    return [stream.next() for _ in range(count)]


def permutation(key: bytes, epoch: int, n: int) -> list[int]:
    stream = WordStream(key, epoch)
    order = list(range(n))
    for i in range(n - 1, 0, -1):
        j = stream.bounded(i + 1)
        order[i], order[j] = order[j], order[i]
    return order
