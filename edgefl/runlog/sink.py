"""The interface of a sink, and the log of a run: all its sinks behind one call."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from edgefl.console.installed import need_packages
from edgefl.protocol.events import RoundSummary
from edgefl.protocol.task import TaskSpec


class Sink(Protocol):
    """Is told every round that was committed or abandoned, in order, and that the run is over."""

    def note(self, summary: RoundSummary, seconds: float) -> None:
        """``seconds`` passed since the round before it ended, of whatever task, or since the run began."""
        ...

    def close(self) -> None:
        """The run is over, by its end or by an error. Called once, nothing after it."""
        ...


class RunLog:
    """Hands each round to all sinks; ``clock`` gives monotonic seconds."""

    def __init__(self, sinks: Sequence[Sink], clock: Callable[[], float] = time.monotonic) -> None:
        self._sinks = sinks
        self._clock = clock
        self._last = clock()

    def note(self, summary: RoundSummary) -> None:
        now = self._clock()
        seconds, self._last = now - self._last, now
        for sink in self._sinks:
            sink.note(summary, seconds)


@contextlib.contextmanager
def open_run_log(
    specs: Sequence[TaskSpec],
    folder: Path | None,
    *,
    live: bool,
    classes: tuple[str, ...] = (),
    resumed: bool = False,
) -> Iterator[RunLog]:
    """The log of a run of these tasks: bars where ``live`` and stderr is a terminal, files where ``folder`` is given.

    ``classes``: the names of the data's classes; () where they have none.
    ``resumed``: the rounds of an earlier run come again first, and ``folder`` may hold its files; they are continued.
    Raises ``ConfigError`` for a missing package, ``ConflictError`` for a folder with the log of another run, and
    ``StorageError`` for one that cannot be written.
    """
    with contextlib.ExitStack() as stack:
        sinks: list[Sink] = []

        def add(sink: Sink) -> None:
            stack.callback(sink.close)
            sinks.append(sink)

        if folder is not None:
            need_packages("--log", "tensorboardX", "matplotlib")
            from edgefl.runlog.confusion_csv import ConfusionCsv
            from edgefl.runlog.plot import Plot
            from edgefl.runlog.rounds_csv import RoundsCsv
            from edgefl.runlog.tensorboard import EventFiles

            add(RoundsCsv(folder / "rounds.csv", specs, resumed=resumed))
            add(EventFiles(folder / "tensorboard", resumed=resumed))
            add(ConfusionCsv(folder / "confusion.csv", classes))
            add(Plot(folder / "rounds.png", specs))
        if live and sys.stderr.isatty():
            from edgefl.runlog.bars import Bars

            add(Bars(specs))
        yield RunLog(sinks)
