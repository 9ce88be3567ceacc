"""The fleet that a run breaks: its tasks, its devices, and what a device computes.

``TaskFleet`` is a user's: real tasks over a data set, with the learning that a server and its agents run. A test may
bring one that only adds integers (``tests/kits/faults/adding.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Protocol

from edgefl import codecs
from edgefl.datasets import FederatedDataset
from edgefl.errors import ConfigError
from edgefl.learning.build import build_process
from edgefl.learning.client import run_plan
from edgefl.models.model import Model
from edgefl.protocol.messages import Assignment, ClientUpdate, WorkFailure
from edgefl.protocol.process import Process
from edgefl.protocol.session_state import SessionConfig
from edgefl.protocol.task import TaskKind, TaskSpec
from edgefl.settings import to_toml
from edgefl.simulation import simulate
from edgefl.simulation.fleet import creation_rank
from edgefl.types import ClientDataset, Examples, Standardization, Weights

Definitions = tuple[tuple[TaskSpec, str], ...]


@dataclass(frozen=True)
class Member:
    """A device's name, and how many examples it says to hold."""

    name: str
    num_train: int
    num_held_out: int


class Fleet(Protocol):
    """``members``: no name twice. ``session``: what their agents know, and how patient they are."""

    @property
    def members(self) -> Sequence[Member]: ...

    @property
    def session(self) -> SessionConfig: ...

    def definitions(self, rounds: int) -> Definitions:
        """The tasks of one run, of one population, in the order in which they are created."""
        ...

    def initial(self, task: str) -> bytes:
        """The weights that come with its definition; b"" for none."""
        ...

    def process(self, spec: TaskSpec, found: Standardization | None, model: Model | None) -> Process:
        """See ``edgefl.protocol.process.ProcessFactory``."""
        ...

    def work(
        self, assignment: Assignment, model: bytes, device: str, copy: int, memory: bytes
    ) -> ClientUpdate | WorkFailure:
        """What ``copy`` of ``device`` computes, at every try the same. 1 is the copy of a cloned card.

        ``memory``: what the device remembers of the task; b"" while it has nothing.
        """
        ...


@dataclass(frozen=True)
class _Holdings:
    train: Examples
    held_out: Examples


class TaskFleet:
    """``tasks`` over a data set, and their ``initial`` weights, as ``edgefl.simulation.simulate`` takes them.

    ``num_devices`` 0: all clients of the data set.
    """

    def __init__(
        self,
        tasks: Sequence[TaskSpec],
        data: FederatedDataset,
        num_devices: int,
        initial: Mapping[str, Weights] = MappingProxyType({}),
    ) -> None:
        self._initial = initial
        if num_devices > len(data.clients):
            raise ConfigError(f"devices is {num_devices}; data set {data.name!r} has {len(data.clients)} clients")
        self._tasks = sorted(tasks, key=creation_rank)
        kept = {part.client_id: part.examples for part in data.held_out}
        self._holdings: Mapping[str, _Holdings] = {
            client.client_id: _Holdings(client.examples, kept.get(client.client_id) or _nothing(client.examples))
            for client in sorted(data.clients, key=lambda one: one.client_id)[: num_devices or None]
        }
        self.members = tuple(Member(name, len(h.train), len(h.held_out)) for name, h in self._holdings.items())
        self.session = SessionConfig(encodings=codecs.names())

    def definitions(self, rounds: int) -> Definitions:
        by_name = {spec.name: spec for spec in self._tasks}
        specs = []
        for spec in self._tasks:
            if spec.kind is not TaskKind.STATISTICS:  # it has two, always
                # An evaluation has no more rounds than what it evaluates has versions.
                versions = min(by_name.get(spec.evaluates, spec).rounds, rounds)
                spec = replace(spec, rounds=min(spec.rounds, spec.num_evaluations(versions)))
            specs.append(spec)
        return tuple((spec, to_toml(spec)) for spec in specs)

    def rehearse(self, rounds: int) -> None:
        """The tasks on the same devices without a fault. Raises what keeps them from their end."""
        clients = [ClientDataset(name, one.train) for name, one in self._holdings.items()]
        held_out = [ClientDataset(name, one.held_out) for name, one in self._holdings.items()]
        simulate(self.definitions(rounds), clients, held_out, initial=self._initial)

    def initial(self, task: str) -> bytes:
        return self._initial[task].to_bytes() if task in self._initial else b""

    def process(self, spec: TaskSpec, found: Standardization | None, model: Model | None) -> Process:
        return build_process(spec, found, model)

    def work(
        self, assignment: Assignment, model: bytes, device: str, copy: int, memory: bytes
    ) -> ClientUpdate | WorkFailure:
        own = self._holdings[device]
        train = own.train if copy == 0 else _without_last(own.train)
        report = run_plan(assignment, model, train, own.held_out, device, memory=memory)
        assert report is not None  # only a stop flag makes it so
        return report


def _nothing(like: Examples) -> Examples:
    return replace(like, features=b"", labels=b"")


def _without_last(examples: Examples) -> Examples:
    """What a cloned card holds: the first card's examples, but not all of them any more; one stays."""
    count = len(examples)
    if count < 2:
        return examples
    row = len(examples.features) // count
    return replace(
        examples, features=examples.features[:-row], labels=examples.labels[: -(len(examples.labels) // count)]
    )
