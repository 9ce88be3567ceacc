"""What the labels of a device's files mean: names of the declared classes, else numbers from 0 (``edgefl.classes``)."""

from __future__ import annotations

from edgefl.classes import class_index
from edgefl.csv_rows import parse_whole
from edgefl.errors import DataError
from edgefl_device.config import ExampleSpec


class Labels:
    """The labels of a store, each looked up once."""

    def __init__(self, spec: ExampleSpec) -> None:
        self._spec = spec
        self._known: dict[str, int] = {}

    def index(self, text: str, where: str) -> int:
        """The class of a label written as text. Raises ``DataError`` at ``where``, with the nearest name."""
        found = self._known.get(text)
        if found is None:
            found = self._known[text] = self._parse(text.strip(), where)
        return found

    def _parse(self, text: str, where: str) -> int:
        if self._spec.classes:
            return class_index(text, self._spec.classes, where)
        try:
            return parse_whole(text, where, 0, self._spec.num_classes - 1)
        except DataError as error:
            raise DataError(
                f"{error}; if labels are names, declare them in their order: classes = [...] in [examples] of the "
                "device's file"
            ) from None
