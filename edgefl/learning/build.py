"""Processes from Python, without a task file: the names that the field knows from TensorFlow Federated.

Each function writes the task definition that an operator would write, and builds its process by the same factory as
the server does. ``process.spec`` is that definition.
"""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TypedDict, Unpack

from edgefl.errors import ConfigError
from edgefl.learning.evaluation import EvaluationProcess
from edgefl.learning.personalization import PersonalizationProcess
from edgefl.learning.registry import build_process
from edgefl.learning.statistics import NUM_ROUNDS, StatisticsProcess
from edgefl.learning.training import TrainingProcess
from edgefl.models.softmax import SoftmaxModel
from edgefl.optimizers import ServerOptimizer, Sgd, sgd
from edgefl.protocol.task import (
    AggregatorSpec,
    ClientSpec,
    ModelSpec,
    RoundSpec,
    ServerOptimizerSpec,
    StatisticsSpec,
    TaskKind,
    TaskSpec,
)
from edgefl.types import MAX_BATCH, DType, Quantization

POPULATION = "in-process"
"""The population that these definitions name: the clients that are handed to ``next``."""

_ROUND = RoundSpec(goal=1, minimum=1)
"""``next`` takes all the clients that it is given; a goal does not enter the arithmetic of a mean or of counts."""


class AveragingOptions(TypedDict, total=False):
    """The options of ``build_weighted_fed_avg``, which has their meanings and defaults, but for ``proximal``."""

    server_optimizer: ServerOptimizer | None
    batch_size: int
    local_epochs: int
    shuffle: bool
    l2: float
    clip_norm: float
    seed: int
    norm_bound: float
    update_clip_norm: float
    max_weight: int
    encoding: str


def build_weighted_fed_avg(
    model: SoftmaxModel,
    client_optimizer: Sgd,
    *,
    server_optimizer: ServerOptimizer | None = None,
    batch_size: int = 32,
    local_epochs: int = 1,
    shuffle: bool = True,
    l2: float = 0.0,
    proximal: float = 0.0,
    clip_norm: float = 0.0,
    seed: int = 0,
    norm_bound: float = 64.0,
    update_clip_norm: float = 0.0,
    max_weight: int = 100_000,
    encoding: str = "float32",
) -> TrainingProcess:
    """Federated averaging: each client's delta weighs as many as its training examples.

    ``client_optimizer``  on each client, over batches of ``batch_size`` in ``local_epochs`` passes, shuffled by
                          ``seed``, with ``l2``, ``proximal`` (FedProx) and gradient clipping to ``clip_norm``, as in
                          ``edgefl.types.TrainConfig``.
    ``server_optimizer``  applied to the mean delta; by default ``sgd(1.0)``, which is plain averaging.
    ``norm_bound``        a delta of a larger L2 norm is refused; it fixes the grid of the exact mean.
    ``update_clip_norm``  a delta of a larger L2 norm is scaled down to it; 0 never scales.
    ``max_weight``        the most examples that a client may have.

    Raises ``ConfigError`` for an option out of range.
    """
    server = sgd(1.0) if server_optimizer is None else server_optimizer
    spec = TaskSpec(
        name="training",
        kind=TaskKind.TRAINING,
        population=POPULATION,
        round=_ROUND,
        seed=seed,
        encoding=encoding,
        model=_model_spec(model),
        client=ClientSpec(
            learning_rate=client_optimizer.learning_rate,
            batch_size=batch_size,
            local_epochs=local_epochs,
            l2=l2,
            momentum=client_optimizer.momentum,
            proximal=proximal,
            clip_norm=clip_norm,
            shuffle=shuffle,
        ),
        aggregator=AggregatorSpec(norm_bound=norm_bound, clip_norm=update_clip_norm, max_weight=max_weight),
        server_optimizer=ServerOptimizerSpec(server.name, **asdict(server)),
    )
    return _training(spec, model)


def build_unweighted_fed_avg(
    model: SoftmaxModel, client_optimizer: Sgd, **options: Unpack[AveragingOptions]
) -> TrainingProcess:
    """Federated averaging in which every client's delta counts once, however many examples it has.

    Options as in ``build_weighted_fed_avg``. In a task file it is the aggregator ``unweighted_mean``.
    """
    spec = build_weighted_fed_avg(model, client_optimizer, **options).spec
    return _training(replace(spec, aggregator=replace(spec.aggregator, name="unweighted_mean")), model)


def build_weighted_fed_prox(
    model: SoftmaxModel, client_optimizer: Sgd, *, proximal_strength: float, **options: Unpack[AveragingOptions]
) -> TrainingProcess:
    """FedProx: federated averaging whose clients add ``proximal_strength * (w - w_start)`` to every gradient.

    Options as in ``build_weighted_fed_avg``, which it equals at strength 0.

    Source: Li et al., "Federated Optimization in Heterogeneous Networks", 2020, algorithm 2; its mu is
    ``proximal_strength``. ``proximal_strength / 2 * |w - w_start|**2`` is what joins the loss.
    """
    return build_weighted_fed_avg(model, client_optimizer, proximal=proximal_strength, **options)


