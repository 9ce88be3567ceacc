"""What the demo says at its end: three figures, what was killed and lost, what moved, one sentence, what to type next.

Every sentence is made from the report. "Nothing was lost" is said only after the digests were compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.align import Align
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from edgefl.demo.charts import large
from edgefl.demo.report import Report
from edgefl.errors import VerificationError

PANEL_COLUMNS = 26
"""Three figures next to each other fit into 80 columns."""

PANEL_LINES = 10

COUNTS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")


@dataclass(frozen=True)
class Figure:
    title: str
    accuracy: float
    sentence: str
    style: str


def figures(report: Report) -> tuple[Figure, ...]:
    """The three that matter: all on the windows of other people, which no model was trained on."""
    people = _count(report.devices)
    return (
        Figure(
            "alone",
            report.accuracies.alone_others,
            "One person's own model, trained on their data only.",
            "red",
        ),
        Figure(
            "federated",
            report.accuracies.federated_others,
            f"One model that all {people} train. No data leaves its device.",
            "green",
        ),
        Figure(
            "all data in one place",
            report.accuracies.pooled_others,
            f"The model that all {people} would get by giving their data away.",
            "cyan",
        ),
    )


def nothing_lost(report: Report) -> str:
    """Says that nothing was lost, or raises ``VerificationError``: the model must be that of an undisturbed run."""
    if report.model_sha256 != report.undisturbed_sha256:
        raise VerificationError(
            f"the model's SHA-256 is {report.model_sha256}; a run in which nothing dies gives "
            f"{report.undisturbed_sha256} from the same data; expected the same (report.json has all figures)"
        )
    return "nothing was lost: the model is, bit for bit, that of a run in which nothing died"


def sentences(report: Report) -> tuple[tuple[str, str], ...]:
    """The story in three sentences, each with its heading."""
    own = f"alone {report.accuracies.alone_own:.2f}, federated {report.accuracies.federated_own:.2f}"
    better_own = report.accuracies.alone_own > report.accuracies.federated_own
    if better_own and report.accuracies.alone_others < report.accuracies.federated_others:
        own += "; alone is better there, and only there"
    killed = " and ".join(f"{one.process} in round {one.round}" for one in report.killed)
    moved = (
        f"nobody's data: {_size(report.example_bytes)} of examples stayed on {_count(report.devices)} devices; "
        f"{_size(report.update_bytes)} of model updates were sent ({report.updates:,} updates)"
    )
    return (
        ("own data", own),
        ("killed", f"{killed or 'no process'}; {nothing_lost(report)}"),
        ("moved", moved),
    )


def tell(console: Console, report: Report, command: str, out: Path, *, plain: bool, verbose: bool) -> None:
    """The end, on a console of any width; ``plain`` for one without a person in front of it."""
    story = sentences(report)
    console.print("[bold]How often is a model right about someone else's movements?[/bold]", highlight=False)
    wide = console.width >= 3 * PANEL_COLUMNS + 2 and not plain and not console.options.ascii_only
    if wide:
        console.print(Columns([_as_panel(figure) for figure in figures(report)], padding=(0, 1)))
    else:
        console.print(_as_lines(report), highlight=False)
    console.print()
    lines = Table.grid(padding=(0, 2, 0, 0))
    for name, text in story:
        lines.add_row(Text(name, style="bold"), text)
    console.print(lines, highlight=False)
    if verbose:
        console.print()
        console.print(_people(report))
        console.print()
        console.print(_details(report), highlight=False)
    console.print()
    devices = _count(report.devices).capitalize()
    console.print(f"[bold]{devices} people trained one model together, and each kept their data.[/bold]")
    console.print()
    console.print(f"next, with your own data:   [bold green]{command} new your.csv[/bold green]", highlight=False)
    console.print(
        f"figures: {out}/report.json   model: {report.model_path}   took {report.seconds:.0f} s",
        highlight=False,
        soft_wrap=True,
    )


def _as_panel(figure: Figure) -> RenderableType:
    digits = Text(large(f"{figure.accuracy:.2f}"), style=f"bold {figure.style}")
    inside = Group("", Align.center(digits), "", Text(figure.sentence))
    return Panel(inside, title=figure.title, border_style=figure.style, width=PANEL_COLUMNS, height=PANEL_LINES)


def _as_lines(report: Report) -> Table:
    table = Table.grid(padding=(0, 2, 0, 0))
    for figure in figures(report):
        table.add_row(f"{figure.accuracy:.2f}", figure.title, figure.sentence)
    return table


def _people(report: Report) -> Table:
    """Each person's accuracies, own and others' side by side, with the means in the last line."""
    table = Table(
        box=None, padding=(0, 2, 0, 0), pad_edge=False, title="right answers on held-out windows", title_justify="left"
    )
    table.add_column("person", no_wrap=True)
    for name in ("alone\non own", "alone\non others'", "federated\non own", "federated\non others'"):
        table.add_column(name, justify="right", overflow="fold")
    for person in report.people:
        values = (person.alone_own, person.alone_others, person.federated_own, person.federated_others)
        table.add_row(person.name, *(f"{value:.3f}" for value in values))
    means = (
        report.accuracies.alone_own,
        report.accuracies.alone_others,
        report.accuracies.federated_own,
        report.accuracies.federated_others,
    )
    table.add_row("mean", *(f"{value:.3f}" for value in means), style="bold")
    return table


def _details(report: Report) -> Table:
    agent, server = report.agent_peak_rss_bytes / 1e6, report.server_peak_rss_bytes / 1e6
    table = Table.grid(padding=(0, 2, 0, 0))
    for name, value in (
        ("up", f"{report.bytes_up_per_report:,.0f} bytes per training report"),
        ("down", f"{report.bytes_down_per_round:,.0f} bytes per round with its evaluation, to one device"),
        ("peak memory", f"agent {agent:.1f} MB, server {server:.1f} MB"),
        ("model", f"SHA-256 {report.model_sha256}"),
        ("undisturbed", f"SHA-256 {report.undisturbed_sha256}"),
        ("TFLite", f"within {report.tflite_max_abs_diff:.1e} of the kernel's probabilities"),
        ("prediction", report.prediction),
    ):
        table.add_row(Text(name, style="bold"), Text(value, overflow="fold"))
    return table


def _count(number: int) -> str:
    return COUNTS[number] if number < len(COUNTS) else str(number)


def _size(size_bytes: int) -> str:
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.0f} kB"
