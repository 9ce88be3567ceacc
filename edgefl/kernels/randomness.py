"""The counter-based generator (Philox4x32-10): a pure function of a 16-byte key and an epoch (design §4.5).

``edgefl.randomness`` derives the keys.
"""

from __future__ import annotations

from array import array

from edgefl.errors import ConfigError
from edgefl.kernels import _kernels
from edgefl.types import KEY_BYTES

MAX_EPOCH = 2**32 - 1
MAX_COUNT = 2**31 - 1
"""Far below the 2**34 words after which a stream would repeat; the longest permutation."""


def random_words(key: bytes, epoch: int, count: int) -> array[int]:
    """The first ``count`` 32-bit words of the stream of (key, epoch). Raises ``ConfigError`` for its arguments."""
    _check(key, epoch, count)
    return _words(_kernels.random_words(key, epoch, count))


def permutation(key: bytes, epoch: int, n: int) -> array[int]:
    """A uniform permutation of ``range(n)`` drawn from that stream: the order of the examples in a local epoch."""
    _check(key, epoch, n)
    return _words(_kernels.permutation(key, epoch, n))


def _words(raw: bytes) -> array[int]:
    words = array("I")
    words.frombytes(raw)
    return words


def _check(key: bytes, epoch: int, count: int) -> None:
    if not isinstance(key, bytes) or len(key) != KEY_BYTES:
        raise ConfigError(f"a key of {len(key)} bytes ({type(key).__name__}); expected {KEY_BYTES} bytes")
    if not 0 <= epoch <= MAX_EPOCH:
        raise ConfigError(f"epoch is {epoch}; expected 0 to {MAX_EPOCH}")
    if not 0 <= count <= MAX_COUNT:
        raise ConfigError(f"{count} numbers; expected 0 to {MAX_COUNT}")
