"""The learning processes, federated averaging first among them, and the client's side of each.

    from edgefl import learning
    train = learning.build_weighted_fed_avg(model, client_optimizer=optimizers.sgd(0.1))

The object that a ``build_*`` function returns is a ``edgefl.protocol.process.Process``: what the server runs for a
task. There is one for each file of ``edgefl.learning.processes``. Each name is imported when it is first asked for, so
that a device that needs ``edgefl.learning.client`` alone loads nothing else. Nothing here needs NumPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgefl.learning.build import build_process
    from edgefl.learning.client import run_plan
    from edgefl.learning.evaluation import EvaluationProcess
    from edgefl.learning.export import export_tflite
    from edgefl.learning.parts import (
        ClientWork,
        Closing,
        Distributor,
        Finalizer,
        LocalSgd,
        ModelDistributor,
        ServerStep,
    )
    from edgefl.learning.personalization import PersonalizationProcess
    from edgefl.learning.processes.fed_eval import build_fed_eval
    from edgefl.learning.processes.fed_sgd import build_fed_sgd
    from edgefl.learning.processes.fed_statistics import build_fed_statistics
    from edgefl.learning.processes.personalization_eval import build_personalization_eval
    from edgefl.learning.processes.scaffold import build_scaffold
    from edgefl.learning.processes.unweighted_fed_avg import build_unweighted_fed_avg
    from edgefl.learning.processes.weighted_fed_avg import build_weighted_fed_avg
    from edgefl.learning.processes.weighted_fed_prox import build_weighted_fed_prox
    from edgefl.learning.saved import load, save
    from edgefl.learning.statistics import StatisticsProcess
    from edgefl.learning.training import TrainingProcess, compose

__all__ = [
    "ClientWork",
    "Closing",
    "Distributor",
    "EvaluationProcess",
    "Finalizer",
    "LocalSgd",
    "ModelDistributor",
    "PersonalizationProcess",
    "ServerStep",
    "StatisticsProcess",
    "TrainingProcess",
    "build_fed_eval",
    "build_fed_sgd",
    "build_fed_statistics",
    "build_personalization_eval",
    "build_process",
    "build_scaffold",
    "build_unweighted_fed_avg",
    "build_weighted_fed_avg",
    "build_weighted_fed_prox",
    "compose",
    "export_tflite",
    "load",
    "run_plan",
    "save",
]

_MODULES = {
    "ClientWork": "parts",
    "Closing": "parts",
    "Distributor": "parts",
    "EvaluationProcess": "evaluation",
    "Finalizer": "parts",
    "LocalSgd": "parts",
    "ModelDistributor": "parts",
    "PersonalizationProcess": "personalization",
    "ServerStep": "parts",
    "StatisticsProcess": "statistics",
    "TrainingProcess": "training",
    "build_process": "build",
    "compose": "training",
    "export_tflite": "export",
    "load": "saved",
    "run_plan": "client",
    "save": "saved",
}

_BUILD = "build_"


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is not None:
        return getattr(importlib.import_module(f"{__name__}.{module}"), name)
    if name.startswith(_BUILD):
        from edgefl.learning import processes

        if name.removeprefix(_BUILD) in processes.names():
            return processes.builder(name.removeprefix(_BUILD))
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """What is not imported yet too, and the builders of files that were added to ``edgefl.learning.processes``."""
    from edgefl.learning import processes

    return sorted({*__all__, *(f"{_BUILD}{name}" for name in processes.names())})
