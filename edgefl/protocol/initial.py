"""Where a training begins when it does not begin at zero: at a version of another task, or at weights from a file.

The model of version 0 is stored like every other, so a restart, a backup and a replay have it, whatever becomes of the
file or of the other task. Weights are those that the arithmetic allows (design §4.2): finite, and 0 below 2**-50.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace

from edgefl import kernels
from edgefl.errors import ConfigError, ConflictError, DataError, KernelError
from edgefl.protocol.task import InitialSpec, ModelSpec, TaskKind, TaskSpec
from edgefl.types import Shapes, Weights

FindTask = Callable[[str], TaskSpec]
"""The definition of a task. Raises ``NotFoundError``."""

FindModel = Callable[[str, int], bytes | None]
"""The canonical bytes of a version of a task; None when it is not there, or not there yet."""


def starts_from(spec: TaskSpec) -> InitialSpec | None:
    """The version of another task that ``spec`` begins at; None when it begins at none."""
    initial = None if spec.model is None else spec.model.initial
    return initial if initial is not None and initial.task else None


def usable(weights: Weights) -> Weights:
    """``weights`` as a task stores them. Raises ``DataError`` when one of them is not finite."""
    raw = weights.to_bytes()
    try:
        stored = kernels.apply_update(raw, bytes(2 * len(raw)), 0.0)
    except KernelError:
        at = kernels.first_non_finite(raw)
        raise DataError(f"weight {at} of the initial model is not finite; expected finite numbers") from None
    return Weights.of(weights.shapes, stored)


def check_shapes(spec: TaskSpec, shapes: Shapes, where: str) -> None:
    """Raises ``ConfigError`` when the model of ``spec`` has arrays of other shapes."""
    expected = _model(spec).build().shapes
    if shapes == expected:
        return
    (num_classes, num_features), (classes, features) = _size(shapes), _size(expected)
    found, wanted = f"{num_classes} classes of {num_features} features", f"{classes} of {features}"
    if _size(shapes) == _size(expected):
        found, wanted = _arrays(shapes), _arrays(expected)
    raise ConfigError(f"{where} has {found}; task {spec.name!r} has {wanted}")


def _size(shapes: Shapes) -> tuple[int, int]:
    return shapes[-1][1][0], shapes[0][1][1]


def _arrays(shapes: Shapes) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes)


def initial_model(spec: TaskSpec, given: bytes, find_task: FindTask, find_model: FindModel) -> bytes | None:
    """The model of version 0 of the new task ``spec``; None for what its process begins at.

    ``given``: the weights that came with the definition.

    Raises ``ConfigError`` for weights that do not fit, ``NotFoundError`` and ``ConflictError`` for a version that is
    not there.
    """
    initial = None if spec.model is None else spec.model.initial
    if initial is None:
        if given:
            raise ConfigError(f"weights came with task {spec.name!r}, whose [model] has no 'initial'")
        return None
    if initial.task:
        model = _of_version(spec, initial, find_task, find_model)
    elif given:
        model = _given(spec, given)
    else:
        raise ConfigError(
            f"task {spec.name!r} begins at weights of a file, and none came with it; create it by `edgefl task "
            "create`, or hand them to simulate(initial=...)"
        )
    check_digest(initial, model)
    return model


def begins_at(spec: TaskSpec, weights: Weights) -> TaskSpec:
    """``spec`` that names the digest of ``weights``, at which it begins."""
    shape = _model(spec)
    initial = InitialSpec(sha256=weights.digest) if shape.initial is None else shape.initial
    return replace(spec, model=replace(shape, initial=replace(initial, sha256=initial.sha256 or weights.digest)))


def check_digest(initial: InitialSpec, model: bytes) -> None:
    """Raises ``ConfigError`` when the definition names another digest."""
    digest = hashlib.sha256(model).hexdigest()
    if initial.sha256 not in ("", digest):
        raise ConfigError(f"the initial model has the SHA-256 {digest}; model.initial.sha256 is {initial.sha256}")


def _of_version(spec: TaskSpec, initial: InitialSpec, find_task: FindTask, find_model: FindModel) -> bytes:
    other, where = find_task(initial.task), f"version {initial.version} of task {initial.task!r}"
    if other.kind is not TaskKind.TRAINING:
        raise ConfigError(f"model.initial is {where}, which is of kind {other.kind.value!r}; expected a training")
    shape = _model(other)
    check_shapes(spec, shape.build().shapes, f"model.initial: {where}")
    if shape.classes and _model(spec).classes and shape.classes != _model(spec).classes:
        raise ConfigError(
            f"model.initial: {where} has the classes {', '.join(shape.classes)}; task {spec.name!r} has "
            f"{', '.join(_model(spec).classes)}"
        )
    model = find_model(initial.task, initial.version)
    if model is None:
        raise ConflictError(
            f"model.initial: {where} is not there; create the task when it is, or choose a kept version"
        )
    return model


def _given(spec: TaskSpec, given: bytes) -> bytes:
    shape = _model(spec)
    try:
        weights = shape.build().weights(given)
        stored = usable(weights).to_bytes()
    except DataError as error:
        raise ConfigError(f"the weights that came with task {spec.name!r} cannot be used: {error}") from None
    if stored != given:
        raise ConfigError(f"the weights that came with task {spec.name!r} have values below 2**-50; write them as 0")
    return given


def _model(spec: TaskSpec) -> ModelSpec:
    if spec.model is None:
        raise ConfigError(f"task {spec.name!r} has no table [model]; expected a training")
    return spec.model
