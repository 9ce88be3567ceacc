"""``edgefl simulate --faults``: a user's tasks over a broken fleet: what many runs lost, and how long rounds took.

The first run that breaks an invariant ends it: that run is shrunk, and the command that replays it is named. Nothing
that is printed depends on this machine's clock: the same runs give the same JSON.
"""

from __future__ import annotations

import argparse
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from edgefl.console.output import print_json, print_table
from edgefl.errors import ConfigError, InterruptedByUser, VerificationError
from edgefl.faults.config import FaultsConfig, load_faults
from edgefl.faults.fleet import TaskFleet
from edgefl.faults.run import Failure, Runner, runner
from edgefl.faults.scenario import Kind, all_but, only
from edgefl.faults.tally import Totals
from edgefl.faults.upload import UPLOAD_MESSAGES
from edgefl.inputs.clients import load_clients, options_of
from edgefl.inputs.definitions import changes_of, read_tasks
from edgefl.inputs.initial import check_no_start, with_initial
from edgefl.protocol.task import TaskSpec

RUNS = 100
"""How many when nothing else is asked for: half a minute for the demo's tasks, and each kind of fault many times."""

NOTHING_LOST = "each was counted once, or its round was abandoned"


def simulate_faults(args: argparse.Namespace) -> None:
    """Make the runs and print what they add up to.

    Raises ``VerificationError`` for a run that broke an invariant and ``InterruptedByUser`` after Ctrl-C, both after
    printing; ``ConfigError`` and ``ConflictError`` for what cannot be run, before the first run.
    """
    config = load_faults(Path(args.faults))
    without = () if args.only is None else all_but(args.only)
    definitions, initial = with_initial(read_tasks(args.files, args.set or (), args.seed), args.files)
    tasks = [spec for spec, _ in definitions]
    for spec in tasks:
        check_no_start(spec, "--faults")
    fleet = TaskFleet(tasks, load_clients(args, tasks), config.devices, initial)
    _check_deadlines(tasks, config)
    fleet.rehearse(config.rounds[1])
    seeds = range(args.runs or RUNS) if args.fault_run is None else range(args.fault_run, args.fault_run + 1)
    totals = Totals()
    failure: Failure | None = None
    trace: tuple[str, ...] = ()
    interrupted = False
    with _interrupts() as poll, runner(lambda _: fleet, config, poll) as run, _progress(len(seeds)) as show:
        try:
            failure, trace = _run(run, seeds, without, args.until, totals, show)
        except InterruptedByUser:
            interrupted = True
    _report(args, fleet, len(seeds), totals, failure, trace, interrupted)


Show = Callable[[Totals], None]


def _run(
    run: Runner, seeds: range, without: tuple[Kind, ...], until: float | None, totals: Totals, show: Show
) -> tuple[Failure | None, tuple[str, ...]]:
    """All seeds into ``totals``, or up to the first failure; its trace is of the run that replays it."""
    for seed in seeds:
        world, failure = run.run(seed, without, until)
        if failure is not None:
            totals.add_lost(failure.lost)
            if len(seeds) > 1:
                with suppress(InterruptedByUser):  # what was found is told, if not in its shortest form
                    failure = run.shrunk(failure)
            return failure, failure.trace
        totals.add(world.tally)
        show(totals)
    return None, tuple(world.trace)


def _report(
    args: argparse.Namespace,
    fleet: TaskFleet,
    wanted: int,
    totals: Totals,
    failure: Failure | None,
    trace: tuple[str, ...],
    interrupted: bool,
) -> None:
    done = totals.runs
    replay = "" if failure is None else _replay(args, failure)
    if args.json:
        head = {"runs": done, "wanted": wanted, "devices": len(fleet.members), "interrupted": interrupted}
        print_json({**head, **totals.as_dict(), "failure": None if failure is None else _as_dict(failure, replay)})
    else:
        if args.fault_run is not None:
            print("\n".join(trace), end="\n\n")
        rows = [("runs that kept every promise", f"{done:,} of {wanted:,}"), ("devices", f"{len(fleet.members):,}")]
        print_table(("WHAT", "HOW MUCH"), [*rows, *totals.rows()], "")
    if failure is not None:
        raise VerificationError(f"run {failure.seed}: {failure.message}; replay: {replay}")
    if interrupted:
        raise InterruptedByUser(f"stopped after {done} of {wanted} runs; nothing was lost in them")
    if not args.json:
        print(f"\nnothing was lost: {totals.total('acknowledged'):,} updates were acknowledged, and {NOTHING_LOST}")


def _as_dict(failure: Failure, replay: str) -> dict[str, object]:
    return {
        "seed": failure.seed,
        "message": failure.message,
        "only": only(failure.without),
        "until_s": failure.until,
        "lost": failure.lost,
        "replay": replay,
        "trace": failure.trace,
    }


def _replay(args: argparse.Namespace, failure: Failure) -> str:
    given = [*args.files, *changes_of(args.set or (), args.seed), *options_of(args), "--faults", args.faults]
    return f"{shlex.join(['edgefl', 'simulate', *given])} {failure.options}"


def _check_deadlines(tasks: list[TaskSpec], config: FaultsConfig) -> None:
    """A deadline that the slowest device cannot meet abandons round after round, and no fault causes that."""
    messages = 4 + (UPLOAD_MESSAGES if config.network.uploads else 0)  # answer, model, report, and one to spare
    slowest = config.work_s[1] + messages * config.network.latency_s[1]
    for spec in tasks:
        if spec.round.deadline_s <= slowest:
            raise ConfigError(
                f"task {spec.name!r} has a deadline of {spec.round.deadline_s:.12g} s, and a device may take "
                f"{slowest:.12g} s; raise deadline_s, or lower work_s of the faults file"
            )


@contextmanager
def _interrupts() -> Iterator[Callable[[], None]]:
    """Gives what raises ``InterruptedByUser`` once Ctrl-C was pressed: between two steps, never in a database's call.

    A second Ctrl-C is Python's own.
    """
    pressed = False

    def note(*_: object) -> None:
        nonlocal pressed
        pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)

    def poll() -> None:
        if pressed:
            raise InterruptedByUser("Ctrl-C")

    before = signal.signal(signal.SIGINT, note)
    try:
        yield poll
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _progress(wanted: int) -> Iterator[Show]:
    """A bar on standard error where that is a terminal: standard output is for the result."""
    console = Console(stderr=True)
    columns = (TextColumn("runs"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[note]}"))
    with Progress(*columns, TimeElapsedColumn(), console=console, disable=not console.is_terminal) as progress:
        bar = progress.add_task("runs", total=wanted, note="")

        def show(totals: Totals) -> None:
            lost = totals.total("lost")
            note = f"{totals.total('committed'):,} rounds, {totals.total('acknowledged'):,} updates, {lost} lost"
            progress.update(bar, completed=totals.runs, note=note)

        yield show
