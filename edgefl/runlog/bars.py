"""Live bars on stderr: a line for each task, with how far it is and what its last round found."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from edgefl.protocol.events import RoundSummary
from edgefl.protocol.task import TaskSpec
from edgefl.runlog.reading import learned


class Bars:
    """A bar counts committed versions: abandoned rounds bring a task no further."""

    def __init__(self, specs: Sequence[TaskSpec], console: Console | None = None) -> None:
        self._progress = Progress(
            TextColumn("{task.description:<20}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            TimeElapsedColumn(),
            console=console or Console(stderr=True),
            # The table at the end says more than full bars do.
            transient=True,
            # Lines go above the bars on one terminal; in a file or a pipe stdout stays what it is.
            redirect_stdout=sys.stdout.isatty(),
        )
        self._bars = {s.name: self._progress.add_task(s.name, total=s.rounds, note="") for s in specs}
        self._progress.start()

    def note(self, summary: RoundSummary, seconds: float) -> None:  # noqa: ARG002
        bar = self._bars[summary.task]
        if summary.metrics is None:
            self._progress.update(bar, note=f"round {summary.round_num} was abandoned")
            return
        found = learned(summary)
        note = "" if found is None else f"accuracy {found.accuracy:.4f}  loss {found.mean_loss:.4f}"
        self._progress.update(bar, completed=summary.version, note=note)

    def close(self) -> None:
        self._progress.stop()
