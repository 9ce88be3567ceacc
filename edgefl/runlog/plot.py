"""``rounds.png``: accuracy and loss by round, each task a line. Drawn when the run ends; none without an accuracy."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from edgefl.files import write_file
from edgefl.protocol.events import RoundSummary
from edgefl.protocol.task import TaskSpec
from edgefl.runlog.reading import learned, place


class Plot:
    """Collects two numbers per round; matplotlib is imported when there is something to draw."""

    def __init__(self, path: Path, specs: Sequence[TaskSpec]) -> None:
        self._path = path
        self._points: dict[str, list[tuple[int, float, float]]] = {spec.name: [] for spec in specs}

    def note(self, summary: RoundSummary, seconds: float) -> None:  # noqa: ARG002
        metrics = learned(summary)
        if metrics is not None:
            self._points[summary.task].append((place(summary), metrics.accuracy, metrics.mean_loss))

    def close(self) -> None:
        drawn = {task: points for task, points in self._points.items() if points}
        if not drawn:
            return
        # Without pyplot: no figure is global, and no display is looked for.
        from matplotlib.figure import Figure

        figure = Figure(figsize=(10, 4), layout="constrained")
        for column, name in enumerate(("accuracy", "mean loss"), start=1):
            axes = figure.add_subplot(1, 2, column)
            for task, points in drawn.items():
                rounds, values = [point[0] for point in points], [point[column] for point in points]
                axes.plot(rounds, values, marker="." if len(points) < 50 else None, label=task)
            axes.set_xlabel("round")
            axes.set_ylabel(name)
            axes.grid(alpha=0.3)
            axes.legend()
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=120)  # by Agg
        write_file(self._path, image.getvalue())
