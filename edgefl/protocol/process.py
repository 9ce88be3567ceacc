"""The seam between rounds and learning: what a task's process does, as the coordinator sees it.

Implementations live in ``edgefl.learning``; the object that a simulation builds is the one that the server runs.
All state is explicit: what a checkpoint must hold is in ``ProcessState``, and nothing is kept in the process itself.

    state -> plan, content -> [device] -> update -> take -> fold ... fold -> finalize -> state

An update becomes part of a round in one way: ``take`` decodes and checks it, ``fold`` adds it. What is in a ledger
already goes the same way again, by ``fold_recorded``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from edgefl.confusion import Confusion
from edgefl.errors import InvalidUpdateError, UpdateRefusal
from edgefl.models.model import Model
from edgefl.protocol.messages import ClientUpdate, Plan
from edgefl.protocol.task import TaskSpec
from edgefl.sums.running import Contribution
from edgefl.types import Standardization


@dataclass(frozen=True)
class ProcessState:
    """All that a task has learned after ``version`` committed rounds.

    ``model``: the canonical bytes of the global model (b"" where a task has none: statistics, evaluation).
    ``extra``: the server optimizer's state, or the sums so far; its layout belongs to the process.
    ``clients``: what each client remembers between rounds, where all run in this process; a
    server has none of it, for there it stays on the devices.
    """

    version: int
    model: bytes
    extra: bytes = b""
    clients: Mapping[str, bytes] = field(default_factory=dict, repr=False)

    @property
    def model_digest(self) -> str:
        """SHA-256 of ``model`` in hexadecimal; '' where there is no model."""
        return hashlib.sha256(self.model).hexdigest() if self.model else ""


@dataclass(frozen=True)
class Gains:
    """What fine-tuning on the devices changed. A client's gain is its accuracy after, less that before.

    ``num_gained``, ``num_lost``: clients that answered more, or fewer, of their examples right than before.
    ``gain_sum``: over clients, so that each counts once, whatever the number of its examples.
    """

    num_correct_before: int
    num_gained: int
    num_lost: int
    gain_sum: float


@dataclass(frozen=True)
class FeatureStatistics:
    """One feature over the fleet.

    ``count``      the examples that spread, histogram and extremes are of: those of the second round
    ``mean``       of the first round's examples, rounded once to binary64
    ``spread``     about that mean as float32; it is not raised to 1 for a constant feature
    ``minimum``, ``maximum``  exact; None unless the task asks for extremes
    ``edges``, ``histogram``  num_bins + 1 edges and num_bins counts; empty unless the task asks for bins
    """

    count: int
    mean: float
    spread: float
    minimum: float | None
    maximum: float | None
    edges: tuple[float, ...]
    histogram: tuple[int, ...]


@dataclass(frozen=True)
class ClientAccuracies:
    """How the accuracy differs from client to client: each counts once, whatever the number of its examples.

    ``spread``: the standard deviation over the clients (of these clients, so divided by their number).
    ``worst_decile``: the mean over the worst tenth of the clients, rounded up to whole clients. It is a mean, not the
    decile's bound, so that a client that gets worse always shows.
    """

    mean: float
    spread: float
    minimum: float
    maximum: float
    worst_decile: float

    def __str__(self) -> str:
        return f"spread {self.spread:.4f}, worst decile {self.worst_decile:.4f}"


@dataclass(frozen=True)
class RoundMetrics:
    """What the counted reports of a round add up to. ``confusion`` is C*C counts, row true, column predicted.

    ``gains`` is None unless clients fine-tuned the model first; all else is then of the model as it became.
    ``accuracies`` is None for training and statistics, and in rounds of servers that did not count them.
    """

    num_reports: int
    total_weight: int
    num_examples: int
    num_correct: int
    loss_sum: float
    confusion: tuple[int, ...] = ()
    gains: Gains | None = None
    accuracies: ClientAccuracies | None = None

    @property
    def accuracy(self) -> float:
        return self.num_correct / self.num_examples if self.num_examples else 0.0

    def confusion_matrix(self, classes: tuple[str, ...] = ()) -> Confusion:
        """``confusion`` with the names of the classes. Raises ``DataError`` where no answers were counted by class."""
        return Confusion(self.confusion, classes)

    @property
    def mean_loss(self) -> float:
        return self.loss_sum / self.num_examples if self.num_examples else 0.0

    @property
    def accuracy_before(self) -> float:
        """Before fine-tuning; the same as ``accuracy`` where there was none."""
        if self.gains is None:
            return self.accuracy
        return self.gains.num_correct_before / self.num_examples if self.num_examples else 0.0

    @property
    def mean_gain(self) -> float:
        """The mean over clients of what fine-tuning gained each in accuracy."""
        return self.gains.gain_sum / self.num_reports if self.gains is not None and self.num_reports else 0.0

    def __str__(self) -> str:
        counted = f"{self.num_correct} of {self.num_examples} examples right, {self.num_reports} clients"
        text = f"accuracy {self.accuracy:.4f}, mean loss {self.mean_loss:.4f} ({counted})"
        if self.accuracies is not None:
            text += f"; by client {self.accuracies}"
        if self.gains is None:
            return text
        return (
            f"{text}; before fine-tuning {self.accuracy_before:.4f}, mean gain {self.mean_gain:+.4f}, "
            f"{self.gains.num_gained} clients gained, {self.gains.num_lost} lost"
        )


@dataclass(frozen=True)
class RoundConditions:
    """What is fixed when a round draws its cohort, and recorded with it: the model may depend on it.

    ``population``     known devices of the task's population that have the examples which the task reads.
    ``learning_rate``  of the clients in this round, as float32 has it; 0 for work that trains nothing.
    """

    population: int = 0
    learning_rate: float = 0.0


UNSELECTED = RoundConditions()
"""Of a round that has no cohort, and of one that was selected before conditions were recorded."""


BEFORE_ROUND = frozenset({UpdateRefusal.ENCODING, UpdateRefusal.SHAPE, UpdateRefusal.NON_FINITE})
"""The gate refuses for these before it looks at the round, and for the other reasons of ``take`` after it."""


class Accumulator(Protocol):
    """Integer sums over client updates: they do not depend on the order of folding or of merging."""

    @property
    def num_reports(self) -> int: ...


class Process(Protocol):
    """One task's learning: pure functions of explicit state."""

    def initialize(self) -> ProcessState:
        """The state of version 0."""
        ...

    def plan(self, state: ProcessState) -> Plan:
        """What devices execute in the round that follows ``state``."""
        ...

    def content(self, state: ProcessState) -> bytes:
        """What devices download before they work in the round that follows ``state``; b"" for nothing.

        It is the model where an evaluation may read it. Its SHA-256 is the round's base digest.
        """
        ...

    def take(self, device: str, update: ClientUpdate) -> Contribution:
        """What the update of ``device`` is to be added as: its numbers in fixed layout, checked. Changes nothing.

        Raises ``InvalidUpdateError``, in this order: ENCODING, SHAPE, NON_FINITE (``BEFORE_ROUND``), then WEIGHT, NORM,
        MALFORMED.
        """
        ...

    def new_accumulator(self) -> Accumulator: ...

    def fold(self, accumulator: Accumulator, contribution: Contribution) -> None:
        """Add what ``take`` returned to ``accumulator`` (in place)."""
        ...

    def finalize(
        self, state: ProcessState, accumulator: Accumulator, conditions: RoundConditions
    ) -> tuple[ProcessState, RoundMetrics]:
        """Apply the aggregate: the state of version + 1."""
        ...

    def standardization(self, state: ProcessState) -> Standardization | None:
        """The result of a finished statistics task; None for others, and before it is finished."""
        ...


def fold_recorded(process: Process, accumulator: Accumulator, reports: Iterable[tuple[str, ClientUpdate]]) -> None:
    """Fold ``reports``, pairs of device and update, into ``accumulator``, one after the other.

    Raises ``InvalidUpdateError``, naming the device, for one that the process does not take.
    """
    for device, update in reports:
        try:
            contribution = process.take(device, update)
        except InvalidUpdateError as error:
            raise InvalidUpdateError(error.reason, f"client {device!r}: {error}") from None
        process.fold(accumulator, contribution)


ProcessFactory = Callable[[TaskSpec, Standardization | None, Model | None], Process]
"""Builds a task's process from its definition.

The second argument is the result of the statistics task that ``standardize_by`` names; the third is the model of the
task that ``evaluates`` names. Both are None while those are not known; then only ``initialize`` may be called.
"""
