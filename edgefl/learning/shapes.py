"""Between a model and the table ``[model]`` of a definition, and the definitions of processes without a server."""

from __future__ import annotations

from typing import Any

from edgefl.errors import ConfigError
from edgefl.models.model import Model
from edgefl.protocol.task import ModelSpec, RoundSpec, TaskKind, TaskSpec
from edgefl.types import Standardization, check_kind

POPULATION = "in-process"
"""The population that these definitions name: the clients that are handed to ``next``."""

STATISTICS = "statistics"
"""The task that a standardized model's definition names; its result comes with the model."""


def one_process(name: str, kind: TaskKind, process: str, *, goal: int = 1, **tables: Any) -> TaskSpec:
    """The definition of a process that is built from Python.

    ``next`` takes all the clients that it is given; a goal does not enter the arithmetic of a mean or of counts.
    """
    return TaskSpec(name, kind, POPULATION, RoundSpec(goal=goal, minimum=1), process=process, **tables)


def shape_of(spec: TaskSpec) -> ModelSpec:
    """The table ``[model]`` of a definition. Raises ``ConfigError`` when it has none."""
    if spec.model is None:
        raise ConfigError(f"task {spec.name!r} of kind {spec.kind.value!r} has no table [model]; expected one")
    return spec.model


def model_of(spec: TaskSpec, standardization: Standardization | None) -> Model:
    """The model of a definition. Raises ``ConfigError`` for no model, and for a standardization not asked for."""
    shape = shape_of(spec)
    if standardization is not None and not shape.standardize_by:
        raise ConfigError(f"task {spec.name!r} was given a standardization; its definition has no standardize_by")
    return shape.build(standardization)


def check_model(model: object) -> None:
    """Raises ``ConfigError`` for anything that is not a model."""
    check_kind("model", model, Model, "a model, as edgefl.SoftmaxModel(...)")


def model_spec(model: Model) -> ModelSpec:
    check_model(model)
    options = dict(model.options)
    return ModelSpec(
        num_features=model.num_features,
        num_classes=model.num_classes,
        dtype=model.dtype,
        scale=model.quantization.scale,
        zero_point=model.quantization.zero_point,
        standardize_by="" if model.standardization is None else STATISTICS,
        classes=model.classes,
        kind=model.kind,
        version=model.version,
        hidden=options.pop("hidden", None),
        options=options,
    )
