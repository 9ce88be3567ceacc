"""Where the demo's words go: a live view on a terminal, lines elsewhere, and the end also as a picture."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.live import Live

from edgefl.demo.report import Accuracies
from edgefl.demo.view import View

PICTURE_COLUMNS = 80
"""As a terminal has them."""

PLAIN_STEP = 10
"""Without a terminal one line is printed every so many rounds."""

FRAMES_PER_SECOND = 8
"""Enough to see devices at work; more would only cost the fleet its processor."""


class Display:
    """``words`` is the console: of stderr where stdout is for a program.

    ``plain``: nobody watches, or the terminal cannot move its cursor; then there are lines instead of a view.
    """

    def __init__(self, *, to_stderr: bool) -> None:
        self.words = Console(stderr=to_stderr)
        self.plain = not self.words.is_terminal or self.words.is_dumb_terminal
        self._printed = 0

    @contextmanager
    def live(self, view: View) -> Iterator[None]:
        """Draw ``view`` until the end of the block; its last state stays on the screen."""
        if self.plain:
            self.line(view.title)
            yield
            return
        with Live(view, console=self.words, refresh_per_second=FRAMES_PER_SECOND, vertical_overflow="crop"):
            yield

    def line(self, text: str) -> None:
        """A line for those who do not see the view."""
        if self.plain:
            self.words.print(text, highlight=False, soft_wrap=True)

    def rounds(self, view: View) -> None:
        """The curve has grown."""
        new = len(view.curve) // PLAIN_STEP
        if new > self._printed:
            self._printed = new
            self.line(f"round {len(view.curve)} of {view.rounds}: accuracy {view.curve[-1]:.3f} on held-out data")


def draw(picture: Path, command: str, view: View, end: Callable[[Console], None]) -> None:
    """The last state of ``view`` and the end as an SVG file."""
    recorder = Console(record=True, file=io.StringIO(), width=PICTURE_COLUMNS, height=60, force_terminal=True)
    recorder.print(f"$ {command}\n", highlight=False)
    recorder.print(view)
    end(recorder)
    svg = recorder.export_svg(title=command, unique_id="edgefl-demo")
    # Without rich's web fonts: a picture that is looked at must not call anybody.
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)
    picture.write_text(_BLOCKS.sub(_as_rectangles, svg))


_BLOCKS = re.compile(
    r'<text class="([^"]+)" x="([^"]+)" y="([^"]+)"[^>]*>((?:&#160;|[▀-█])*[▀-█](?:&#160;|[▀-█])*)</text>'
)
"""Where rich's picture has nothing but block characters."""

CELL = (12.2, 24.4)
"""Columns and lines of rich's picture in its units, and where a line begins above its letters' foot."""

FOOT = 18.5


def _as_rectangles(run: re.Match[str]) -> str:
    """The blocks as shapes: as letters they leave gaps, which are as large as the reader's font wants them."""
    style, x, y, text = run.groups()
    (width, height), rectangles, column = CELL, [], 0
    for same in re.finditer(r"(.)\1*", text.replace("&#160;", " ")):
        block, count = same[1], len(same[0])
        if block != " ":
            part = 0.5 if block == "▀" else (ord(block) - ord("▀")) / 8
            top = float(y) - FOOT + (0 if block == "▀" else height * (1 - part))
            rectangles.append(
                f'<rect class="{style}" shape-rendering="crispEdges" x="{float(x) + column * width:.1f}" y="{top:.2f}" '
                f'width="{count * width:.1f}" height="{height * part + 0.3:.2f}"/>'
            )
        column += count
    return "".join(rectangles)


def plot_accuracy(path: Path, found: Accuracies) -> None:
    """Accuracy by round, with the two baselines as lines; SVG."""
    alone, pooled, by_round = found.alone_others, found.pooled_others, found.by_round
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "edgefl"  # the same figures give the same file
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    axes.plot(range(1, len(by_round) + 1), by_round, color="#1f77b4", linewidth=2, label="federated")
    axes.axhline(pooled, color="#2ca02c", linestyle="--", label="all data in one place")
    axes.axhline(alone, color="#d62728", linestyle=":", label="one person alone, on the others' data (mean)")
    axes.set_xlabel("round")
    axes.set_ylabel("accuracy on held-out windows")
    axes.set_ylim(min(*by_round, alone) - 0.05, 1.0)
    axes.grid(alpha=0.3)
    axes.legend(loc="center right")
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    plt.close(figure)
