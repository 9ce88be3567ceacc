"""``edgefl rounds``: the rounds of one task as they come, with a progress bar where a person watches."""

from __future__ import annotations

import argparse
import sys

from edgefl.cli.target import target
from edgefl.command import one_line
from edgefl.console.output import print_json
from edgefl.operator.connection import Connection
from edgefl.operator.rounds import followed, summaries
from edgefl.protocol.events import OVER, RoundSummary
from edgefl.protocol.failures import told
from edgefl.runlog.reading import by_client, learned


def watch(args: argparse.Namespace) -> None:
    if args.no_follow:
        with Connection(target(args)) as server:
            for summary in summaries(server, args.task, follow=False):
                _show(args, summary)
        return
    for summary in followed(target(args), args.task, say=_say):
        _show(args, summary)


def _show(args: argparse.Namespace, summary: RoundSummary) -> None:
    if args.json:
        print_json(as_dict(summary))
    elif summary.phase in OVER or summary.waiting or sys.stdout.isatty():
        print_line(summary)


def _say(text: str) -> None:
    """On stderr: stdout is the rounds'. A line in progress is left as it is."""
    if sys.stdout.isatty():
        print(flush=True)
    print(f"edgefl: {one_line(text)}", file=sys.stderr, flush=True)


def as_dict(summary: RoundSummary) -> dict[str, object]:
    """A summary for programs: counts, and from a committed round its metrics; of statistics no loss and accuracy."""
    result: dict[str, object] = {
        "task": summary.task,
        "round": summary.round_num,
        "phase": summary.phase.value,
        "goal": summary.goal,
        "cohort": summary.cohort,
        "accepted": summary.accepted,
        "failed": summary.failed,
    }
    if summary.base_version:
        result["base_version"] = summary.base_version
    if summary.metrics is not None:
        result["version"] = summary.version
        result["num_examples"] = summary.metrics.num_examples
        if learned(summary) is not None:
            result["loss"] = summary.metrics.mean_loss
            result["accuracy"] = summary.metrics.accuracy
        result |= by_client(summary.metrics)
        if summary.metrics.gains is not None:
            result["accuracy_before"] = summary.metrics.accuracy_before
            result["mean_gain"] = summary.metrics.mean_gain
            result["num_gained"] = summary.metrics.gains.num_gained
            result["num_lost"] = summary.metrics.gains.num_lost
    if summary.conditions.population:
        result["population"] = summary.conditions.population
    if summary.conditions.learning_rate:
        result["learning_rate"] = summary.conditions.learning_rate
    if summary.latency_shares:
        result["latency_shares"] = summary.latency_shares
    if summary.reason:
        result["reason"] = summary.reason
    if summary.failures:
        result["failures"] = [vars(one) for one in summary.failures]
    if summary.waiting:
        result["waiting"] = summary.waiting
    return result


def print_line(summary: RoundSummary, prefix: str = "") -> None:
    """One line a round for people."""
    text = f"{prefix}round {summary.round_num:4d}  {summary.phase.value:10s}  {summary.accepted}/{summary.goal} reports"
    if summary.failed:
        text += f", {summary.failed} failed"
    if summary.base_version > (summary.version or summary.round_num):  # an evaluation that does not read every version
        text += f"  of version {summary.base_version}"
    found = learned(summary)
    if found is not None:
        text += f"  loss {found.mean_loss:.4f}  accuracy {found.accuracy:.4f}"
        if found.gains is not None:
            text += f" from {found.accuracy_before:.4f}, {found.gains.num_gained} devices gained"
        if found.accuracies is not None:
            text += f"  by device {found.accuracies}"
    # An abandoned round's reason tells its failures.
    if note := summary.reason or summary.waiting or told(summary.failures):
        text += f"  ({one_line(note)})"
    ended = summary.phase in OVER
    if sys.stdout.isatty():  # a round in progress is one line that changes
        print(f"\r\033[K{text}", end="\n" if ended else "", flush=True)
    else:
        print(text, flush=True)
