"""What a label means: a class's name where names are declared, else its number.

A text that is a declared name is that class. A whole number is a class's number, from 0, unless names that are
whole numbers are declared: then each text is a name, so that classes called 1, 2 and 3 are never taken for numbers.
"""

from __future__ import annotations

from edgefl.csv_rows import parse_whole
from edgefl.errors import DataError
from edgefl_device.config import ExampleSpec


def parse_label(text: str, spec: ExampleSpec, where: str) -> int:
    """The class of a label written as text. Raises ``DataError`` at ``where``, with the nearest name."""
    text = text.strip()
    if text in spec.classes:
        return spec.classes.index(text)
    number = _is_number(text)
    if spec.classes and (not number or any(map(_is_number, spec.classes))):
        import difflib  # for this error alone

        near = difflib.get_close_matches(text, spec.classes, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"expected one of {', '.join(spec.classes)[:200]}"
        raise DataError(f"{where} is {text!r}, which is not one of the classes; {hint}")
    try:
        return parse_whole(text, where, 0, spec.num_classes - 1)
    except DataError as error:
        if spec.classes:
            raise
        raise DataError(f"{error}; if labels are names, declare them: classes = [...] in [examples]") from None


def class_name(label: int, spec: ExampleSpec) -> str:
    """The name of a class, or its number where names are not declared."""
    return spec.classes[label] if spec.classes else str(label)


def _is_number(text: str) -> bool:
    return text.isascii() and text.removeprefix("-").isdigit()
