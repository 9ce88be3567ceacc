"""The names of classes: what they may be, and how a label that is written as text becomes an index.

A model's classes are a tuple of distinct names in index order, or () where they have none. What a label column holds:

- whole numbers that begin at 0 are indexes, and the classes have no names;
- anything else is names: texts, or whole numbers that do not begin at 0, as 1-based labels do not. They are sorted, by
  value when all are whole numbers and else by code point, so the same labels give the same classes in any order;
- with a *declared* list its names fix the order. A label is one of them; or an index, unless a declared name is itself
  a whole number: "1" would then mean two things. No other rows are needed to read one, so every device of a fleet
  reads its own file alike.

Free of I/O and of NumPy.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from edgefl.errors import ConfigError, DataError, EdgeFLError
from edgefl.types import MAX_CLASSES, check_kind
from edgefl.wording import suggestion

MAX_NAME_BYTES = 128
"""Of one name in UTF-8. The longest names of public data sets have about 120; 4096 of them are half a megabyte of a
plan, whose message may have four."""

_WHOLE = re.compile(r"-?[0-9]{1,18}")

_SHOWN = 8
"""Of a list of classes in an error."""


def check_classes(classes: Sequence[str], num_classes: int, error: type[EdgeFLError] = ConfigError) -> None:
    """Refuse, by ``error``, what cannot be the names of ``num_classes`` classes, which () always can."""
    check_kind("classes", classes, tuple, "a tuple of names in index order")
    for index, name in enumerate(classes):
        check_kind(f"classes[{index}]", name, str, "a name as text")
        if not name or name != name.strip() or not name.isprintable():
            raise error(f"classes[{index}] is {name!r}; expected printable text, without blanks at its ends")
        if len(name.encode()) > MAX_NAME_BYTES:
            raise error(f"classes[{index}] is {name[:20]!r}...; expected at most {MAX_NAME_BYTES} bytes of UTF-8")
    if len(set(classes)) != len(classes):
        twice = next(name for index, name in enumerate(classes) if name in classes[:index])
        raise error(f"classes has {twice!r} twice; expected distinct names")
    if classes and len(classes) != num_classes:
        raise error(f"classes has {len(classes)} names and num_classes is {num_classes}; expected as many")


def class_name(classes: Sequence[str], index: int) -> str:
    """What to show for a class: its name, or its index where it has none."""
    return classes[index] if index < len(classes) else str(index)


def infer_classes(labels: Mapping[str, str]) -> tuple[str, ...]:
    """The classes that the distinct values of a label column stand for, as above; () when they are indexes.

    ``labels`` has for each value the place where it stands first, as "mine.csv, line 7, column 'label'".
    Raises ``DataError`` for what is neither: empty texts, fractions, and numbers mixed with texts, where one is a
    mistake.
    """
    whole = {label for label in labels if _WHOLE.fullmatch(label)}
    for label, where in labels.items():
        if label in whole:
            continue
        if not label or _is_number(label):
            raise DataError(f"{where} is {label!r}; expected a whole number, or a name")
        if whole:
            other = next(iter(whole))
            raise DataError(
                f"{where} is {label!r}, and {labels[other]} is {other!r}; expected whole numbers, or names, or a "
                "declared list of classes"
            )
    if not whole:
        return tuple(sorted(labels))
    if min(map(int, whole)) == 0:
        return ()
    return tuple(sorted(whole, key=lambda label: (int(label), label)))


def class_index(label: str, classes: Sequence[str], where: str) -> int:
    """The index of ``label`` in a declared, non-empty list, as above.

    Raises ``DataError``, which begins with ``where`` (as "mine.csv, line 7, column 'label'"), with the nearest name.
    """
    if label in classes:
        return classes.index(label)
    numbered = any(_WHOLE.fullmatch(name) for name in classes)
    if not numbered and label.isascii() and label.isdigit() and len(label) <= len(str(MAX_CLASSES)):
        if int(label) < len(classes):
            return int(label)
        raise DataError(f"{where} is {label!r}; expected an index from 0 to {len(classes) - 1}, or {listed(classes)}")
    raise DataError(f"{where} is {label!r}; {expected_name(label, classes)}")


def expected_name(name: str, classes: Sequence[str]) -> str:
    """The end of an error about an unknown name: the nearest one, or the list."""
    near = suggestion(name, classes)
    return f"{near} The classes are {listed(classes)}" if near else f"expected {listed(classes)}"


def listed(classes: Sequence[str]) -> str:
    """The classes for an error, cut when they are many."""
    shown = ", ".join(map(repr, classes[:_SHOWN]))
    return shown if len(classes) <= _SHOWN else f"{shown}, ... ({len(classes)} classes)"


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
