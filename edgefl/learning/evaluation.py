"""Federated evaluation: each client counts the model's answers on its held-out examples; the counts are summed.

Every example weighs the same on every device, so the sums are those of one evaluation of all examples together.
The process has no state of its own but the number of its rounds: the model belongs to the task that it evaluates.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgefl.aggregators import MAX_TOTAL_WEIGHT, Contribution, IntegerSum
from edgefl.errors import LocalProtocolError
from edgefl.learning.client import INTEGER_ENCODING
from edgefl.learning.counts import as_sums, check_confusion, check_counts, decoded, round_metrics
from edgefl.learning.in_process import check_weights, run_round
from edgefl.models.model import Model
from edgefl.protocol.messages import ClientUpdate, EvaluationWork, Plan
from edgefl.protocol.process import Accumulator, ProcessState, RoundConditions, RoundMetrics
from edgefl.protocol.task import TaskSpec
from edgefl.types import ClientDataset, Standardization, Weights


def known_model(spec: TaskSpec, evaluated: Model | None) -> Model:
    """The model of the task that ``spec`` evaluates. Raises ``LocalProtocolError`` while it is not known."""
    if evaluated is None:
        raise LocalProtocolError(f"task {spec.name!r} has no plan before the model of {spec.evaluates!r}")
    return evaluated


@dataclass(frozen=True)
class EvaluationProcess:
    """An evaluation task's process; build it by ``build_process`` or ``build_fed_eval``.

    ``evaluated`` is None while the model of the task that ``evaluates`` names is not known.
    """

    spec: TaskSpec
    evaluated: Model | None

    @property
    def model(self) -> Model:
        """The model that is evaluated. Raises ``LocalProtocolError`` while it is not known."""
        return known_model(self.spec, self.evaluated)

    @property
    def aggregator(self) -> IntegerSum:
        num_counts = self.model.num_classes * self.model.num_classes
        return IntegerSum(num_counts, 0, 1, self.spec.aggregator.max_weight, MAX_TOTAL_WEIGHT)

    def initialize(self) -> ProcessState:
        return ProcessState(0, b"")

    def plan(self, state: ProcessState) -> Plan:  # noqa: ARG002
        return Plan(self.model, EvaluationWork(self.spec.aggregator.max_weight), INTEGER_ENCODING)

    def content(self, state: ProcessState) -> bytes:
        return state.model

    def take(self, device: str, update: ClientUpdate) -> Contribution:
        """The confusion counts, int64: row true, column predicted.

        Raises ``InvalidUpdateError`` as decoding does, then WEIGHT, NORM, MALFORMED (contradictory counts).
        """
        taken = decoded(device, update, self.spec.seed, INTEGER_ENCODING, self.aggregator.num_values)
        self.aggregator.check(taken)
        check_counts(update, update.weight)
        check_confusion(update, memoryview(taken.values).cast("q"), self.model.num_classes)
        return taken

    def new_accumulator(self) -> Accumulator:
        return self.aggregator.new()

    def fold(self, accumulator: Accumulator, contribution: Contribution) -> None:
        self.aggregator.fold(as_sums(accumulator), contribution)

    def finalize(
        self,
        state: ProcessState,
        accumulator: Accumulator,
        conditions: RoundConditions,  # noqa: ARG002
    ) -> tuple[ProcessState, RoundMetrics]:
        sums = as_sums(accumulator)
        confusion = self.aggregator.finalize(sums)
        return ProcessState(state.version + 1, b""), round_metrics(sums, confusion)

    def standardization(self, state: ProcessState) -> Standardization | None:  # noqa: ARG002
        return None

    def next(
        self, state: ProcessState, weights: Weights, clients: Sequence[ClientDataset]
    ) -> tuple[ProcessState, RoundMetrics]:
        """Evaluate ``weights`` on the examples of all ``clients`` in this process; those without examples are left out.

        Raises what a client could not do (``DataError``, ``KernelError``), naming the client.
        """
        check_weights(weights)
        return run_round(self, self.spec, state, ProcessState(0, weights.to_bytes()), clients)

    def __call__(self, weights: Weights, clients: Sequence[ClientDataset]) -> RoundMetrics:
        """The metrics of one ``next``: no round of an evaluation depends on the one before."""
        return self.next(self.initialize(), weights, clients)[1]
