"""Who is in a simulated fleet, and which examples each device holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgefl.errors import ConfigError
from edgefl.protocol.task import TaskKind, TaskSpec
from edgefl.types import ClientDataset, Examples, check_kind

MAX_CLIENTS = 49_999
"""Twice as many check-ins must be allowed to wait as there are clients (``edgefl.protocol.pace``)."""


@dataclass(frozen=True)
class Holdings:
    """Who a device is and which examples it holds."""

    device: str
    population: str
    train: Examples
    held_out: Examples


def deal(
    tasks: Sequence[tuple[TaskSpec, str]], clients: Sequence[ClientDataset], held_out: Sequence[ClientDataset]
) -> list[Holdings]:
    """One device for each id, sorted. Raises ``ConfigError`` for a fleet that cannot do the tasks."""
    if not isinstance(tasks, Sequence) or not all(isinstance(one, tuple) and len(one) == 2 for one in tasks):
        raise ConfigError(f"tasks is {tasks!r:.80}; expected pairs (parse_task(text, name), text)")
    if not tasks:
        raise ConfigError("tasks is empty; expected at least one pair (parse_task(text, name), text)")
    populations = {spec.population for spec, _ in tasks}
    if len(populations) != 1:
        raise ConfigError(f"tasks of the populations {sorted(populations)}; expected tasks of exactly one")
    train, test = _by_id("clients", clients), _by_id("held_out", held_out)
    if not 1 <= len(train.keys() | test.keys()) <= MAX_CLIENTS:
        raise ConfigError(f"a fleet of {len(train.keys() | test.keys())} devices; expected 1 to {MAX_CLIENTS}")
    population = populations.pop()
    holdings = []
    for device in sorted(train.keys() | test.keys()):
        any_part = (train if device in train else test)[device].examples
        none = replace(any_part, features=b"", labels=b"")
        own = train[device].examples if device in train else none
        kept = test[device].examples if device in test else none
        holdings.append(Holdings(device, population, own, kept))
    for spec, _ in tasks:
        able = num_able(spec.kind, holdings)
        if able < spec.round.minimum:
            raise ConfigError(
                f"task {spec.name!r} needs at least {spec.round.minimum} devices with examples for a round, and the "
                f"fleet has {able}; lower its minimum"
            )
    return holdings


def num_able(kind: TaskKind, holdings: Sequence[Holdings]) -> int:
    """How many of the devices have the examples that a task of that kind reads."""
    return sum(all(len(part) > 0 for part in _read_by(kind, one)) for one in holdings)


def _read_by(kind: TaskKind, one: Holdings) -> tuple[Examples, ...]:
    if kind is TaskKind.EVALUATION:
        return (one.held_out,)
    return (one.train, one.held_out) if kind is TaskKind.PERSONALIZATION else (one.train,)


def _by_id(what: str, datasets: Sequence[ClientDataset]) -> dict[str, ClientDataset]:
    if not isinstance(datasets, Sequence):
        raise ConfigError(f"{what} is {datasets!r:.80}; expected a sequence of edgefl.ClientDataset")
    for one in datasets:
        check_kind(f"one of {what}", one, ClientDataset, "an edgefl.ClientDataset")
    found = {one.client_id: one for one in datasets}
    if len(found) != len(datasets):
        raise ConfigError(f"{what} has {len(datasets)} parts of {len(found)} ids; expected each id once")
    return found
