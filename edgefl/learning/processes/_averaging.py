"""What the processes that average deltas share: their options from Python, and their parts from a definition."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any, TypedDict

from edgefl.aggregators import TrainingAggregator, training_aggregator
from edgefl.errors import ConfigError
from edgefl.learning.parts import ClientWork, Distributor, Finalizer, LocalSgd, ModelDistributor, ServerStep
from edgefl.learning.shapes import model_of, model_spec, one_process, shape_of
from edgefl.learning.training import TrainingProcess
from edgefl.models.model import Model
from edgefl.optimizers import ServerOptimizer, Sgd, sgd
from edgefl.protocol.messages import TrainingWork
from edgefl.protocol.schedule import CONSTANT, Schedule
from edgefl.protocol.task import AggregatorSpec, ClientSpec, ServerOptimizerSpec, TaskKind, TaskSpec
from edgefl.settings import checked, typed
from edgefl.types import Standardization, check_kind

MEAN = "weighted_mean"
"""The aggregator of a definition that names none."""


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
    schedule: Schedule


def averaging_spec(
    process: str,
    model: Model,
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
    schedule: Schedule = CONSTANT,
) -> TaskSpec:
    """The definition of a training that names ``process``; options as in ``build_weighted_fed_avg``."""
    check_client_optimizer(client_optimizer)
    server = sgd(1.0) if server_optimizer is None else server_optimizer
    check_server_optimizer(server)
    client = typed(
        ClientSpec,
        learning_rate=client_optimizer.learning_rate,
        batch_size=batch_size,
        local_epochs=local_epochs,
        l2=l2,
        momentum=client_optimizer.momentum,
        proximal=proximal,
        clip_norm=clip_norm,
        shuffle=shuffle,
        schedule=schedule,
    )
    return replace(
        one_process("training", TaskKind.TRAINING, process, model=model_spec(model), client=client),
        seed=checked("seed", seed, int),
        encoding=checked("encoding", encoding, str),
        aggregator=typed(AggregatorSpec, norm_bound=norm_bound, clip_norm=update_clip_norm, max_weight=max_weight),
        server_optimizer=ServerOptimizerSpec.of(server),
    )


def check_client_optimizer(optimizer: object) -> None:
    """Raises ``ConfigError``: devices run SGD, and no other optimizer."""
    check_kind("client_optimizer", optimizer, Sgd, "an optimizers.sgd(RATE), the one that devices run")


def check_server_optimizer(optimizer: object) -> None:
    """Raises ``ConfigError`` for anything that is not a server optimizer: a dataclass that a definition can name."""
    if not dataclasses.is_dataclass(optimizer) or isinstance(optimizer, type) or not hasattr(optimizer, "apply"):
        raise ConfigError(f"server_optimizer is {optimizer!r:.80}; expected one such as optimizers.sgd(1.0)")


def client_of(spec: TaskSpec) -> ClientSpec:
    """The definition's ``[client]``. Raises ``ConfigError`` when it has none."""
    if spec.client is None:
        raise ConfigError(f"process {spec.process_name!r} needs a table [client]; add one with a learning_rate")
    return spec.client


def training_work(client: ClientSpec, max_weight: int, **changes: Any) -> TrainingWork:
    """What devices are told of a definition's ``[client]``, with ``changes``."""
    client = replace(client, **changes)
    return TrainingWork(client.sgd, client.shuffle, max_weight)


def local_sgd(spec: TaskSpec) -> LocalSgd:
    """The SGD of a definition's ``[client]``. Raises ``ConfigError`` when it has none."""
    client = client_of(spec)
    return LocalSgd(training_work(client, spec.aggregator.max_weight), client.schedule)


def averaging(
    spec: TaskSpec,
    standardization: Standardization | None,
    *,
    mean: str = "",
    client_work: ClientWork | None = None,
    aggregator: TrainingAggregator | None = None,
    distributor: Distributor | None = None,
    finalizer: Finalizer | None = None,
) -> TrainingProcess:
    """The process of ``spec``, with the usual part wherever none is given.

    ``mean`` is the one aggregator that the process works with; '' for any. Raises ``ConfigError`` for a name in
    ``spec`` that is not registered, or is another than ``mean``.
    """
    model = model_of(spec, standardization)
    named = spec.aggregator.name
    if mean and named not in ("", mean):
        raise ConfigError(f"aggregator is {named!r}; process {spec.process_name!r} works with {mean!r}: leave it out")
    name = mean or named or MEAN
    if spec.round.sampling == "by_size" and (aggregator is not None or name == MEAN):
        raise ConfigError(
            "sampling is 'by_size', which an aggregator must not weigh again; set the aggregator's name to "
            "'unweighted_mean', in a process that takes one"
        )
    return TrainingProcess(
        spec,
        model,
        distributor=distributor or ModelDistributor(),
        client_work=client_work or local_sgd(spec),
        aggregator=aggregator or _aggregator(spec, name, model.num_parameters),
        finalizer=finalizer or ServerStep(spec.server_optimizer.build()),
        standardized=not shape_of(spec).standardize_by or standardization is not None,
    )


def _aggregator(spec: TaskSpec, name: str, num_values: int) -> TrainingAggregator:
    options = spec.aggregator
    return training_aggregator(
        name,
        num_values=num_values,
        norm_bound=options.norm_bound,
        clip_norm=options.clip_norm,
        max_weight=options.max_weight,
        options=options.options,
    )
