"""The learning processes, federated averaging first among them, and the client's side of each.

    from edgefl import learning
    train = learning.build_weighted_fed_avg(model, client_optimizer=optimizers.sgd(0.1))

The object that a ``build_*`` function returns is a ``edgefl.protocol.process.Process``: what the server runs for a
task. Each name is imported when it is first asked for, so that a device that needs ``edgefl.learning.client`` alone
loads nothing else. Nothing here needs NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgefl.learning.build import (
        build_fed_eval,
        build_fed_sgd,
        build_fed_statistics,
        build_personalization_eval,
        build_unweighted_fed_avg,
        build_weighted_fed_avg,
        build_weighted_fed_prox,
    )
    from edgefl.learning.client import run_plan
    from edgefl.learning.evaluation import EvaluationProcess
    from edgefl.learning.personalization import PersonalizationProcess
    from edgefl.learning.registry import build_process
    from edgefl.learning.statistics import StatisticsProcess
    from edgefl.learning.training import TrainingProcess

__all__ = [
    "EvaluationProcess",
    "PersonalizationProcess",
    "StatisticsProcess",
    "TrainingProcess",
    "build_fed_eval",
    "build_fed_sgd",
    "build_fed_statistics",
    "build_personalization_eval",
    "build_process",
    "build_unweighted_fed_avg",
    "build_weighted_fed_avg",
    "build_weighted_fed_prox",
    "run_plan",
]

_MODULES = {
    "EvaluationProcess": "evaluation",
    "PersonalizationProcess": "personalization",
    "StatisticsProcess": "statistics",
    "TrainingProcess": "training",
    "build_fed_eval": "build",
    "build_fed_sgd": "build",
    "build_fed_statistics": "build",
    "build_personalization_eval": "build",
    "build_process": "registry",
    "build_unweighted_fed_avg": "build",
    "build_weighted_fed_avg": "build",
    "build_weighted_fed_prox": "build",
    "run_plan": "client",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)
