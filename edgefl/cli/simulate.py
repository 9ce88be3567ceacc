"""``edgefl simulate``: run task definitions over a data set on this machine, without a fleet.

Three ways: in this process; with the devices' work in many (``--processes``); on a real server and real agents
(``--grpc``). The same machines, the same client work and the same arithmetic as the daemons: the digests printed here
are the same in each, and those that a fleet with the same examples makes.
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgefl.cli.confusion import print_confusion
from edgefl.cli.rounds import as_dict, print_line
from edgefl.cli.statistics import print_features
from edgefl.console.installed import need_packages
from edgefl.console.output import print_json, print_table
from edgefl.datasets import FederatedDataset
from edgefl.errors import ConfigError
from edgefl.files import check_folder, check_regular, write_file
from edgefl.inputs.clients import load_clients
from edgefl.inputs.definitions import read_tasks
from edgefl.inputs.initial import with_initial
from edgefl.learning import build_process
from edgefl.models.tflite_writer import write_tflite
from edgefl.protocol.events import RoundSummary
from edgefl.protocol.process import FeatureStatistics
from edgefl.protocol.task import TaskKind, TaskSpec
from edgefl.runlog import open_run_log
from edgefl.runlog.reading import last_confusion, learned
from edgefl.simulation import Checkpoint, release_inputs, simulate
from edgefl.types import Weights

Tasks = Sequence[tuple[TaskSpec, str]]
OnRound = Callable[[RoundSummary], None]


@dataclass(frozen=True)
class _Ended:
    """A finished task, however it was run. ``tflite``: a training's last model as a file; else empty."""

    spec: TaskSpec
    version: int
    rounds: Sequence[RoundSummary]
    model_sha256: str
    tflite: bytes
    features: Sequence[FeatureStatistics] = ()


def simulate_tasks(args: argparse.Namespace) -> None:
    """Run the tasks; print each round as it ends, then each task's last version with its digest."""
    if args.faults is not None:
        _simulate_faults(args)
        return
    if any(option is not None for option in (args.runs, args.fault_run, args.only, args.until)):
        raise ConfigError("--runs, --run, --only and --until belong to --faults; add it, or leave them out")
    if args.grpc and args.processes is not None:
        raise ConfigError("--grpc and --processes exclude each other; choose one")
    tasks = read_tasks(args.files, args.set or (), args.seed)
    for (spec, _), name in zip(tasks, args.files, strict=True):
        _check_process(spec, name)
    tasks, initial = with_initial(tasks, args.files)
    checkpoint = _checkpoint(args)
    _check_places(args)
    data = load_clients(args, [spec for spec, _ in tasks])

    folder = None if args.log is None else Path(args.log)
    specs = [spec for spec, _ in tasks]
    with open_run_log(specs, folder, classes=data.classes, live=not args.json, resumed=args.resume) as log:

        def show(summary: RoundSummary) -> None:
            log.note(summary)
            if args.json:
                print_json(as_dict(summary))
            else:
                print_line(summary, f"{summary.task:<20} ")

        ended = (
            _over_grpc(args, tasks, data, show, initial)
            if args.grpc
            else _here(args, tasks, data, show, checkpoint, initial)
        )
    files = _write_models(ended, Path(args.out)) if args.out else {}
    _print_ends(ended, files, data.classes, as_json=args.json)


def _print_ends(ended: Sequence[_Ended], files: dict[str, str], classes: tuple[str, ...], *, as_json: bool) -> None:
    """What the tasks found, and last their versions with their digests; for programs, first a line for each task."""
    matrices = {task.spec.name: found for task in ended if (found := last_confusion(task.rounds, classes)) is not None}
    rows = [_row(task, files) for task in ended]
    if as_json:
        for row in rows:
            found = matrices.get(str(row["task"]))
            print_json(row if found is None else row | found[1].as_dict())
    for task in (one for one in ended if one.features):
        if not as_json:
            print(f"\n{task.spec.name}: every feature over the fleet")
        print_features(task.spec.name, task.features, as_json=as_json)
    if as_json:
        return
    for name, (summary, confusion) in matrices.items():
        print()
        print_confusion(f"{name}, round {summary.round_num}", confusion)
    columns = ("task", "version", "accuracy", "model_sha256", "tflite_sha256")
    print()
    print_table([c.upper() for c in columns], [[_cell(row.get(c, "")) for c in columns] for row in rows], "no tasks")


