"""``unweighted_fed_avg``: federated averaging in which each client counts once, however many examples it has."""

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
    return averaging(spec, standardization, mean="unweighted_mean")


PROCESS = ProcessType(TaskKind.TRAINING, build)


def build_unweighted_fed_avg(
    model: Model, client_optimizer: Sgd, **options: Unpack[AveragingOptions]
) -> TrainingProcess:
    """Federated averaging in which every client's delta counts once, however many examples it has.

    Options as in ``build_weighted_fed_avg``.
    """
    spec = averaging_spec("unweighted_fed_avg", model, client_optimizer, **options)
    return build(spec, model.standardization, None)
