"""SCAFFOLD on the server: four parts of a training whose clients correct their drift by control variates.

    content       model x, then the server's variate c
    client work   y_i -= rate * (g_i(y_i) + c - c_i) for K steps; delta_i = y_i - x       edgefl.learning.variates
    aggregate     mean of delta_i, then mean of delta_i / K_i; each client counts once
    finalize      x by the server optimizer;  c by the sum of what the clients' variates change

A client's variate changes by ``d_i = -c - delta_i / (K_i * rate)``, which the server knows from the delta alone: K_i
follows from the number of examples, and the rate is recorded in the round. So an update is no larger than one of
FedAvg, and no variate leaves its device. With ``n`` devices of ``N`` counted

    c' = (N_before * c + sum of d_i) / N = c + ((N_before - n) / N - 1) * c - n / (N * rate) * mean(delta_i / K_i)

which keeps ``c`` the mean of the variates of all N devices of the population, those that were never in a round (whose
variates are 0) among them, also while the population grows. Where it shrinks, N_before counts as N: nobody knows whose
variates have left, so those that stay are taken to have the same mean. N is recorded in the round.

``ProcessState.extra`` is the last round's N (8 bytes), c (float32 like the model), then the server optimizer's state.

Source: Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", 2020, algorithm 1 with
option II; both means are unweighted there.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass, replace

from edgefl import kernels
from edgefl.aggregators import MAX_TOTAL_WEIGHT, Contribution, Sums
from edgefl.aggregators.weighted_mean import WeightedMean
from edgefl.errors import LocalProtocolError
from edgefl.learning.parts import Closing, LocalSgd
from edgefl.optimizers import ServerOptimizer
from edgefl.protocol.messages import ScaffoldWork, Work
from edgefl.protocol.process import ProcessState
from edgefl.sums.running import check_total
from edgefl.types import to_float32

_POPULATION_BYTES = 8


@dataclass(frozen=True)
class VariateDistributor:
    """Devices download the model and the server's variate."""

    def content(self, state: ProcessState) -> bytes:
        return state.model + state.extra[_POPULATION_BYTES : _POPULATION_BYTES + len(state.model)]


@dataclass(frozen=True)
class CorrectedSgd:
    """Devices run the SGD of ``sgd``, corrected."""

    sgd: LocalSgd

    @property
    def local_epochs(self) -> int:
        return self.sgd.local_epochs

    def work(self, version: int) -> Work:
        return ScaffoldWork(self.sgd.work(version))


@dataclass(frozen=True)
class DeltaAndStepMean:
    """Two exact unweighted means in one: of the deltas, and of each delta divided by its number of steps.

    ``mean`` has the bounds and the grid of both. A client of ``w`` examples takes ``local_epochs`` times the batches of
    ``batch_size`` that ``w`` needs.
    """

    mean: WeightedMean
    local_epochs: int
    batch_size: int

    def new(self) -> Sums:
        return Sums.zeros(2 * self.mean.num_values)

    def check(self, contribution: Contribution) -> None:
        self.mean.check(contribution)

    def fold(self, sums: Sums, contribution: Contribution) -> None:
        check_total(sums.total_weight, 1, MAX_TOTAL_WEIGHT)
        values, middle = memoryview(sums.values), self.mean.num_values
        steps = self.local_epochs * math.ceil(contribution.weight / self.batch_size)
        kernels.accumulate(values[:middle], contribution.values, 1, self.mean.grid_shift, 1.0)
        kernels.accumulate(values[middle:], contribution.values, 1, self.mean.grid_shift, 1.0 / steps)
        sums.add_counts(replace(contribution, weight=1))

    def merge(self, sums: Sums, other: Sums) -> None:
        self.mean.merge(sums, other)

    def finalize(self, sums: Sums) -> bytes:
        """Both means, one after the other: twice ``num_values`` float64."""
        return self.mean.finalize(sums)


@dataclass(frozen=True)
class VariateStep:
    """The server optimizer applies the mean delta, and the server's variate follows those of the clients."""

    optimizer: ServerOptimizer

    def init(self, num_values: int) -> bytes:
        return bytes(_POPULATION_BYTES) + bytes(4 * num_values) + self.optimizer.init(num_values)

    def apply(self, extra: bytes, model: bytes, aggregate: bytes, closing: Closing) -> tuple[bytes, bytes]:
        if closing.population < closing.num_reports or closing.learning_rate <= 0:
            raise LocalProtocolError(
                f"a round of {closing.num_reports} reports at rate {closing.learning_rate} records a population of "
                f"{closing.population}; expected at least as many as reports, and a rate above 0"
            )
        end, middle = _POPULATION_BYTES + len(model), 2 * len(model)
        before = min(int.from_bytes(extra[:_POPULATION_BYTES], "little") or closing.population, closing.population)
        inner, next_model = self.optimizer.apply(extra[end:], model, aggregate[:middle])
        variate = _follow(extra[_POPULATION_BYTES:end], before, aggregate[middle:], closing)
        return closing.population.to_bytes(_POPULATION_BYTES, "little") + variate + inner, next_model


def _follow(variate: bytes, before: int, mean_step: bytes, closing: Closing) -> bytes:
    share = closing.num_reports / closing.population
    kept = (before - closing.num_reports) / closing.population - 1.0
    shrunk = kernels.apply_update(variate, array("d", memoryview(variate).cast("f")), kept)
    return kernels.apply_update(shrunk, memoryview(mean_step).cast("d"), -share / to_float32(closing.learning_rate))
