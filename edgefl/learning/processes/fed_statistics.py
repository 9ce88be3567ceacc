"""``fed_statistics``: mean and spread of every feature over the fleet, by exact sums."""

from __future__ import annotations

from edgefl.learning.processes import ProcessType
from edgefl.learning.shapes import model_of, model_spec, one_process
from edgefl.learning.statistics import NUM_ROUNDS, StatisticsProcess
from edgefl.models.kinds.softmax import SoftmaxModel
from edgefl.models.model import Model
from edgefl.protocol.task import AggregatorSpec, StatisticsSpec, TaskKind, TaskSpec
from edgefl.settings import checked, typed
from edgefl.types import DType, Quantization, Standardization


def build(spec: TaskSpec, standardization: Standardization | None, _: Model | None) -> StatisticsProcess:
    return StatisticsProcess(spec, model_of(spec, standardization))


PROCESS = ProcessType(TaskKind.STATISTICS, build)


def build_fed_statistics(
    num_features: int,
    feature_bound: float,
    *,
    dtype: DType = DType.FLOAT32,
    quantization: Quantization | None = None,
    max_clients: int = 1000,
    max_weight: int = 100_000,
    bins: int = 0,
    extremes: bool = False,
) -> StatisticsProcess:
    """Mean and spread of every feature: ``statistics(clients)`` gives the ``Standardization`` for a ``SoftmaxModel``.

    No feature may be larger than ``feature_bound`` in magnitude. ``max_clients`` times ``max_weight`` examples are the
    most that a round may count, at most 2**32; the fewer, the finer the grid of the sums. A task file whose goal is
    ``max_clients`` gives the same bits.

    With ``bins``, or with ``extremes``, ``statistics.describe(clients)`` gives ``FeatureStatistics`` of every feature:
    a histogram over so many equal bins of ``[-feature_bound, feature_bound]``; the least and the largest value.
    """
    meaning = Quantization() if quantization is None else quantization
    model = SoftmaxModel(num_features, 1, dtype=dtype, quantization=meaning)
    spec = one_process(
        "statistics",
        TaskKind.STATISTICS,
        "fed_statistics",
        goal=checked("max_clients", max_clients, int),
        rounds=NUM_ROUNDS,
        model=model_spec(model),
        statistics=typed(StatisticsSpec, feature_bound=feature_bound, bins=bins, extremes=extremes),
        aggregator=typed(AggregatorSpec, max_weight=max_weight),
    )
    return build(spec, None, None)
