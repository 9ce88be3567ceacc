"""The clients of a simulation as its command line names them: a data set, and how to deal it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from edgefl.classes import listed
from edgefl.datasets import CentralDataset, FederatedDataset, by_column, hold_out_clients, load, partition, pooled
from edgefl.datasets.partition import parse
from edgefl.datasets.unseen import parse_count
from edgefl.errors import ConfigError
from edgefl.protocol.task import TaskSpec


def load_clients(args: argparse.Namespace, tasks: Sequence[TaskSpec] = ()) -> FederatedDataset:
    """``--dataset`` with its own clients, or with those that ``--partition`` makes; of them ``--held-out-clients`` have
    held-out examples alone. Its classes are in the order that ``tasks`` declare.

    Raises what ``load`` raises, and ``ConfigError`` for tasks that declare different classes.
    """
    return hold_out(args, _dealt(args, _declared(tasks)))


def hold_out(args: argparse.Namespace, data: FederatedDataset) -> FederatedDataset:
    """``data`` with ``--held-out-clients``."""
    if args.held_out_clients is None:
        return data
    return hold_out_clients(data, parse_count(args.held_out_clients), seed=args.partition_seed or 0)


def _declared(tasks: Sequence[TaskSpec]) -> tuple[str, ...]:
    first: TaskSpec | None = None
    classes: tuple[str, ...] = ()
    for task in tasks:
        if task.model is None or not task.model.classes:
            continue
        if first is None:
            first, classes = task, task.model.classes
        elif task.model.classes != classes:
            raise ConfigError(
                f"task {task.name!r} has the classes {listed(task.model.classes)}, and {first.name!r} has "
                f"{listed(classes)}; expected the same, in the same order"
            )
    return classes


def _dealt(args: argparse.Namespace, classes: tuple[str, ...]) -> FederatedDataset:
    name: str = args.dataset
    if args.partition is None:
        refuse_partition_options(args)
        data = load(name, classes=classes)
        if isinstance(data, CentralDataset):
            raise ConfigError(
                f"data set {name!r} has no clients; make some, as by --partition dirichlet:0.3 --clients 100"
            )
        return data
    how = parse(args.partition, args.clients)
    if isinstance(how, by_column):
        return load(name, client_column=how.name, classes=classes)
    data = load(name, classes=classes)
    central = data if isinstance(data, CentralDataset) else pooled(data)
    return partition(central, how, seed=args.partition_seed or 0)


def refuse_partition_options(args: argparse.Namespace) -> None:
    """For a data set that has clients. Raises ``ConfigError``."""
    if args.clients is not None:
        raise ConfigError("--clients belongs to --partition; add it, or leave --clients out")
    if args.partition_seed is not None and args.held_out_clients is None:
        raise ConfigError("--partition-seed belongs to --partition or --held-out-clients; add one, or leave it out")


def options_of(args: argparse.Namespace) -> list[str]:
    """The options that give the same clients again."""
    options = {
        "--dataset": args.dataset,
        "--partition": args.partition,
        "--clients": args.clients,
        "--partition-seed": args.partition_seed,
        "--held-out-clients": args.held_out_clients,
    }
    return [text for name, value in options.items() if value is not None for text in (name, str(value))]
