"""Confusion matrices by class name: of a server's task (``edgefl confusion``), and at the end of a simulation."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from edgefl.cli.target import target
from edgefl.confusion import Confusion
from edgefl.console.output import print_json, print_table
from edgefl.errors import ConflictError, NotFoundError
from edgefl.operator.connection import Connection
from edgefl.operator.rounds import summaries
from edgefl.proto.v1 import control_pb2
from edgefl.protocol.events import RoundSummary
from edgefl.protocol.task import TaskSpec, parse_task
from edgefl.runlog.reading import counts_answers, last_confusion
from edgefl.wording import name_hint

NEWEST = 8
"""Rounds that are asked for first: the last one that was committed is nearly always among them."""


def show(args: argparse.Namespace) -> None:
    """The matrix of a round of a server's evaluation or personalization: the last one that was committed, or --round.

    Raises ``NotFoundError`` for an unknown task or round, ``ConflictError`` for a task that counts no answers.
    """
    with Connection(target(args)) as server:
        tasks = server.call(server.control.ListTasks, control_pb2.ListTasksRequest()).tasks
        specs = {task.name: parse_task(task.definition, f"task {task.name!r}") for task in tasks}
        spec = specs.get(args.task)
        if spec is None:
            raise NotFoundError(f"no task {args.task!r}{name_hint(args.task, specs)}")
        if not spec.evaluates:
            raise ConflictError(
                f"task {args.task!r} is of kind {spec.kind.value!r}; expected an evaluation or a personalization: they "
                "count answers by class"
            )
        newest = next(task.next_round for task in tasks if task.name == args.task)
        found = _found(server, args.task, args.round, newest)
    _print(spec, found, args.round, _classes(spec, specs), as_json=args.json)


def _found(server: Connection, task: str, round_num: int | None, newest: int) -> tuple[RoundSummary, ...]:
    """The rounds that were asked for and have counts; of many, the last ones."""
    firsts = (round_num,) if round_num is not None else (max(1, newest - NEWEST), 1)
    for first in firsts:
        stream = summaries(server, task, follow=False, from_round=first)
        rounds = tuple(one for one in stream if counts_answers(one) and round_num in (None, one.round_num))
        if rounds:
            return rounds
    return ()


def _print(
    spec: TaskSpec,
    rounds: Sequence[RoundSummary],
    round_num: int | None,
    classes: tuple[str, ...],
    *,
    as_json: bool,
) -> None:
    found = last_confusion(rounds, classes)
    if found is None:
        which = "no round" if round_num is None else f"no round {round_num}"
        raise NotFoundError(f"task {spec.name!r} has {which} that was committed; see: edgefl rounds {spec.name}")
    summary, confusion = found
    if as_json:
        print_json({"task": spec.name, "round": summary.round_num, **confusion.as_dict()})
    else:
        print_confusion(f"{spec.name}, round {summary.round_num}", confusion)


def _classes(spec: TaskSpec, specs: dict[str, TaskSpec]) -> tuple[str, ...]:
    evaluated = specs.get(spec.evaluates)
    return () if evaluated is None or evaluated.model is None else evaluated.model.classes


def print_confusion(title: str, confusion: Confusion) -> None:
    """A table for people, with its title above."""
    columns, rows = confusion.table()
    print(f"{title}: {confusion.title}")
    print_table(columns, rows, "no mistakes", right_from=confusion.first_number)
