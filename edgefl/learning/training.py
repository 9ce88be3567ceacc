"""Training: the process that is composed of four parts (``edgefl.learning.parts``).

    state ──> distributor ──> [client work on the device] ──> delta, weight ──> aggregator ──> finalizer ──> state

``ProcessState.model`` is the global model and ``extra`` the finalizer's state. A process that ``build_process`` makes
has the parts that its definition names, so the same definition simulated and deployed gives the same bits. With parts
of a user's own (``dataclasses.replace(process, aggregator=...)``, or ``compose``) it runs wherever those parts are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgefl import codecs
from edgefl.aggregators import MAX_TOTAL_WEIGHT, Contribution, Sums, TrainingAggregator, WholeRound
from edgefl.aggregators.weighted_mean import WeightedMean
from edgefl.errors import ConfigError, KernelError, LocalProtocolError
from edgefl.learning.cohort import fold_cohort
from edgefl.learning.counts import as_sums, check_counts, decoded, round_metrics
from edgefl.learning.in_process import check_state, check_weights, run_round
from edgefl.learning.loss_grid import loss_to_grid
from edgefl.learning.parts import ClientWork, Closing, Distributor, Finalizer, ModelDistributor
from edgefl.learning.shapes import model_spec, one_process, shape_of
from edgefl.models.model import Model
from edgefl.protocol.initial import check_shapes, usable
from edgefl.protocol.messages import Assignment, ClientUpdate, Plan
from edgefl.protocol.process import Accumulator, ProcessState, RoundConditions, RoundMetrics
from edgefl.protocol.task import TaskKind, TaskSpec
from edgefl.settings import checked
from edgefl.types import ClientDataset, Standardization, Weights

METHODS = {
    "client_work": ("work", "local_epochs"),
    "aggregator": ("check", "new", "fold", "finalize"),
    "finalizer": ("init", "apply"),
    "distributor": ("content",),
}
"""What ``compose`` looks for in a part (``edgefl.learning.parts``): the interfaces are structural."""


@dataclass(frozen=True)
class TrainingProcess:
    """A training task's process; build it by ``build_process``, a ``build_*`` function or ``compose``.

    ``standardized`` is False while the statistics that ``standardize_by`` names are not known: there is no plan yet.
    ``population``: what ``next`` takes for the size of the whole population; 0 for the clients that it is given.
    """

    spec: TaskSpec
    model: Model
    distributor: Distributor
    client_work: ClientWork
    aggregator: TrainingAggregator
    finalizer: Finalizer
    standardized: bool = True
    population: int = 0

    def __post_init__(self) -> None:
        if codecs.codec(self.spec.encoding).value_format != "f":
            raise ConfigError(
                f"encoding is {self.spec.encoding!r}, which carries integers; expected one for deltas: 'float32'"
            )

    def initialize(self, weights: Weights | None = None) -> ProcessState:
        """The state of version 0, which begins at ``weights``: None for those that the model begins at.

        Raises ``ConfigError`` for weights of another shape, and for an aggregator of the whole round whose updates take
        too much memory; ``DataError`` for weights that are not finite.
        """
        self.new_accumulator()  # what cannot be folded is said before the first round
        if isinstance(self.aggregator, WholeRound):
            self.aggregator.check_round(self.spec.round.goal)
        model = self.model.initial_weights(self.spec.seed).to_bytes()
        if weights is not None:
            check_weights(weights)
            check_shapes(self.spec, weights.shapes, "weights")
            model = usable(weights).to_bytes()
        return ProcessState(0, model, self.finalizer.init(self.model.num_parameters))

    def plan(self, state: ProcessState) -> Plan:
        """Raises ``LocalProtocolError`` while the standardization is not known."""
        if not self.standardized:
            other = shape_of(self.spec).standardize_by
            raise LocalProtocolError(f"task {self.spec.name!r} has no plan before task {other!r} is complete")
        return Plan(self.model, self.client_work.work(state.version), self.spec.encoding)

    def content(self, state: ProcessState) -> bytes:
        return self.distributor.content(state)

    def take(self, device: str, update: ClientUpdate) -> Contribution:
        """The delta, float32. Raises ``InvalidUpdateError`` as decoding does, then WEIGHT, NORM, MALFORMED (impossible
        counts)."""
        taken = decoded(device, update, self.spec.seed, self.spec.encoding, self.model.num_parameters)
        self.aggregator.check(taken)
        check_counts(update, update.weight * self.client_work.local_epochs)
        return taken

    def new_accumulator(self) -> Accumulator:
        """Raises ``ConfigError`` for an aggregator of a user's own whose sums are not ``Sums``."""
        made = self.aggregator.new()
        if not isinstance(made, Sums):
            raise ConfigError(
                f"{type(self.aggregator).__name__}.new() makes a {type(made).__name__}; expected a subclass of "
                "edgefl.aggregators.Sums: derive it from Sums, and let fold call its add_counts (docs/extending.md)"
            )
        return made

    def fold(self, accumulator: Accumulator, contribution: Contribution) -> None:
        self.aggregator.fold(as_sums(accumulator), contribution)

    def finalize(
        self, state: ProcessState, accumulator: Accumulator, conditions: RoundConditions
    ) -> tuple[ProcessState, RoundMetrics]:
        """Metrics count an example once in each local epoch, by the forward pass before its step."""
        sums = as_sums(accumulator)
        aggregate = self.aggregator.finalize(sums)
        closing = Closing(sums.num_reports, conditions.population, conditions.learning_rate)
        extra, model = self.finalizer.apply(state.extra, state.model, aggregate, closing)
        return ProcessState(state.version + 1, model, extra, state.clients), round_metrics(sums)

    def standardization(self, state: ProcessState) -> Standardization | None:  # noqa: ARG002
        return None

    def next(self, state: ProcessState, clients: Sequence[ClientDataset]) -> tuple[ProcessState, RoundMetrics]:
        """One round in this process with all ``clients`` that have examples; their order does not matter.

        Raises what a client could not do (``DataError``, ``KernelError``), naming the client.
        """
        return run_round(
            self, self.spec, state, state, clients, population=self.population, fold_at_once=self._fold_at_once
        )

    def _fold_at_once(self, assignment: Assignment, content: bytes, clients: Sequence[ClientDataset]) -> Sums | None:
        """What ``take`` and ``fold`` make of each client's update, where they have nothing to convert, to scale or to
        refuse: the delta then goes into the sums while it is in the caches."""
        mean = self.aggregator
        if type(self) is not TrainingProcess or type(mean) is not WeightedMean or mean.clip_norm:
            return None
        weights = [len(client) for client in clients]
        total = sum(weights)
        if max(weights) > mean.max_weight or total > MAX_TOTAL_WEIGHT:
            return None
        found = fold_cohort(assignment, content, clients, grid_shift=mean.grid_shift, norm_bound=mean.norm_bound)
        if found is None:
            return None
        try:
            loss_grid = sum(map(loss_to_grid, found.loss_sums))
        except KernelError:
            return None
        return Sums(found.sums, total, len(clients), found.examples_seen, found.num_correct, loss_grid)

    def get_model(self, state: ProcessState) -> Weights:
        """The global model of ``state``."""
        check_state(state)
        return self.model.weights(state.model)


