"""``fed_eval``: the model of another task is evaluated on the held-out examples of all clients."""

from __future__ import annotations

from edgefl.learning.evaluation import EvaluationProcess
from edgefl.learning.processes import ProcessType
from edgefl.learning.shapes import check_model, one_process
from edgefl.models.model import Model
from edgefl.protocol.task import AggregatorSpec, TaskKind, TaskSpec
from edgefl.settings import typed
from edgefl.types import Standardization


def build(spec: TaskSpec, _: Standardization | None, evaluated: Model | None) -> EvaluationProcess:
    return EvaluationProcess(spec, evaluated)


PROCESS = ProcessType(TaskKind.EVALUATION, build)


def build_fed_eval(model: Model, *, max_weight: int = 100_000) -> EvaluationProcess:
    """Evaluation: ``evaluate(weights, held_out)`` gives accuracy, mean loss and confusion counts over all examples."""
    check_model(model)
    aggregator = typed(AggregatorSpec, max_weight=max_weight)
    spec = one_process("evaluation", TaskKind.EVALUATION, "fed_eval", evaluates="training", aggregator=aggregator)
    return build(spec, None, model)
