"""Personalization: how much better does the model become when each client fine-tunes it on its own examples?

    model ──> [count on held-out] ──> [fine-tune on train] ──> [count on held-out] ──> counts after, right before

The fine-tuned model stays where it was made: a round changes no model, like one of ``evaluation``. The counts are
exact sums; a client's gain in accuracy is rounded to a grid of 2**-30 before it is added, so that the order of the
clients changes nothing.

Source: Wang et al., "Federated Evaluation of On-device Personalization", 2019.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgefl.aggregators import MAX_TOTAL_WEIGHT, Contribution, IntegerSum
from edgefl.learning.client import INTEGER_ENCODING
from edgefl.learning.counts import as_sums, check_confusion, check_counts, decoded, round_metrics
from edgefl.learning.evaluation import known_model
from edgefl.learning.in_process import check_weights, run_round
from edgefl.models.model import Model
from edgefl.protocol.messages import ClientUpdate, PersonalizationWork, Plan, TrainingWork
from edgefl.protocol.process import Accumulator, Gains, ProcessState, RoundConditions, RoundMetrics
from edgefl.protocol.task import TaskSpec
from edgefl.sums.grid import SHARE_SHIFT, share_on_grid
from edgefl.types import ClientDataset, Standardization, Weights

NUM_GAINS = 3
"""What is added to each report's counts: whether the client gained, whether it lost, and the gain on its grid."""


@dataclass(frozen=True)
class PersonalizationProcess:
    """A personalization task's process; build it by ``build_process`` or ``build_personalization_eval``.

    ``evaluated`` is None while the model of the task that ``evaluates`` names is not known.
    """

    spec: TaskSpec
    evaluated: Model | None
    training: TrainingWork

    @property
    def model(self) -> Model:
        """The model that is fine-tuned. Raises ``LocalProtocolError`` while it is not known."""
        return known_model(self.spec, self.evaluated)

    @property
    def num_counts(self) -> int:
        """The confusion counts after fine-tuning, and the right answers before it."""
        return self.model.num_classes * self.model.num_classes + 1

    def initialize(self) -> ProcessState:
        return ProcessState(0, b"")

    def plan(self, state: ProcessState) -> Plan:  # noqa: ARG002
        return Plan(self.model, PersonalizationWork(self.training), INTEGER_ENCODING)

    def content(self, state: ProcessState) -> bytes:
        return state.model

    def take(self, device: str, update: ClientUpdate) -> Contribution:
        """The counts, int64.

        Raises ``InvalidUpdateError`` as decoding does, then WEIGHT, NORM, MALFORMED (contradictory counts).
        """
        taken = decoded(device, update, self.spec.seed, INTEGER_ENCODING, self.num_counts)
        counts = IntegerSum(self.num_counts, 0, 1, self.training.max_weight, MAX_TOTAL_WEIGHT)
        counts.check(taken)
        check_counts(update, update.weight)
        check_confusion(update, memoryview(taken.values).cast("q")[:-1], self.model.num_classes)
        return taken

    def new_accumulator(self) -> Accumulator:
        return self._sum.new()

    def fold(self, accumulator: Accumulator, contribution: Contribution) -> None:
        before = memoryview(contribution.values).cast("q")[-1]
        more = contribution.num_correct - before
        gain = array("q", [more > 0, more < 0, share_on_grid(more, contribution.weight)])
        self._sum.fold(as_sums(accumulator), replace(contribution, values=contribution.values + gain.tobytes()))

    def finalize(
        self,
        state: ProcessState,
        accumulator: Accumulator,
        conditions: RoundConditions,  # noqa: ARG002
    ) -> tuple[ProcessState, RoundMetrics]:
        sums = as_sums(accumulator)
        *confusion, before, gained, lost, gain = self._sum.finalize(sums)
        metrics = round_metrics(sums, tuple(confusion))
        gains = Gains(before, gained, lost, gain / (1 << SHARE_SHIFT))
        return ProcessState(state.version + 1, b""), replace(metrics, gains=gains)

    def standardization(self, state: ProcessState) -> Standardization | None:  # noqa: ARG002
        return None

    def next(
        self,
        state: ProcessState,
        weights: Weights,
        clients: Sequence[ClientDataset],
        held_out: Sequence[ClientDataset],
    ) -> tuple[ProcessState, RoundMetrics]:
        """Fine-tune ``weights`` on each of ``clients`` and evaluate it on the part of ``held_out`` of the same id.

        A client without examples in either is left out. Each round shuffles anew. Raises what a client could not do
        (``DataError``, ``KernelError``), naming the client.
        """
        check_weights(weights)
        return run_round(self, self.spec, state, ProcessState(0, weights.to_bytes()), clients, held_out)

    def __call__(
        self, weights: Weights, clients: Sequence[ClientDataset], held_out: Sequence[ClientDataset]
    ) -> RoundMetrics:
        """The metrics of the first ``next``."""
        return self.next(self.initialize(), weights, clients, held_out)[1]

    @property
    def _sum(self) -> IntegerSum:
        unit = 1 << SHARE_SHIFT
        num_values = self.num_counts + NUM_GAINS
        return IntegerSum(num_values, -unit, unit, self.training.max_weight, MAX_TOTAL_WEIGHT)
