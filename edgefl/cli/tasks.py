"""``edgefl task``: create, list, pause, resume, end."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgefl.cli.target import target
from edgefl.command import one_line
from edgefl.console.output import print_json, print_table
from edgefl.inputs.initial import create_request, with_initial
from edgefl.operator.connection import Connection
from edgefl.proto.v1 import control_pb2
from edgefl.protocol.task import parse_task
from edgefl.settings import read_toml
from edgefl.wire.control import task_status


def create(args: argparse.Namespace) -> None:
    """Check every file first: a typing error in the second must not leave the first running."""
    texts = [(name, read_toml(Path(name))) for name in args.files]
    definitions, weights = with_initial([(parse_task(text, name), text) for name, text in texts], args.files)
    requests = [create_request(spec.name, text, weights) for spec, text in definitions]
    with Connection(target(args)) as server:
        for request in requests:
            request.check_devices = not args.anyway
            task = server.call(server.control.CreateTask, request)
            print(f"created {task.name} ({task.kind}, {task.wanted_rounds} rounds, population {task.population})")
            if task.waiting:
                print(f"  {one_line(task.waiting)}")


def list_tasks(args: argparse.Namespace) -> None:
    with Connection(target(args)) as server:
        answer = server.call(server.control.ListTasks, control_pb2.ListTasksRequest())
    if args.json:
        for task in answer.tasks:
            print_json(_as_dict(task))
        return
    rows = [
        (t.name, t.kind, t.population, task_status(t).value, f"{t.committed_rounds}/{t.wanted_rounds}", _note(t))
        for t in answer.tasks
    ]
    columns = ("TASK", "KIND", "POPULATION", "STATUS", "ROUNDS", "")
    print_table(columns, rows, "no tasks; see: edgefl task create --help")


def _note(task: control_pb2.Task) -> str:
    """Why it does not go on, and what went wrong lately."""
    return "; ".join(text for text in (task.suspended, task.waiting, task.trouble) if text)


def pause(args: argparse.Namespace) -> None:
    _change(args, "PauseTask")


def resume(args: argparse.Namespace) -> None:
    _change(args, "ResumeTask")


def end(args: argparse.Namespace) -> None:
    _change(args, "EndTask")


def _change(args: argparse.Namespace, method: str) -> None:
    with Connection(target(args)) as server:
        task = server.call(getattr(server.control, method), control_pb2.TaskRequest(name=args.name))
    print(f"{task.name}: {task_status(task).value}, {task.committed_rounds} of {task.wanted_rounds} rounds")


def _as_dict(task: control_pb2.Task) -> dict[str, object]:
    """``waiting``, ``suspended`` and ``trouble`` are there when there is something to say."""
    said = {"waiting": task.waiting, "suspended": task.suspended, "trouble": task.trouble}
    return {
        "name": task.name,
        "kind": task.kind,
        "population": task.population,
        "status": task_status(task).value,
        "committed_rounds": task.committed_rounds,
        "wanted_rounds": task.wanted_rounds,
        "next_round": task.next_round,
        **{key: text for key, text in said.items() if text},
    }
