"""A whole fleet in one process: the server's and the devices' machines, joined by a link under a virtual clock.

    result = simulation.simulate([(spec, text)], people.clients, people.held_out)
    weights, standardization = simulation.release_inputs(result, spec.name)

With ``checkpoint=Checkpoint(path, resume=True)`` a run that was killed goes on, to the bits of an unbroken one.

Each name is imported when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgefl.simulation.checkpoint import Checkpoint
    from edgefl.simulation.fleet import simulate
    from edgefl.simulation.result import DeviceFailure, SimulationResult, TaskResult, release_inputs

__all__ = ["Checkpoint", "DeviceFailure", "SimulationResult", "TaskResult", "release_inputs", "simulate"]

_MODULES = {
    "Checkpoint": "checkpoint",
    "DeviceFailure": "result",
    "SimulationResult": "result",
    "TaskResult": "result",
    "release_inputs": "result",
    "simulate": "fleet",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return [*__all__]  # what is not imported yet too