def build_fed_sgd(
    model: SoftmaxModel,
    server_optimizer: ServerOptimizer,
    *,
    l2: float = 0.0,
    norm_bound: float = 64.0,
    update_clip_norm: float = 0.0,
    max_weight: int = 100_000,
    encoding: str = "float32",
) -> TrainingProcess:
    """FedSGD: each client gives the gradient over all its examples, and the server takes one step along their mean.

    The delta is minus the gradient: one step at rate 1 on a single batch, which is as large as a client may be. So the
    rate is the server's, ``sgd(0.1)`` say, and the mean weighs clients by their examples, which makes it the gradient
    over all examples of the round. Options as in ``build_weighted_fed_avg``; ``max_weight`` is at most 2**20, the most
    examples in a batch: a client that has more is refused, for it would take several steps.

    Raises ``ConfigError`` for an option out of range.

    The kernel subtracts example by example from the float32 weights, so a share below half a unit in the last place of
    a weight is lost. Against a float64 gradient (20 features, 10 classes) the step is off, at weights of 0 and of
    spread 1, by 1e-7 and 1.4e-6 for 100 examples a client, 1.6e-7 and 4e-6 for 1,000, 3e-7 and 3e-5 for 10,000.

    Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017,
    section 2 (FederatedSGD).
    """
    if max_weight > MAX_BATCH:
        raise ConfigError(f"max_weight is {max_weight}; expected at most {MAX_BATCH}, the most examples in a batch")
    return build_weighted_fed_avg(
        model,
        sgd(1.0),
        server_optimizer=server_optimizer,
        batch_size=max_weight,
        shuffle=False,
        l2=l2,
        norm_bound=norm_bound,
        update_clip_norm=update_clip_norm,
        max_weight=max_weight,
        encoding=encoding,
    )


def build_fed_eval(model: SoftmaxModel, *, max_weight: int = 100_000) -> EvaluationProcess:
    """Evaluation: ``evaluate(weights, held_out)`` gives accuracy, mean loss and confusion counts over all examples."""
    spec = TaskSpec(
        name="evaluation",
        kind=TaskKind.EVALUATION,
        population=POPULATION,
        round=_ROUND,
        evaluates="training",
        aggregator=AggregatorSpec(max_weight=max_weight),
    )
    process = build_process(spec, None, model)
    assert isinstance(process, EvaluationProcess)
    return process


def build_personalization_eval(
    model: SoftmaxModel,
    client_optimizer: Sgd,
    *,
    batch_size: int = 32,
    local_epochs: int = 1,
    shuffle: bool = True,
    l2: float = 0.0,
    proximal: float = 0.0,
    clip_norm: float = 0.0,
    seed: int = 0,
    max_weight: int = 100_000,
) -> PersonalizationProcess:
    """Personalization: ``evaluate(weights, clients, held_out)`` gives accuracies before and after fine-tuning.

    Each client trains ``weights`` on its own examples by ``client_optimizer``, with the options of
    ``build_weighted_fed_avg``. What is counted is in ``RoundMetrics`` and its ``gains``. Raises ``ConfigError`` for an
    option out of range.
    """
    spec = TaskSpec(
        name="personalization",
        kind=TaskKind.PERSONALIZATION,
        population=POPULATION,
        round=_ROUND,
        seed=seed,
        evaluates="training",
        client=ClientSpec(
            learning_rate=client_optimizer.learning_rate,
            batch_size=batch_size,
            local_epochs=local_epochs,
            l2=l2,
            momentum=client_optimizer.momentum,
            proximal=proximal,
            clip_norm=clip_norm,
            shuffle=shuffle,
        ),
        aggregator=AggregatorSpec(max_weight=max_weight),
    )
    process = build_process(spec, None, model)
    assert isinstance(process, PersonalizationProcess)
    return process


def build_fed_statistics(
    num_features: int,
    feature_bound: float,
    *,
    dtype: DType = DType.FLOAT32,
    quantization: Quantization | None = None,
    max_clients: int = 1000,
    max_weight: int = 100_000,
) -> StatisticsProcess:
    """Mean and spread of every feature: ``statistics(clients)`` gives the ``Standardization`` for a ``SoftmaxModel``.

    No feature may be larger than ``feature_bound`` in magnitude. ``max_clients`` times ``max_weight`` examples are the
    most that a round may count, at most 2**32; the fewer, the finer the grid of the sums. A task file whose goal is
    ``max_clients`` gives the same bits.
    """
    meaning = Quantization() if quantization is None else quantization
    model = SoftmaxModel(num_features, 1, dtype=dtype, quantization=meaning)
    spec = TaskSpec(
        name="statistics",
        kind=TaskKind.STATISTICS,
        population=POPULATION,
        round=RoundSpec(goal=max_clients, minimum=1),
        rounds=NUM_ROUNDS,
        model=_model_spec(model),
        statistics=StatisticsSpec(feature_bound),
        aggregator=AggregatorSpec(max_weight=max_weight),
    )
    process = build_process(spec, None, None)
    assert isinstance(process, StatisticsProcess)
    return process


def _training(spec: TaskSpec, model: SoftmaxModel) -> TrainingProcess:
    process = build_process(spec, model.standardization, None)
    assert isinstance(process, TrainingProcess)
    return process


def _model_spec(model: SoftmaxModel) -> ModelSpec:
    return ModelSpec(
        num_features=model.num_features,
        num_classes=model.num_classes,
        dtype=model.dtype,
        scale=model.quantization.scale,
        zero_point=model.quantization.zero_point,
        standardize_by="" if model.standardization is None else "statistics",
    )
