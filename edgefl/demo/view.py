"""The live view: what the server and each device do now, the curve as it grows, and what happened.

One ``View`` is drawn again and again, in a thread of rich's, from what the demo writes into it. It fits into 80 columns
and 24 lines; where there are fewer, the curve becomes one line, and then the devices go.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from rich.console import Console, ConsoleOptions, RenderableType
from rich.table import Table
from rich.text import Text

from edgefl.demo.charts import area, sparkline
from edgefl.demo.kills import Kill

WIDE = 76
"""Columns from which the curve stands next to the devices."""

TALL = 22
"""Lines from which the devices are shown; ten of them, the curve and three events need these."""

FLEET_COLUMNS = 46
MAX_CURVE_COLUMNS = 60
MARGIN = 0.15
"""The curve's foot is so far below its lowest value or mark."""

ALONE, POOLED = "red", "cyan"
"""Colours of the two marks that the curve is held against."""


@dataclass
class Row:
    """A device: whose, how many examples it trains on, what it does now, updates that the server acknowledged."""

    name: str
    examples: int
    now: str = ""
    updates: int = 0


@dataclass
class View:
    """All that is shown. ``alone`` and ``pooled``: accuracies to hold the curve against, once they are known."""

    title: str
    rounds: int
    rows: list[Row] = field(default_factory=list)
    server: str = ""
    round_num: int = 0
    curve: list[float] = field(default_factory=list)
    alone: float | None = None
    pooled: float | None = None
    kills: Sequence[Kill] = ()
    seconds: float | None = None
    started: float = field(default_factory=time.monotonic)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        width, height = options.max_width, console.height
        yield self._head(width)
        yield ""
        yield Text.assemble(("server     ", "bold"), self.server, overflow="crop", no_wrap=True)
        yield ""
        if height < TALL or not self.rows:
            yield self._line(console, width)
        elif width < WIDE:
            yield self._fleet(width)
            yield self._line(console, width)
        else:
            both = Table.grid(padding=(0, 2, 0, 0))
            both.add_column(width=FLEET_COLUMNS)
            both.add_column()
            both.add_row(self._fleet(FLEET_COLUMNS), self._area(console, width - FLEET_COLUMNS - 2))
            yield both
        if any(kill.killed_at is not None for kill in self.kills):
            yield ""
        for kill in self.kills:
            if kill.killed_at is not None:
                yield Text(kill.sentence(), style="yellow")
        # The cursor rests here: at the end of a full line the terminal's echo of Ctrl-C would begin a new one.
        yield ""

    def _head(self, width: int) -> Table:
        seconds = time.monotonic() - self.started if self.seconds is None else self.seconds
        head = Table.grid(expand=True)
        head.add_column(no_wrap=True, overflow="crop")
        head.add_column(justify="right", no_wrap=True)
        where = f"round {self.round_num} of {self.rounds}   {seconds:3.0f} s"
        head.add_row(Text(self.title[: max(8, width - len(where) - 1)], style="bold"), where)
        return head

    def _fleet(self, width: int) -> Table:
        fleet = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
        fleet.add_column("device", no_wrap=True, overflow="crop", width=9)
        if width >= FLEET_COLUMNS:
            fleet.add_column("examples", justify="right", no_wrap=True, overflow="crop", width=8)
        fleet.add_column("now", no_wrap=True, overflow="crop", width=14)
        fleet.add_column("updates", justify="right", no_wrap=True, overflow="crop", width=7)
        for row in self.rows:
            cells = [Text(row.name), Text(row.now, style=_style(row.now)), Text(str(row.updates or ""))]
            if width >= FLEET_COLUMNS:
                cells.insert(1, Text(str(row.examples)))
            fleet.add_row(*cells)
        return fleet

    def _low(self) -> float:
        known = [value for value in (self.alone, *self.curve[:1]) if value is not None]
        return max(0.0, min(known, default=0.5) - MARGIN)

    def _last(self) -> str:
        return f"{self.curve[-1]:.2f}" if self.curve else ""

    def _line(self, console: Console, width: int) -> Text:
        title = f"accuracy {self._last()} "
        bars = sparkline(
            self.curve, self.rounds, max(8, width - len(title) - 1), self._low(), ascii_only=console.options.ascii_only
        )
        return Text.assemble((title, "bold"), (bars, "green"))

    def _area(self, console: Console, width: int) -> Table:
        marks = [(value, style) for value, style in ((self.alone, ALONE), (self.pooled, POOLED)) if value is not None]
        plain = console.options.ascii_only
        size = (min(MAX_CURVE_COLUMNS, width - 5), len(self.rows) - 2)
        table = Table.grid()
        table.add_row(Text.assemble("     ", ("share of right answers ", "bold"), (self._last(), "bold green")))
        for line in area(self.curve, self.rounds, size, self._low(), marks, ascii_only=plain):
            table.add_row(line)
        for value, style, name in (
            (self.alone, ALONE, "alone, on others' data"),
            (self.pooled, POOLED, "all data in one place"),
        ):
            table.add_row("" if value is None else Text.assemble((f"{value:.2f} ", style), name))
        return table


def _style(now: str) -> str:
    if now in ("training", "evaluating", "reporting"):
        return "green"
    return "bold red" if now == "killed" else "bright_black"
