"""The clients of a simulation as its command line names them: a data set, and how to deal it."""

from __future__ import annotations

import argparse

from edgefl.datasets import CentralDataset, FederatedDataset, by_column, hold_out_clients, load, partition, pooled
from edgefl.datasets.partition import parse
from edgefl.datasets.unseen import parse_count
from edgefl.errors import ConfigError


def load_clients(args: argparse.Namespace) -> FederatedDataset:
    """``--dataset`` with its own clients, or with those that ``--partition`` makes; of them ``--held-out-clients`` have
    held-out examples alone. Raises what ``load`` raises.
    """
    return hold_out(args, _dealt(args))


def hold_out(args: argparse.Namespace, data: FederatedDataset) -> FederatedDataset:
    """``data`` with ``--held-out-clients``."""
    if args.held_out_clients is None:
        return data
    return hold_out_clients(data, parse_count(args.held_out_clients), seed=args.partition_seed or 0)


def _dealt(args: argparse.Namespace) -> FederatedDataset:
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
