"""Federated statistics: mean and spread of every feature over the fleet, in two rounds of exact sums.

    round 1   sums of each feature                    -> mean
    round 2   sums of squares about that mean         -> spread = sqrt(squares / examples)

A client's sum is an integer on a grid of step 2**-s, so the sums over clients do not depend on their order. With N
examples at most in a round and no feature above 2**e in magnitude, s = 62 - ceil(log2 N) - e; squares about the mean
are at most (2 * 2**e)**2. Then no sum can leave an int64.

Two passes, because the one-pass formula (squares minus the squared mean) loses all digits of a small spread about a
large mean. Source: Chan, Golub and LeVeque, "Algorithms for computing the sample variance", 1983.

A task that asks for bins or extremes gets them with the sums of both rounds, so that an update is checked without
knowing its round; those of the second are kept (``edgefl.learning.description``).
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, replace

from edgefl.aggregators import Contribution, ExtremeSums, IntegerSum, SumsAndExtremes
from edgefl.errors import ConfigError, LocalProtocolError
from edgefl.learning.client import INTEGER_ENCODING
from edgefl.learning.counts import as_sums, check_counts, decoded, round_metrics
from edgefl.learning.description import bin_edges, check_description, from_ordered
from edgefl.learning.in_process import run_round
from edgefl.models.model import Model
from edgefl.protocol.messages import ClientUpdate, DescriptionWork, Plan, StatisticsWork
from edgefl.protocol.process import Accumulator, FeatureStatistics, ProcessState, RoundConditions, RoundMetrics
from edgefl.protocol.task import StatisticsSpec, TaskSpec
from edgefl.sums.grid import SUM_BITS, ceil_log2
from edgefl.types import MIN_MAGNITUDE, ClientDataset, Standardization

NUM_ROUNDS = 2

MIN_SPREAD = 1e-6
"""A feature that varies less is taken as constant: its spread counts as 1, so that no noise is blown up."""


@dataclass(frozen=True)
class StatisticsProcess:
    """A statistics task's process; build it by ``build_process`` or ``build_fed_statistics``.

    ``ProcessState.extra`` is empty, then the mean (float32), then mean and inverse spread (float32). Where the task
    asks for bins or extremes more follows, int64 or float64: the mean in either; then in the second the number of
    examples, the mean square about the float32 mean, the histograms, the minima and the maxima.
    """

    spec: TaskSpec
    model: Model

    @property
    def asked(self) -> StatisticsSpec:
        if self.spec.statistics is None:
            raise ConfigError(f"task {self.spec.name!r} has no table [statistics]; expected one")
        return self.spec.statistics

    @property
    def feature_bound(self) -> float:
        return self.asked.feature_bound

    @property
    def described(self) -> bool:
        """Whether the task asks for more than a standardization needs."""
        return self.asked.bins > 0 or self.asked.extremes

    @property
    def max_examples(self) -> int:
        """The largest number of examples that one round can count."""
        return self.spec.round.goal * self.spec.aggregator.max_weight

    def grid_shift(self, state: ProcessState) -> int:
        """``s`` in the round that follows ``state``. Raises ``LocalProtocolError`` after the last."""
        if state.version >= NUM_ROUNDS:
            raise LocalProtocolError(
                f"task {self.spec.name!r} has done its {NUM_ROUNDS} rounds; there is no other plan"
            )
        bound = ceil_log2(self.feature_bound)
        return SUM_BITS - ceil_log2(self.max_examples) - (bound if state.version == 0 else 2 * (bound + 1))

    @property
    def aggregator(self) -> IntegerSum:
        """For both rounds: the grid shift is chosen so that one example adds at most this to a sum."""
        unit = 1 << (SUM_BITS - ceil_log2(self.max_examples))
        return IntegerSum(self.model.num_features, -unit, unit, self.spec.aggregator.max_weight, self.max_examples)

    def initialize(self) -> ProcessState:
        return ProcessState(0, b"")

    def plan(self, state: ProcessState) -> Plan:
        sums = StatisticsWork(
            feature_bound=self.feature_bound,
            grid_shift=self.grid_shift(state),
            max_weight=self.spec.aggregator.max_weight,
            center=None if state.version == 0 else state.extra[: 4 * self.model.num_features],
        )
        work = DescriptionWork(sums, self.asked.bins, self.asked.extremes) if self.described else sums
        return Plan(self.model, work, INTEGER_ENCODING)

    def content(self, state: ProcessState) -> bytes:
        return state.model

    def take(self, device: str, update: ClientUpdate) -> Contribution:
        """The grid sums, then what describes the features, int64.

        Raises ``InvalidUpdateError`` as decoding does, then WEIGHT, NORM, MALFORMED (impossible counts).
        """
        num_features = self.model.num_features
        taken = decoded(device, update, self.spec.seed, INTEGER_ENCODING, self._totals.num_values)
        self.aggregator.check(replace(taken, values=taken.values[: 8 * num_features]))
        check_counts(update, update.weight)
        told = memoryview(taken.values).cast("q")[num_features:]
        check_description(told, update.weight, self.feature_bound, num_features, self.asked.bins)
        return taken

    def new_accumulator(self) -> Accumulator:
        return self._totals.new()

    def fold(self, accumulator: Accumulator, contribution: Contribution) -> None:
        self._totals.fold(as_sums(accumulator, ExtremeSums), contribution)

    def finalize(
        self,
        state: ProcessState,
        accumulator: Accumulator,
        conditions: RoundConditions,  # noqa: ARG002
    ) -> tuple[ProcessState, RoundMetrics]:
        sums = as_sums(accumulator, ExtremeSums)
        totals = self._totals.finalize(sums)
        size = self.model.num_features
        means = [exact_quotient(total, sums.total_weight, self.grid_shift(state)) for total in totals[:size]]
        convert = _mean_float32 if state.version == 0 else _inverse_spread_float32
        extra = state.extra[: 4 * size] + b"".join(convert(mean) for mean in means)
        if self.described and state.version == 0:
            extra += array("d", means).tobytes()
        elif self.described:
            extra += state.extra[4 * size :] + array("q", [sums.total_weight]).tobytes()
            extra += array("d", means).tobytes() + array("q", totals[size:]).tobytes()
        return ProcessState(state.version + 1, b"", extra), round_metrics(sums)

    def standardization(self, state: ProcessState) -> Standardization | None:
        return None if state.version < NUM_ROUNDS else self._standardization(state)

    def _standardization(self, finished: ProcessState) -> Standardization:
        size = 4 * self.model.num_features
        return Standardization(finished.extra[:size], finished.extra[size : 2 * size])

    def result(self, state: ProcessState) -> tuple[FeatureStatistics, ...] | None:
        """One per feature; None before the task is finished, and where it asks for neither bins nor extremes."""
        return None if state.version < NUM_ROUNDS or not self.described else self._described_features(state)

    def _described_features(self, finished: ProcessState) -> tuple[FeatureStatistics, ...]:
        size, bins = self.model.num_features, self.asked.bins
        numbers = memoryview(finished.extra)[8 * size :]
        means, numbers = numbers[: 8 * size].cast("d"), numbers[8 * size :]
        (count,), numbers = numbers[:8].cast("q"), numbers[8:]
        squares, told = numbers[: 8 * size].cast("d"), numbers[8 * size :].cast("q").tolist()
        extremes: list[float | None] = [from_ordered(order) for order in told[size * bins :]] or [None] * (2 * size)
        edges = bin_edges(self.feature_bound, bins)
        return tuple(
            FeatureStatistics(
                count=count,
                mean=means[i],
                spread=math.sqrt(squares[i]),
                minimum=extremes[i],
                maximum=extremes[size + i],
                edges=edges,
                histogram=tuple(told[i * bins : (i + 1) * bins]),
            )
            for i in range(size)
        )

    def next(self, state: ProcessState, clients: Sequence[ClientDataset]) -> tuple[ProcessState, RoundMetrics]:
        """One round in this process with all ``clients`` that have examples. Raises what a client could not do."""
        return run_round(self, self.spec, state, state, clients)

    def __call__(self, clients: Sequence[ClientDataset]) -> Standardization:
        """Both rounds in this process: mean and spread over all examples of ``clients``."""
        return self._standardization(self._finished(clients))

    def describe(self, clients: Sequence[ClientDataset]) -> tuple[FeatureStatistics, ...]:
        """Both rounds in this process: what the features of all ``clients`` are like.

        Raises ``LocalProtocolError`` when the process was built with neither ``bins`` nor ``extremes``.
        """
        if not self.described:
            raise LocalProtocolError("these statistics ask for neither bins nor extremes; build them with one of both")
        return self._described_features(self._finished(clients))

    def _finished(self, clients: Sequence[ClientDataset]) -> ProcessState:
        state = self.initialize()
        for _ in range(NUM_ROUNDS):
            state, _metrics = self.next(state, clients)
        return state

    @property
    def _totals(self) -> SumsAndExtremes:
        size = self.model.num_features
        added = replace(self.aggregator, num_values=size * (1 + self.asked.bins))
        return SumsAndExtremes(added, size if self.asked.extremes else 0)


def exact_quotient(total: int, count: int, grid_shift: int) -> float:
    """``total * 2**-grid_shift / count``, rounded once to binary64 (a division of two Python integers is exact so)."""
    return total / (count << grid_shift) if grid_shift >= 0 else (total << -grid_shift) / count


def _mean_float32(mean: float) -> bytes:
    return struct.pack("<f", mean if abs(mean) >= MIN_MAGNITUDE else 0.0)


def _inverse_spread_float32(variance: float) -> bytes:
    spread = math.sqrt(variance)
    return struct.pack("<f", 1.0 / spread if spread >= MIN_SPREAD else 1.0)
