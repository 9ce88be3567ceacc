"""The four parts that a training process is composed of, each of which a user may replace.

    state ──> distributor ──> content ──> client work ──> update ──> aggregator ──> aggregate ──> finalizer ──> state
                                          [on each device]           [exact sums]                 [once a round]

A part is an immutable value and hides no state: what a round leaves for the next stands in ``ProcessState``, whose
``extra`` belongs to the finalizer. The interfaces are structural: a part is whatever has their methods, and inherits
from nothing. The aggregator's is ``edgefl.aggregators.TrainingAggregator``.

Source: the composition of TensorFlow Federated's ``tff.learning.templates``.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

from edgefl.optimizers import ServerOptimizer
from edgefl.protocol.messages import TrainingWork, Work
from edgefl.protocol.process import ProcessState
from edgefl.protocol.schedule import CONSTANT, Schedule


@dataclass(frozen=True)
class Closing:
    """What a finalizer knows of the round besides its aggregate.

    ``num_reports``: the updates in it; the others as in ``edgefl.protocol.process.RoundConditions``.
    """

    num_reports: int
    population: int
    learning_rate: float


class Distributor(Protocol):
    """What devices get before they work."""

    def content(self, state: ProcessState) -> bytes:
        """The bytes that every device of the round after ``state`` downloads; the model's canonical bytes come first.

        The work of the process must know what follows them.
        """
        ...


class ClientWork(Protocol):
    """What devices do with it."""

    @property
    def local_epochs(self) -> int:
        """How often a client may count one of its examples: what bounds the counts of an honest update."""
        ...

    def work(self, version: int) -> Work:
        """What devices are told in the round that follows ``version``.

        For real devices one of ``edgefl.protocol.messages``; a ``LocalWork`` of a user's own in one Python process.
        """
        ...


class Finalizer(Protocol):
    """What the server does with the aggregate."""

    def init(self, num_values: int) -> bytes:
        """``ProcessState.extra`` of version 0, for a model of ``num_values`` parameters."""
        ...

    def apply(self, extra: bytes, model: bytes, aggregate: bytes, closing: Closing) -> tuple[bytes, bytes]:
        """The next ``extra`` and the next model (canonical bytes). ``aggregate``: what the aggregator made, float64."""
        ...


@dataclass(frozen=True)
class ModelDistributor:
    """Devices download the model, as it is."""

    def content(self, state: ProcessState) -> bytes:
        return state.model


@dataclass(frozen=True)
class LocalSgd:
    """Devices run SGD by ``training``, whose rate follows ``schedule``."""

    training: TrainingWork
    schedule: Schedule = CONSTANT

    @property
    def local_epochs(self) -> int:
        return self.training.sgd.local_epochs

    def work(self, version: int) -> TrainingWork:
        sgd = self.training.sgd
        rate = self.schedule.rate(sgd.learning_rate, version)
        return replace(self.training, sgd=replace(sgd, learning_rate=rate))


@dataclass(frozen=True)
class ServerStep:
    """A server optimizer applies the aggregated delta, whatever the round was like."""

    optimizer: ServerOptimizer

    def init(self, num_values: int) -> bytes:
        return self.optimizer.init(num_values)

    def apply(self, extra: bytes, model: bytes, aggregate: bytes, closing: Closing) -> tuple[bytes, bytes]:  # noqa: ARG002
        return self.optimizer.apply(extra, model, aggregate)
