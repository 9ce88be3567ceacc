"""What a person sees while the demo runs, and the table at its end."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from edgefl.cli.fleet.following import Follower

PICTURE_WIDTH = 104
"""Columns of the picture: the longest line of the end fits."""

PLAIN_STEP = 10
"""Without a terminal one line is printed every so many rounds."""


@dataclass(frozen=True)
class Row:
    """One line of the table of accuracies: on own windows and on everyone's; ``own`` is a mean over people."""

    name: str
    own: float
    everyone: float


class Display:
    """Steps as lines; rounds as live bars on a terminal and as plain lines elsewhere; the end also as a picture."""

    def __init__(self) -> None:
        self.console = Console()

    def finish(self, picture: Path, show: Callable[[Console], None]) -> None:
        """Show the end, here and in the SVG file ``picture``."""
        show(self.console)
        recorder = Console(record=True, file=io.StringIO(), width=PICTURE_WIDTH, force_terminal=True)
        recorder.print("$ make demo\n", highlight=False)
        show(recorder)
        svg = recorder.export_svg(title="make demo", unique_id="edgefl-demo")
        # Without rich's web fonts: a picture that is looked at must not call anybody.
        picture.write_text(re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL))

    def step(self, text: str) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    @contextmanager
    def rounds(self, followers: Sequence[Follower]) -> Iterator[Bars]:
        progress = Progress(
            TextColumn("{task.description:<22}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            console=self.console,
            disable=not self.console.is_terminal,
        )
        bars = {f.task: progress.add_task(f.task, total=f.wanted, note="") for f in followers}
        with progress:
            yield Bars(self.console, progress, bars)


class Bars:
    def __init__(self, console: Console, progress: Progress, bars: dict[str, TaskID]) -> None:
        self._console = console
        self._progress = progress
        self._bars = bars
        self._printed = dict.fromkeys(bars, 0)

    def update(self, follower: Follower) -> None:
        rounds = follower.in_order()
        note = ""
        if follower.shows and rounds and rounds[-1].metrics is not None:
            metrics = rounds[-1].metrics
            note = f"{follower.shows} accuracy {metrics.accuracy:.3f}  loss {metrics.mean_loss:.3f}"
        self._progress.update(self._bars[follower.task], completed=len(rounds), note=note)
        new = len(rounds) // PLAIN_STEP
        if self._progress.disable and (new > self._printed[follower.task]):
            self._printed[follower.task] = new
            self._console.print(f"{follower.task}: round {len(rounds)} of {follower.wanted}  {note}", highlight=False)

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False)


def print_accuracies(console: Console, people: Sequence[Row], rows: Sequence[Row]) -> None:
    """Each person alone, then the means: alone is best on one's own windows and poor on everyone's."""
    table = Table(title="accuracy on held-out windows", title_justify="left")
    table.add_column("trained by")
    table.add_column("on own windows", justify="right")
    table.add_column("on everyone's", justify="right")
    for row in people:
        table.add_row(f"{row.name} alone", f"{row.own:.3f}", f"{row.everyone:.3f}")
    table.add_section()
    for row in rows:
        table.add_row(row.name, f"{row.own:.3f}", f"{row.everyone:.3f}")
    console.print(table)


def print_costs(console: Console, costs: Sequence[tuple[str, str]]) -> None:
    for name, value in costs:
        console.print(f"[bold]{name:<12}[/bold] {value}", highlight=False, soft_wrap=True)


def plot_accuracy(path: Path, by_round: Sequence[float], alone: float, pooled: float) -> None:
    """Accuracy by round, with the two baselines as lines; SVG."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "edgefl"  # the same figures give the same file
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    axes.plot(range(1, len(by_round) + 1), by_round, color="#1f77b4", linewidth=2, label="federated")
    axes.axhline(pooled, color="#2ca02c", linestyle="--", label="all data pooled")
    axes.axhline(alone, color="#d62728", linestyle=":", label="one person alone (mean)")
    axes.set_xlabel("round")
    axes.set_ylabel("accuracy on everyone's held-out windows")
    axes.set_ylim(min(*by_round, alone) - 0.05, 1.0)
    axes.grid(alpha=0.3)
    axes.legend(loc="center right")
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)
