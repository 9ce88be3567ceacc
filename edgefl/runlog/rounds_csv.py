"""``rounds.csv``: one line for each round that ended, written and flushed when it ends (RFC 4180, UTF-8).

``COLUMNS`` are stable: new ones are added at the end. A value that a round does not have is empty. Numbers are written
so that they read back as the same binary64.

Invariant: a run that is killed leaves whole lines, and at most a torn last one, which a resumed run removes. A resumed
run keeps the lines that are there (a round that is worked again gives the same line, but for its seconds).
"""

from __future__ import annotations

import csv
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

from edgefl.errors import ConflictError, StorageError
from edgefl.files import lock
from edgefl.protocol.events import RoundSummary
from edgefl.protocol.process import ClientAccuracies
from edgefl.protocol.task import TaskSpec
from edgefl.runlog.reading import by_client, learned

_BY_CLIENT = tuple(f"accuracy_{field.name}" for field in dataclasses.fields(ClientAccuracies))

COLUMNS = (
    "task",
    "kind",
    "round",
    "phase",
    "version",
    "accuracy",
    "mean_loss",
    "num_examples",
    "reports",
    "failures",
    "cohort",
    "goal",
    "accuracy_before",
    "mean_gain",
    "seconds",
    "reason",
    *_BY_CLIENT,
    "base_version",
)
"""What each means: docs/guide.md."""

_SECONDS = COLUMNS.index("seconds")


class RoundsCsv:
    """Appends one line per round. ``resumed``: an existing file is continued; else it must not be there."""

    def __init__(self, path: Path, specs: Sequence[TaskSpec], *, resumed: bool) -> None:
        self._path = path
        self._kinds = {spec.name: spec.kind.value for spec in specs}
        self._there: dict[tuple[str, str], list[str]] = {}
        going_on = resumed and path.exists()
        if path.parent.exists() and not path.parent.is_dir():
            raise StorageError(f"{path.parent} is not a folder; choose another one for --log")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a" if going_on else "x", encoding="utf-8", newline="")
        except FileExistsError:
            raise ConflictError(f"{path} exists, the log of another run; choose another folder for --log") from None
        except OSError as error:
            raise self._unwritable(error) from None
        try:
            lock(self._file, path)
            if going_on:
                self._keep_whole_lines()
            else:
                self._append(list(COLUMNS))
        except BaseException as error:
            self._file.close()
            if isinstance(error, OSError):
                raise self._unwritable(error) from None
            raise

    def note(self, summary: RoundSummary, seconds: float) -> None:
        row = self._row(summary, seconds)
        there = self._there.get((summary.task, str(summary.round_num)))
        try:
            if there is None:
                self._append(row)
            elif _but_seconds(there) != _but_seconds(row):
                raise ConflictError(
                    f"{self._path} has another round {summary.round_num} of task {summary.task!r}, so it is the log "
                    "of another run; choose another folder for --log"
                )
        except OSError as error:
            raise self._unwritable(error) from None

    def close(self) -> None:
        self._file.close()

    def _row(self, summary: RoundSummary, seconds: float) -> list[str]:
        metrics, found = summary.metrics, learned(summary)
        clients = by_client(found) if found is not None else {}
        gained = found if found is not None and found.gains is not None else None
        return [
            summary.task,
            self._kinds[summary.task],
            str(summary.round_num),
            summary.phase.value,
            str(summary.version) if metrics is not None else "",
            repr(found.accuracy) if found is not None else "",
            repr(found.mean_loss) if found is not None else "",
            str(metrics.num_examples) if metrics is not None else "",
            str(summary.accepted),
            str(summary.failed),
            str(summary.cohort),
            str(summary.goal),
            repr(gained.accuracy_before) if gained is not None else "",
            repr(gained.mean_gain) if gained is not None else "",
            f"{seconds:.6f}",
            summary.reason,
            *(repr(clients[name]) if clients else "" for name in _BY_CLIENT),
            str(summary.base_version) if summary.cohort else "",
        ]

    def _append(self, row: list[str]) -> None:
        # One write of a whole line: what a kill leaves can be told apart from what it tore.
        self._file.write(_line(row))
        self._file.flush()

    def _keep_whole_lines(self) -> None:
        """Cut a torn last line off, and read the rounds that are there."""
        raw = self._path.read_bytes()
        whole = raw[: raw.rfind(b"\n") + 1]
        head = _line(list(COLUMNS)).encode()
        if not whole:
            whole = head
            self._path.write_bytes(whole)
        elif len(whole) < len(raw):
            with self._path.open("r+b") as file:
                file.truncate(len(whole))
        if not whole.startswith(head):
            raise ConflictError(f"{self._path} has other columns than this version writes; choose another folder")
        for row in list(csv.reader(io.StringIO(whole.decode("utf-8", "replace"), newline="")))[1:]:
            if len(row) == len(COLUMNS):
                self._there[(row[0], row[2])] = row

    def _unwritable(self, error: OSError) -> StorageError:
        return StorageError(f"{self._path}: cannot be written: {error.strerror}; choose another folder for --log")


def _line(row: list[str]) -> str:
    text = io.StringIO(newline="")
    # "\n" in a reason would look like a line's end to one who counts lines, and to the search for a torn one.
    csv.writer(text, lineterminator="\n").writerow([cell.replace("\n", " ").replace("\r", " ") for cell in row])
    return text.getvalue()


def _but_seconds(row: list[str]) -> list[str]:
    return next(csv.reader([_line(row[:_SECONDS] + row[_SECONDS + 1 :])]))
