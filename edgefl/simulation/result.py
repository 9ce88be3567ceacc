"""What a simulation leaves behind: for each task its rounds, its models and its result."""

from __future__ import annotations

from dataclasses import dataclass, field

from edgefl.errors import ConflictError, NotFoundError
from edgefl.models.model import Model
from edgefl.protocol.events import RoundSummary, TaskStatus
from edgefl.protocol.messages import WorkFailure
from edgefl.protocol.process import FeatureStatistics, ProcessState
from edgefl.protocol.task import TaskKind, TaskSpec
from edgefl.types import Standardization, Weights
from edgefl.wording import name_hint


@dataclass(frozen=True)
class DeviceFailure:
    """A device could not do its work in a round, or its update was refused."""

    device: str
    failure: WorkFailure


@dataclass(frozen=True)
class TaskResult:
    """One task at the end.

    ``rounds``           every round that ended, committed or abandoned, in order.
    ``models``           the canonical bytes of each model version, from version 1 on; none for tasks without a model.
    ``model``            what the task trained or evaluated, with its standardization.
    ``standardization``  the result of a statistics task; None for others.
    ``features``         what one that asks for bins or extremes found of each feature; empty for others.
    """

    spec: TaskSpec
    status: TaskStatus
    state: ProcessState
    model: Model
    standardization: Standardization | None
    rounds: tuple[RoundSummary, ...] = field(repr=False)
    models: tuple[bytes, ...] = field(repr=False)
    features: tuple[FeatureStatistics, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class SimulationResult:
    """All tasks, in the order of their definitions. ``virtual_s``: how long the fleet took by its own clock."""

    tasks: tuple[TaskResult, ...]
    failures: tuple[DeviceFailure, ...]
    virtual_s: float

    def task(self, name: str) -> TaskResult:
        """Raises ``NotFoundError``."""
        for task in self.tasks:
            if task.spec.name == name:
                return task
        known = [task.spec.name for task in self.tasks]
        raise NotFoundError(f"no task {name!r} in this simulation{name_hint(name, known)}")


def release_inputs(result: SimulationResult, name: str) -> tuple[Weights, Standardization | None]:
    """What ``edgefl.models.write_tflite`` needs to release the last model of the training task ``name``.

    Raises ``NotFoundError`` for an unknown task and ``ConflictError`` for one that trains no model.
    """
    task = result.task(name)
    if task.spec.kind is not TaskKind.TRAINING:
        raise ConflictError(f"task {name!r} is of kind {task.spec.kind.value!r}; expected a training: it has the model")
    return task.model.weights(task.state.model), task.model.standardization
