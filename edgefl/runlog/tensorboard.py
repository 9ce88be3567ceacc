"""TensorBoard event files: the scalars of each task in a folder of its own, so that tasks share their charts."""

from __future__ import annotations

import os
from pathlib import Path

from tensorboardX import SummaryWriter

from edgefl.errors import StorageError
from edgefl.protocol.events import Phase, RoundSummary
from edgefl.runlog.reading import by_client, learned, place

FLUSH_S = 1
"""A killed run loses at most the scalars of so many seconds."""


class EventFiles:
    """Writes ``FOLDER/TASK/events.*``; the step of a scalar is the ``place`` of its round.

    ``resumed``: all rounds come again, and TensorBoard is told to forget those of the earlier files.
    """

    def __init__(self, folder: Path, *, resumed: bool) -> None:
        self._folder = folder
        self._resumed = resumed
        self._writers: dict[str, SummaryWriter] = {}

    def note(self, summary: RoundSummary, seconds: float) -> None:
        scalars: dict[str, float] = {
            "reports": summary.accepted,
            "failures": summary.failed,
            "abandoned": summary.phase is Phase.ABANDONED,
            "seconds": seconds,
        }
        metrics = learned(summary)
        if metrics is not None:
            scalars |= {"accuracy": metrics.accuracy, "loss": metrics.mean_loss, **by_client(metrics)}
            if metrics.gains is not None:
                scalars |= {"accuracy_before": metrics.accuracy_before, "mean_gain": metrics.mean_gain}
        for name, value in scalars.items():
            self._writer(summary.task).add_scalar(name, float(value), place(summary))

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()

    def _writer(self, task: str) -> SummaryWriter:
        """Opened by the task's first round: a run that is refused before it hides nothing of another."""
        if task not in self._writers:
            path = self._folder / task
            try:
                self._writers[task] = SummaryWriter(
                    str(path),
                    purge_step=0 if self._resumed else None,
                    flush_secs=FLUSH_S,
                    # The library names files by the second: a run and the one that resumes it must not share one.
                    filename_suffix=f".{os.getpid()}",
                )
            except OSError as error:
                raise StorageError(f"{path}: cannot be written: {error.strerror}; choose another folder") from None
        return self._writers[task]
