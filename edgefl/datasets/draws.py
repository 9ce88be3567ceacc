"""Random whole numbers below any bound, from the counter-based generator: the same on every machine (design §4.5)."""

from __future__ import annotations

from collections.abc import Iterator

from edgefl.errors import ConfigError
from edgefl.kernels import random_words
from edgefl.randomness import derive_key
from edgefl.types import check_whole

MAX_SEED = 2**63 - 1
"""As a task's seed."""

WORDS_AT_ONCE = 1024
"""Words made by one call; each call takes the stream of the next epoch."""


def key_of(seed: int, purpose: str) -> bytes:
    """The key of a data set's draws for ``purpose``. Raises ``ConfigError`` for a seed out of range."""
    check_whole("seed", seed)
    if not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"seed is {seed}; expected 0 to 2**63 - 1")
    return derive_key(seed, 0, "", purpose)


class Draws:
    """A stream of draws, a pure function of its ``key``."""

    def __init__(self, key: bytes) -> None:
        self._words = self._stream(key)

    def below(self, bound: int) -> int:
        """Uniform in ``range(bound)``; ``bound`` is at least 1, and may be larger than a word.

        By rejection: as many bits as ``bound - 1`` has, drawn again while they make ``bound`` or more (fewer than two
        tries on average).
        """
        bits = (bound - 1).bit_length()
        while True:
            value = 0
            for _ in range(0, bits, 32):
                value = value << 32 | next(self._words)
            value >>= -bits % 32
            if value < bound:
                return value

    @staticmethod
    def _stream(key: bytes) -> Iterator[int]:
        # Epoch 0 is left to permutations by the same key.
        epoch = 1
        while True:
            yield from random_words(key, epoch, WORDS_AT_ONCE)
            epoch += 1
