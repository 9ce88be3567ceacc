"""``weighted_fed_avg``: clients run SGD, the server applies the mean of their deltas, weighted by their examples.

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017, algorithm 1;
the server optimizer: Reddi et al., "Adaptive Federated Optimization", 2021.
"""

from __future__ import annotations

from typing import Unpack

from edgefl.learning.processes import ProcessType
from edgefl.learning.processes._averaging import AveragingOptions, averaging, averaging_spec
from edgefl.learning.training import TrainingProcess
from edgefl.models.model import Model
from edgefl.optimizers import Sgd
from edgefl.protocol.task import TaskKind, TaskSpec
from edgefl.types import Standardization


def build(spec: TaskSpec, standardization: Standardization | None, _: Model | None) -> TrainingProcess:
    return averaging(spec, standardization)


PROCESS = ProcessType(TaskKind.TRAINING, build)


def build_weighted_fed_avg(
    model: Model, client_optimizer: Sgd, *, proximal: float = 0.0, **options: Unpack[AveragingOptions]
) -> TrainingProcess:
    """Federated averaging: each client's delta weighs as many as its training examples.

    ``client_optimizer``  on each client, over batches of ``batch_size`` (32) in ``local_epochs`` (1) passes, shuffled
                          by ``seed`` (0) unless ``shuffle`` (True) is False, with ``l2`` (0), ``proximal`` (0,
                          FedProx) and gradients clipped to ``clip_norm`` (0: never): ``edgefl.types.TrainConfig``.
    ``server_optimizer``  applied to the mean delta; by default ``sgd(1.0)``, which is plain averaging.
    ``norm_bound``        (64) a delta of a larger L2 norm is refused; it fixes the grid of the exact mean.
    ``update_clip_norm``  (0) a delta of a larger L2 norm is scaled down to it; 0 never scales.
    ``max_weight``        (100,000) the most examples that a client may have.
    ``encoding``          ("float32") a codec's name: how the delta travels.
    ``schedule``          how the clients' rate changes from round to round: ``edgefl.protocol.schedule.Schedule``.

    Raises ``ConfigError`` for an option out of range.
    """
    spec = averaging_spec("weighted_fed_avg", model, client_optimizer, proximal=proximal, **options)
    return build(spec, model.standardization, None)
