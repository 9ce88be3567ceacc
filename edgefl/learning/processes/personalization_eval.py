"""``personalization_eval``: what fine-tuning on each client's own examples gains on its held-out ones.

Source: Wang et al., "Federated Evaluation of On-device Personalization", 2019.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TypedDict, Unpack

from edgefl.learning.personalization import PersonalizationProcess
from edgefl.learning.processes import ProcessType
from edgefl.learning.processes._averaging import check_client_optimizer, client_of, training_work
from edgefl.learning.shapes import check_model, one_process
from edgefl.models.model import Model
from edgefl.optimizers import Sgd
from edgefl.protocol.task import AggregatorSpec, ClientSpec, TaskKind, TaskSpec
from edgefl.settings import checked, typed
from edgefl.types import Standardization


class FineTuningOptions(TypedDict, total=False):
    """As in ``build_weighted_fed_avg``."""

    batch_size: int
    local_epochs: int
    shuffle: bool
    l2: float
    proximal: float
    clip_norm: float


def build(spec: TaskSpec, _: Standardization | None, evaluated: Model | None) -> PersonalizationProcess:
    return PersonalizationProcess(spec, evaluated, training_work(client_of(spec), spec.aggregator.max_weight))


PROCESS = ProcessType(TaskKind.PERSONALIZATION, build)


def build_personalization_eval(
    model: Model,
    client_optimizer: Sgd,
    *,
    seed: int = 0,
    max_weight: int = 100_000,
    **options: Unpack[FineTuningOptions],
) -> PersonalizationProcess:
    """Personalization: ``evaluate(weights, clients, held_out)`` gives accuracies before and after fine-tuning.

    Each client trains ``weights`` on its own examples by ``client_optimizer``, with the options of
    ``build_weighted_fed_avg``. What is counted is in ``RoundMetrics`` and its ``gains``. Raises ``ConfigError`` for an
    option out of range.
    """
    check_model(model)
    check_client_optimizer(client_optimizer)
    client = typed(
        ClientSpec, learning_rate=client_optimizer.learning_rate, momentum=client_optimizer.momentum, **options
    )
    spec = one_process(
        "personalization",
        TaskKind.PERSONALIZATION,
        "personalization_eval",
        evaluates="training",
        client=client,
        aggregator=typed(AggregatorSpec, max_weight=max_weight),
    )
    return build(replace(spec, seed=checked("seed", seed, int)), None, model)
