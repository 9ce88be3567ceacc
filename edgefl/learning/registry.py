"""From a task's definition to its process: the one ``ProcessFactory``, for the server and for simulations."""

from __future__ import annotations

from edgefl.errors import ConfigError
from edgefl.learning.evaluation import EvaluationProcess
from edgefl.learning.personalization import PersonalizationProcess
from edgefl.learning.statistics import StatisticsProcess
from edgefl.learning.training import TrainingProcess, build_training, training_work
from edgefl.models.softmax import SoftmaxModel
from edgefl.protocol.task import TaskKind, TaskSpec
from edgefl.types import Quantization, Standardization

LearningProcess = TrainingProcess | EvaluationProcess | PersonalizationProcess | StatisticsProcess


def build_process(
    spec: TaskSpec, standardization: Standardization | None, evaluated: SoftmaxModel | None
) -> LearningProcess:
    """The process of a task; see ``edgefl.protocol.process.ProcessFactory``.

    Raises ``ConfigError`` for a name in ``spec`` that is not registered, and for a standardization of another width
    or of a task that asks for none.
    """
    if spec.kind is TaskKind.EVALUATION:
        return EvaluationProcess(spec, evaluated)
    if spec.kind is TaskKind.PERSONALIZATION:
        assert spec.client is not None  # TaskSpec checks it for this kind
        return PersonalizationProcess(spec, evaluated, training_work(spec.client, spec.aggregator.max_weight))
    model = _model(spec, standardization)
    if spec.kind is TaskKind.STATISTICS:
        return StatisticsProcess(spec, model)
    assert spec.model is not None
    return build_training(spec, model, standardized=not spec.model.standardize_by or standardization is not None)


def _model(spec: TaskSpec, standardization: Standardization | None) -> SoftmaxModel:
    shape = spec.model
    assert shape is not None  # TaskSpec checks it for these kinds
    if standardization is not None and not shape.standardize_by:
        raise ConfigError(f"task {spec.name!r} was given a standardization; its definition has no standardize_by")
    return SoftmaxModel(
        shape.num_features,
        shape.num_classes,
        dtype=shape.dtype,
        quantization=Quantization(shape.scale, shape.zero_point),
        standardization=standardization,
    )