def _check_process(spec: TaskSpec, source: str) -> None:
    """Whether a process can be built of ``spec``. Raises ``ConfigError`` that names the file."""
    try:
        build_process(spec, None, None)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from None


def _here(
    args: argparse.Namespace,
    tasks: Tasks,
    data: FederatedDataset,
    show: OnRound,
    checkpoint: Checkpoint | None,
    initial: Mapping[str, Weights],
) -> list[_Ended]:
    result = simulate(
        tasks,
        data.clients,
        data.held_out,
        on_round=show,
        processes=args.processes,
        checkpoint=checkpoint,
        initial=initial,
    )
    ended = []
    for task in result.tasks:
        tflite = b""
        if args.out and task.spec.kind is TaskKind.TRAINING:
            tflite = write_tflite(*release_inputs(result, task.spec.name), classes=task.model.classes)
        ended.append(_Ended(task.spec, task.state.version, task.rounds, task.state.model_digest, tflite, task.features))
    return ended


def _over_grpc(
    args: argparse.Namespace,
    tasks: Tasks,
    data: FederatedDataset,
    show: OnRound,
    initial: Mapping[str, Weights],
) -> list[_Ended]:
    """gRPC is loaded here, and nowhere else in this command."""
    from edgefl.cli.simulate_grpc import simulate_grpc

    finished = simulate_grpc(tasks, data, Path(args.out) if args.out else None, show, initial)
    return [_Ended(one.spec, one.version, one.rounds, one.model_sha256, one.tflite) for one in finished]


def _check_places(args: argparse.Namespace) -> None:
    """What is written late is tried first."""
    if args.out is not None:
        check_folder(Path(args.out))
    if args.checkpoint is not None:
        check_regular(Path(args.checkpoint))
        check_folder(Path(args.checkpoint).parent)


def _checkpoint(args: argparse.Namespace) -> Checkpoint | None:
    if args.grpc and args.checkpoint is not None:
        raise ConfigError("--checkpoint is of a simulation here; a server keeps its own state: leave --grpc out")
    if args.checkpoint is not None:
        return Checkpoint(Path(args.checkpoint), args.checkpoint_every or Checkpoint.every, resume=args.resume)
    if args.resume or args.checkpoint_every is not None:
        raise ConfigError("--resume and --checkpoint-every belong to --checkpoint; add it, or leave them out")
    return None


def _simulate_faults(args: argparse.Namespace) -> None:
    """Both shells and a file layer for SQLite are loaded here, and nowhere else in this command."""
    if args.out is not None:
        raise ConfigError("--out writes the models of a run without --faults; leave one of the two out")
    if args.processes is not None or args.grpc:
        raise ConfigError("--processes and --grpc are for a run without --faults; leave one of the two out")
    if args.log is not None or args.checkpoint is not None:
        raise ConfigError("--log and --checkpoint are of a run without --faults; leave them or --faults out")
    need_packages("--faults", "apsw")
    from edgefl.faults.command import simulate_faults

    simulate_faults(args)


def _row(task: _Ended, files: dict[str, str]) -> dict[str, object]:
    """A finished task for programs: what it does not have is absent."""
    found = next((metrics for one in reversed(task.rounds) if (metrics := learned(one)) is not None), None)
    row = {
        "task": task.spec.name,
        "version": task.version,
        "accuracy": None if found is None else found.accuracy,
        "model_sha256": task.model_sha256 or None,
        "tflite_sha256": files.get(task.spec.name),
    }
    return {name: value for name, value in row.items() if value is not None}


def _cell(value: object) -> str:
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _write_models(ended: Sequence[_Ended], out: Path) -> dict[str, str]:
    """Write OUT/TASK.tflite for every training task; returns the SHA-256 of each file by task."""
    digests = {}
    for task in ended:
        if task.tflite:
            write_file(out / f"{task.spec.name}.tflite", task.tflite)
            digests[task.spec.name] = hashlib.sha256(task.tflite).hexdigest()
    return digests
