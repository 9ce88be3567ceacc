"""``confusion.csv``: which classes were taken for which in the last round of each task that counts answers by class.

A line for each pair that occurs (RFC 4180, UTF-8). Written in one step when the run ends, also when it fails; none
without such a round.
"""

from __future__ import annotations

import csv
import io
from pathlib import Path

from edgefl.files import write_file
from edgefl.protocol.events import RoundSummary
from edgefl.runlog.reading import last_confusion

COLUMNS = ("task", "round", "true", "predicted", "examples")
"""What each means: docs/guide.md."""


class ConfusionCsv:
    """Keeps the last round of each task that has counts. ``classes``: their names; () where they have none."""

    def __init__(self, path: Path, classes: tuple[str, ...]) -> None:
        self._path = path
        self._classes = classes
        self._last: dict[str, RoundSummary] = {}

    def note(self, summary: RoundSummary, seconds: float) -> None:  # noqa: ARG002
        if last_confusion((summary,), ()) is not None:
            self._last[summary.task] = summary

    def close(self) -> None:
        if not self._last:
            return
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS)
        for task, summary in self._last.items():
            found = last_confusion((summary,), self._classes)
            if found is None:
                continue
            names, size = found[1].names, found[1].num_classes
            for index, count in enumerate(found[1].counts):
                if count:
                    writer.writerow((task, summary.round_num, names[index // size], names[index % size], count))
        write_file(self._path, text.getvalue().encode())
