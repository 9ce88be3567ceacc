"""What the commands print: tables for people, JSON lines for programs."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from edgefl.command import one_line

MAX_TABLE_WIDTH = 10_000
"""Far above every row of ours; bounds what a text from the other side makes of a table."""


def print_table(
    columns: Sequence[str], rows: Iterable[Sequence[object]], empty: str, *, right_from: int | None = None
) -> None:
    """A table of texts on stdout; ``empty`` when there is no row. Columns from ``right_from`` on stand right."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    # Text: a cell may come from a device, and is neither markup nor for the terminal to obey.
    cells = [[Text(one_line(str(cell))) for cell in row] for row in rows]
    if not cells:
        print(empty)
        return
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index, column in enumerate(columns):
        right = right_from is not None and index >= right_from
        table.add_column(Text(one_line(column)), no_wrap=True, justify="right" if right else "left")
    for row in cells:
        table.add_row(*row)
    console = Console()
    # As wide as its cells, whatever reads it: a digest that is cut is useless.
    needed = console.measure(table, options=console.options.update(max_width=MAX_TABLE_WIDTH)).maximum
    console.width = max(console.width, needed)
    console.print(table, crop=False)


@contextlib.contextmanager
def progress_bar(title: str) -> Iterator[Callable[[int, int], None]]:
    """``show(done, total)`` while long work goes on: a bar where stderr is a terminal, nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_json(value: dict[str, Any]) -> None:
    print(json.dumps(value, sort_keys=True), flush=True)
