"""The clients of a simulation as its command line names them: a data set, and how to deal it."""

from __future__ import annotations

import argparse

from edgefl.datasets import CentralDataset, FederatedDataset, by_column, load, partition, pooled
from edgefl.datasets.partition import parse
from edgefl.errors import ConfigError


def load_clients(args: argparse.Namespace) -> FederatedDataset:
    """``--dataset`` with its own clients, or with those that ``--partition`` makes. Raises what ``load`` raises."""
    name: str = args.dataset
    if args.partition is None:
        refuse_partition_options(args)
        data = load(name)
        if isinstance(data, CentralDataset):
            raise ConfigError(
                f"data set {name!r} has no clients; make some, as by --partition dirichlet:0.3 --clients 100"
            )
        return data
    how = parse(args.partition, args.clients)
    if isinstance(how, by_column):
        return load(name, client_column=how.name)
    data = load(name)
    central = data if isinstance(data, CentralDataset) else pooled(data)
    return partition(central, how, seed=args.partition_seed or 0)


def refuse_partition_options(args: argparse.Namespace) -> None:
    """For a data set that has clients. Raises ``ConfigError``."""
    if args.clients is not None or args.partition_seed is not None:
        raise ConfigError("--clients and --partition-seed belong to --partition; add it, or leave them out")


def options_of(args: argparse.Namespace) -> list[str]:
    """The options that give the same clients again."""
    options = {
        "--dataset": args.dataset,
        "--partition": args.partition,
        "--clients": args.clients,
        "--partition-seed": args.partition_seed,
    }
    return [text for name, value in options.items() if value is not None for text in (name, str(value))]
