"""Federated averaging: clients run SGD, the server applies the weighted mean of their deltas.

    plan ──> [SGD on the device] ──> delta, weight ──> aggregator ──> mean delta ──> server optimizer ──> model

``ProcessState.model`` is the global model and ``extra`` the server optimizer's state. The task's definition is the
only source of all options, so the same definition simulated and deployed gives the same bits.

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017, algorithm 1;
the server optimizer: Reddi et al., "Adaptive Federated Optimization", 2021.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgefl import codecs, optimizers
from edgefl.aggregators import TrainingAggregator, training_aggregator
from edgefl.errors import ConfigError, LocalProtocolError
from edgefl.learning.counts import as_sums, check_counts, contribution_of, round_metrics
from edgefl.learning.in_process import run_round
from edgefl.models.softmax import SoftmaxModel
from edgefl.protocol.messages import ClientUpdate, Plan, TrainingWork
from edgefl.protocol.process import Accumulator, ProcessState, RoundMetrics
from edgefl.protocol.task import ClientSpec, TaskSpec
from edgefl.types import ClientDataset, Standardization, Weights


@dataclass(frozen=True)
class TrainingProcess:
    """A training task's process; build it by ``build_process`` or ``build_weighted_fed_avg``.

    ``standardized`` is False while the statistics that ``standardize_by`` names are not known: there is no plan yet.
    """

    spec: TaskSpec
    model: SoftmaxModel
    work: TrainingWork
    aggregator: TrainingAggregator
    server_optimizer: optimizers.ServerOptimizer
    standardized: bool

    def initialize(self) -> ProcessState:
        model = self.model.initial_weights().to_bytes()
        return ProcessState(0, model, self.server_optimizer.init(self.model.num_parameters))

    def plan(self, state: ProcessState) -> Plan:  # noqa: ARG002
        """The same in every round. Raises ``LocalProtocolError`` while the standardization is not known."""
        if not self.standardized:
            assert self.spec.model is not None
            raise LocalProtocolError(
                f"task {self.spec.name!r} has no plan before task {self.spec.model.standardize_by!r} is complete"
            )
        return Plan(self.model, self.work, self.spec.encoding)

    def decode(self, update: ClientUpdate) -> bytes:
        """The delta, float32."""
        return codecs.decode(update.encoding, self.spec.encoding, update.payload, self.model.num_parameters)

    def check(self, update: ClientUpdate, decoded: bytes) -> None:
        """Raises ``InvalidUpdateError``: WEIGHT, MALFORMED (impossible counts), NORM."""
        self.aggregator.check(contribution_of(update, decoded))
        check_counts(update, update.weight * self.work.local_epochs)

    def new_accumulator(self) -> Accumulator:
        return self.aggregator.new()

    def fold(self, accumulator: Accumulator, update: ClientUpdate, decoded: bytes) -> None:
        self.aggregator.fold(as_sums(accumulator), contribution_of(update, decoded))

    def finalize(self, state: ProcessState, accumulator: Accumulator) -> tuple[ProcessState, RoundMetrics]:
        """Metrics count an example once in each local epoch, by the forward pass before its step."""
        sums = as_sums(accumulator)
        mean_delta = self.aggregator.finalize(sums)
        extra, model = self.server_optimizer.apply(state.extra, state.model, mean_delta)
        return ProcessState(state.version + 1, model, extra), round_metrics(sums)

    def standardization(self, state: ProcessState) -> Standardization | None:  # noqa: ARG002
        return None

    def next(self, state: ProcessState, clients: Sequence[ClientDataset]) -> tuple[ProcessState, RoundMetrics]:
        """One round in this process with all ``clients`` that have examples; their order does not matter.

        Raises what a client could not do (``DataError``, ``KernelError``), naming the client.
        """
        return run_round(self, self.spec, state, state, clients)

    def get_model(self, state: ProcessState) -> Weights:
        """The global model of ``state``."""
        return Weights.from_bytes(state.model, self.model.num_classes, self.model.num_features)


def training_work(client: ClientSpec, max_weight: int) -> TrainingWork:
    """What devices are told of a definition's ``[client]``."""
    return TrainingWork(
        learning_rate=client.learning_rate,
        batch_size=client.batch_size,
        local_epochs=client.local_epochs,
        l2=client.l2,
        momentum=client.momentum,
        proximal=client.proximal,
        clip_norm=client.clip_norm,
        shuffle=client.shuffle,
        max_weight=max_weight,
    )


def build_training(spec: TaskSpec, model: SoftmaxModel, *, standardized: bool) -> TrainingProcess:
    """Raises ``ConfigError`` for a name in ``spec`` that is not registered."""
    client = spec.client
    assert client is not None  # TaskSpec checks it for this kind
    if codecs.codec(spec.encoding).value_format != "f":
        raise ConfigError(f"encoding is {spec.encoding!r}, which carries integers; expected one for deltas: 'float32'")
    work = training_work(client, spec.aggregator.max_weight)
    aggregator = training_aggregator(
        spec.aggregator.name,
        num_values=model.num_parameters,
        norm_bound=spec.aggregator.norm_bound,
        clip_norm=spec.aggregator.clip_norm,
        max_weight=spec.aggregator.max_weight,
    )
    return TrainingProcess(spec, model, work, aggregator, spec.server_optimizer.build(), standardized)