def compose(
    model: Model,
    *,
    client_work: ClientWork,
    aggregator: TrainingAggregator,
    finalizer: Finalizer,
    distributor: Distributor | None = None,
    seed: int = 0,
    encoding: str = "float32",
) -> TrainingProcess:
    """A training process of these parts; by default devices download the model alone.

    It runs in this Python process. A part that a server is to run belongs into a process of a name
    (``edgefl.learning.processes``), which a task file can give. Raises ``ConfigError`` for an unknown ``encoding``.
    """
    parts = {"client_work": client_work, "aggregator": aggregator, "finalizer": finalizer, "distributor": distributor}
    for name, part in parts.items():
        lacking = [method for method in METHODS[name] if not hasattr(part, method)]
        if isinstance(part, type) or (lacking and not (name == "distributor" and part is None)):
            raise ConfigError(f"{name} is {part!r:.80}; expected an object with {', '.join(METHODS[name])}")
    spec = one_process("training", TaskKind.TRAINING, "", model=model_spec(model))
    return TrainingProcess(
        replace(spec, seed=checked("seed", seed, int), encoding=checked("encoding", encoding, str)),
        model,
        distributor=distributor or ModelDistributor(),
        client_work=client_work,
        aggregator=aggregator,
        finalizer=finalizer,
    )
