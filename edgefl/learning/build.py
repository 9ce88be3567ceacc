"""From a task's definition to its process: the one ``ProcessFactory``, for the server and for simulations."""

from __future__ import annotations

from typing import TypeAlias

from edgefl.learning import processes
from edgefl.learning.evaluation import EvaluationProcess
from edgefl.learning.personalization import PersonalizationProcess
from edgefl.learning.statistics import StatisticsProcess
from edgefl.learning.training import TrainingProcess
from edgefl.models.model import Model
from edgefl.protocol.task import TaskSpec
from edgefl.types import Standardization

LearningProcess: TypeAlias = TrainingProcess | EvaluationProcess | PersonalizationProcess | StatisticsProcess


def build_process(spec: TaskSpec, standardization: Standardization | None, evaluated: Model | None) -> LearningProcess:
    """The process of a task; see ``edgefl.protocol.process.ProcessFactory``.

    Raises ``ConfigError`` for a name in ``spec`` that is not registered, for options that the process does not take,
    and for a standardization of another width or of a task that asks for none.
    """
    process: LearningProcess = processes.process_type(spec).build(spec, standardization, evaluated)
    return process
