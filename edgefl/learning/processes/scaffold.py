"""``scaffold``: federated averaging whose clients correct the drift of their local steps by control variates.

Source: Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", 2020, algorithm 1.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

from edgefl.aggregators.weighted_mean import WeightedMean
from edgefl.errors import ConfigError
from edgefl.learning.processes import ProcessType
from edgefl.learning.processes._averaging import AveragingOptions, averaging, averaging_spec, client_of, local_sgd
from edgefl.learning.scaffold import CorrectedSgd, DeltaAndStepMean, VariateDistributor, VariateStep
from edgefl.learning.shapes import model_of
from edgefl.learning.training import TrainingProcess
from edgefl.models.model import Model
from edgefl.optimizers import Sgd
from edgefl.protocol.messages import MAX_UPLOAD_BYTES
from edgefl.protocol.task import TaskKind, TaskSpec
from edgefl.types import Standardization, check_whole


def build(spec: TaskSpec, standardization: Standardization | None, _: Model | None) -> TrainingProcess:
    client = client_of(spec)
    _check(spec)
    num_values = model_of(spec, standardization).num_parameters
    if 8 * num_values > MAX_UPLOAD_BYTES:
        raise ConfigError(
            f"a model and a control variate of {num_values} values have {8 * num_values} bytes; expected at most "
            f"{MAX_UPLOAD_BYTES}"
        )
    bounds = spec.aggregator
    mean = WeightedMean(num_values, bounds.norm_bound, 0.0, bounds.max_weight)
    return averaging(
        spec,
        standardization,
        distributor=VariateDistributor(),
        client_work=CorrectedSgd(local_sgd(spec)),
        aggregator=DeltaAndStepMean(mean, client.local_epochs, client.batch_size),
        finalizer=VariateStep(spec.server_optimizer.build()),
    )


def _check(spec: TaskSpec) -> None:
    client, bounds = client_of(spec), spec.aggregator
    if client.momentum or client.proximal or client.clip_norm:
        raise ConfigError(
            "process 'scaffold' takes plain SGD on the client: a control variate is the mean gradient of its steps; "
            "leave out momentum, proximal and clip_norm"
        )
    if client.learning_rate <= 0 or client.local_epochs < 1:
        raise ConfigError(
            f"learning_rate {client.learning_rate} and local_epochs {client.local_epochs}; process 'scaffold' needs "
            "both above 0: its variates are of the steps that a client takes"
        )
    if bounds.name or bounds.clip_norm:
        raise ConfigError(
            "process 'scaffold' has an aggregator of its own, an unweighted mean that does not scale updates; leave "
            "out the aggregator's name and clip_norm"
        )


PROCESS = ProcessType(TaskKind.TRAINING, build)


def build_scaffold(
    model: Model, client_optimizer: Sgd, *, num_clients: int, **options: Unpack[AveragingOptions]
) -> TrainingProcess:
    """SCAFFOLD over a population of ``num_clients``, of which ``next`` gets the clients of one round.

    Each client counts once, however many examples it has. ``ProcessState.clients`` keeps the control variates of the
    clients that took part, by id. Options as in ``build_weighted_fed_avg``, but for ``clip_norm``, ``update_clip_norm``
    and momentum, which must be 0. On a server the population are the devices that it knows, and their variates stay on
    them.

    Raises ``ConfigError`` for an option out of range.
    """
    check_whole("num_clients", num_clients)
    if num_clients < 1:
        raise ConfigError(f"num_clients is {num_clients}; expected at least 1, the clients of the whole population")
    spec = averaging_spec("scaffold", model, client_optimizer, **options)
    return replace(build(spec, model.standardization, None), population=num_clients)
