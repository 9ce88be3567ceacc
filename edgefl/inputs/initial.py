"""The weights of ``[model] initial = { file = ... }``: read next to the task file, and their digest put into it.

A file is a ``.tflite`` of EdgeFL's, a saved process (``learning.save``), or the weights that `edgefl models export
--format weights` writes. So that a definition means one model wherever it is read, its text then names the digest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgefl.errors import ConfigError, DataError, EdgeFLError
from edgefl.protocol.initial import check_digest, check_shapes, starts_from, usable
from edgefl.protocol.task import TaskSpec
from edgefl.settings import to_toml
from edgefl.types import Weights
from edgefl.wire.limits import MAX_INITIAL_BYTES

if TYPE_CHECKING:
    from edgefl.proto.v1.control_pb2 import CreateTaskRequest


def with_initial(
    tasks: Sequence[tuple[TaskSpec, str]], files: Sequence[str]
) -> tuple[list[tuple[TaskSpec, str]], dict[str, Weights]]:
    """``tasks``, read from ``files``, with the digests of their initial weights; and those weights by task.

    Raises ``ConfigError``, which names the task file, for weights that cannot be read or do not fit.
    """
    found: list[tuple[TaskSpec, str]] = []
    weights: dict[str, Weights] = {}
    for (spec, text), source in zip(tasks, files, strict=True):
        initial = None if spec.model is None else spec.model.initial
        if spec.model is None or initial is None or not initial.file:
            found.append((spec, text))
            continue
        try:
            loaded = _read(spec, Path(source).parent / initial.file)
            check_digest(initial, loaded.to_bytes())
        except EdgeFLError as error:
            raise ConfigError(f"{source}: model: initial: {error}") from None
        weights[spec.name] = loaded
        pinned = replace(spec, model=replace(spec.model, initial=replace(initial, sha256=loaded.digest)))
        found.append((pinned, text if pinned == spec else to_toml(pinned)))
    return found, weights


def create_request(task: str, definition: str, weights: Mapping[str, Weights]) -> CreateTaskRequest:
    """What creates ``task`` on a server. Raises ``ConfigError`` for weights too large to be sent."""
    from edgefl.proto.v1.control_pb2 import CreateTaskRequest  # a simulation in one process loads no protobuf

    raw = weights[task].to_bytes() if task in weights else b""
    if len(raw) > MAX_INITIAL_BYTES:
        raise ConfigError(
            f"task {task!r} begins at weights of {len(raw)} bytes; at most {MAX_INITIAL_BYTES} can be sent with a "
            "definition: begin at a version of a task of the server"
        )
    return CreateTaskRequest(definition=definition, initial_model=raw)


def check_no_start(spec: TaskSpec, option: str) -> None:
    """Raises ``ConfigError`` for a task that begins at a version which ``option`` would have to wait for."""
    if (initial := starts_from(spec)) is not None:
        raise ConfigError(
            f"{option} with task {spec.name!r}: it begins at version {initial.version} of task {initial.task!r}, which "
            f"is not there when all tasks are created; begin at a file, or leave {option} out"
        )


def _read(spec: TaskSpec, path: Path) -> Weights:
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None
    from edgefl.learning.saved import MAGIC, load  # 0.4 s, for a task that names a file alone

    if raw.startswith(MAGIC):
        process, state = load(path)
        if not state.model:
            raise ConfigError(f"{path} is a saved {process.spec.kind.value}, which has no model; expected a training")
        weights = process.model.weights(state.model)
    elif path.suffix == ".tflite":
        from edgefl.models.tflite_reader import read_tflite_weights

        weights = read_tflite_weights(raw, str(path))
    else:
        shape = spec.model
        if shape is None:
            raise ConfigError(f"task {spec.name!r} has no table [model]")
        try:
            weights = shape.build().weights(raw)
        except DataError as error:
            raise ConfigError(f"{path}: {error}, as `edgefl models export --format weights` writes") from None
    check_shapes(spec, weights.shapes, str(path))
    return usable(weights)
