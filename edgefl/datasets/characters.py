"""Text for a softmax layer: which character comes next, from the few before it.

Each character of a text is an example. Its class is the character. Its features say, for each of the last ``window``
characters, which one it was: a 1 in that character's place, 0 elsewhere (uint8); the nearest comes first, and what lies
before the beginning is all 0. The layer so learns a log-linear model of ``window + 1`` characters, whose position-wise
weights add up: much less than a recurrent network, which TFF's tutorial trains, and no memory beyond the window. It is
there to compare algorithms on unequal clients, not to write verses.

The vocabulary is the 86 characters of TFF's tutorial on text generation, in the order of their code points; all others
are one class, ``other``. It is fixed, so every client has the same classes.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, Any

from edgefl.errors import ConfigError
from edgefl.types import MAX_FEATURES, check_whole

if TYPE_CHECKING:
    from numpy.typing import NDArray

VOCABULARY = "".join(sorted(string.ascii_letters + string.digits + "\n\r !\"#$%&'()*,-./:;?@[]_"))

_NAMES = {"\n": "newline", "\r": "return", " ": "space"}

CLASSES = (*(_NAMES.get(character, character) for character in VOCABULARY), "other")

OTHER = len(VOCABULARY)

WINDOW = 3
"""Characters that are looked back at, where nobody says how many."""

MAX_WINDOW = MAX_FEATURES // len(CLASSES)

_CODES = {character: code for code, character in enumerate(VOCABULARY)}


def classes(_largest: int) -> tuple[int, tuple[str, ...]]:
    """How many classes there are, and their names, whatever characters a text has."""
    return len(CLASSES), CLASSES


def check_window(window: int) -> None:
    check_whole("window", window)
    if not 1 <= window <= MAX_WINDOW:
        raise ConfigError(f"window is {window}; expected 1 to {MAX_WINDOW} characters")


def encode(text: str) -> NDArray[Any]:
    """(n,) int32: the class of each character."""
    import numpy as np

    return np.fromiter((_CODES.get(character, OTHER) for character in text), np.int32, len(text))


def examples_of(text: str, window: int) -> tuple[NDArray[Any], NDArray[Any]]:
    """Features (n, window * len(CLASSES)) uint8 and labels (n,) int32: an example for each character of ``text``."""
    import numpy as np

    codes = encode(text)
    hot = np.zeros((len(codes), window, len(CLASSES)), np.uint8)
    for back in range(min(window, len(codes))):
        rows = np.arange(back + 1, len(codes))
        hot[rows, back, codes[rows - back - 1]] = 1
    return hot.reshape(len(codes), window * len(CLASSES)), codes


def last_characters(contexts: list[str], window: int) -> NDArray[Any]:
    """(n, window * len(CLASSES)) uint8: the features of what comes after each of ``contexts``."""
    import numpy as np

    hot = np.zeros((len(contexts), window, len(CLASSES)), np.uint8)
    for row, text in enumerate(contexts):
        for back, code in enumerate(reversed(encode(text[-window:]))):
            hot[row, back, code] = 1
    return hot.reshape(len(contexts), window * len(CLASSES))
