"""``weighted_fed_prox``: federated averaging whose clients are pulled back to where they started.

Source: Li et al., "Federated Optimization in Heterogeneous Networks", 2020, algorithm 2.
"""

from __future__ import annotations

from typing import Unpack

from edgefl.errors import ConfigError
from edgefl.learning.processes import ProcessType
from edgefl.learning.processes._averaging import AveragingOptions, averaging, averaging_spec, client_of
from edgefl.learning.training import TrainingProcess
from edgefl.models.model import Model
from edgefl.optimizers import Sgd
from edgefl.protocol.task import TaskKind, TaskSpec
from edgefl.types import Standardization


def build(spec: TaskSpec, standardization: Standardization | None, _: Model | None) -> TrainingProcess:
    if client_of(spec).proximal <= 0:
        raise ConfigError("proximal is 0; process 'weighted_fed_prox' needs one above 0: without it, weighted_fed_avg")
    return averaging(spec, standardization)


PROCESS = ProcessType(TaskKind.TRAINING, build)


def build_weighted_fed_prox(
    model: Model, client_optimizer: Sgd, *, proximal_strength: float, **options: Unpack[AveragingOptions]
) -> TrainingProcess:
    """FedProx: federated averaging whose clients add ``proximal_strength * (w - w_start)`` to every gradient.

    Options as in ``build_weighted_fed_avg``. ``proximal_strength`` is the paper's mu, and ``proximal`` of ``[client]``
    in a task file: ``proximal_strength / 2 * |w - w_start|**2`` joins the loss. At 0 it is ``weighted_fed_avg``.
    """
    name = "weighted_fed_prox" if proximal_strength != 0 else "weighted_fed_avg"
    spec = averaging_spec(name, model, client_optimizer, proximal=proximal_strength, **options)
    return averaging(spec, model.standardization)
