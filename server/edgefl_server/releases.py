"""From a model version to bytes: canonical weights, or a ``.tflite`` file, verified before it is published.

The writer and the verifier are imported when the first file is made: a server that only runs rounds pays for neither.
They run on a worker thread (and the file itself in a child process), so that rounds go on meanwhile.

Source: design §8.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgefl.errors import ConfigError, ConflictError
from edgefl.learning import build_process
from edgefl.models.model import Model
from edgefl.proto.v1 import control_pb2
from edgefl.protocol.coordinator import Coordinator
from edgefl.protocol.dependencies import dependency_of
from edgefl.protocol.events import ReleaseCreated, ReleaseRecord, TaskRecord
from edgefl.protocol.messages import ReleaseInfo
from edgefl.protocol.task import TaskKind, check_name
from edgefl.types import Standardization, Weights
from edgefl_server.engine import Engine
from edgefl_server.store import Store

if TYPE_CHECKING:
    from edgefl.models.tflite_verifier import Verification
    from edgefl.models.tflite_writer import WeightType

_WEIGHT_TYPES: dict[int, WeightType] = {
    control_pb2.MODEL_FORMAT_TFLITE_FLOAT32: "float32",
    control_pb2.MODEL_FORMAT_TFLITE_INT8: "int8",
}


@dataclass(frozen=True)
class ModelSource:
    """A model version with what a file of it needs. Features enter a file as values: 8-bit ones after their scale."""

    record: TaskRecord
    version: int
    weights: Weights
    model: Model


class Releases:
    """Makes files of model versions and publishes them; one release at a time, so that versions follow each other."""

    def __init__(self, engine: Engine, store: Store) -> None:
        self._engine = engine
        self._store = store
        self._one_at_a_time = asyncio.Lock()

    async def export(self, task: str, version: int, model_format: int) -> bytes:
        """The bytes of a version (0: the latest) as WEIGHTS or as a verified ``.tflite`` file."""
        source = await self._source(task, version)
        if model_format == control_pb2.MODEL_FORMAT_WEIGHTS:
            return source.weights.to_bytes()
        data, _ = await asyncio.to_thread(_write_and_verify, source, _weight_type(model_format, "weights, "))
        return data

    async def create(self, name: str, task: str, version: int, model_format: int) -> tuple[ReleaseRecord, float]:
        """Write, verify and publish; returns the release and the largest difference in probability that was seen.

        Raises ``VerificationError`` when the file does not compute what the kernel computes.
        """
        check_name("name", name)
        weight_type = _weight_type(model_format)
        async with self._one_at_a_time:
            source = await self._source(task, version)
            data, verification = await asyncio.to_thread(_write_and_verify, source, weight_type)
            number = await self._engine.ask(lambda c: c.next_release_version(name))
            info = ReleaseInfo(name, number, hashlib.sha256(data).hexdigest(), len(data))
            record = ReleaseRecord(info, source.record.spec.population, task, source.version)
            await self._engine.control(ReleaseCreated(record), (data,))
        return record, verification.max_abs_diff

    async def _source(self, task: str, version: int) -> ModelSource:
        record, standardization = await self._engine.ask(lambda c: _describe(c, task))
        shape = record.spec.model
        if shape is None or not record.state.model:
            raise ConflictError(
                f"task {task!r} is of kind {record.spec.kind.value!r} and has no model; name a training task"
            )
        version = version or record.state.version
        model = shape.build(standardization)
        return ModelSource(record, version, model.weights(self._store.model(task, version)), model)


def _describe(coordinator: Coordinator, task: str) -> tuple[TaskRecord, Standardization | None]:
    record = coordinator.task(task)
    needed = dependency_of(record.spec)
    if needed is None or needed.kind is not TaskKind.STATISTICS:
        return record, None
    statistics = coordinator.task(needed.task)
    standardization = build_process(statistics.spec, None, None).standardization(statistics.state)
    if standardization is None:
        raise ConflictError(f"task {task!r} has no model that can be used before {needed.task!r} is completed")
    return record, standardization


def _weight_type(model_format: int, other: str = "") -> WeightType:
    found = _WEIGHT_TYPES.get(model_format)
    if found is None:
        raise ConfigError(f"model format is {model_format}; expected {other}tflite float32 or tflite int8")
    return found


def _write_and_verify(source: ModelSource, weight_type: WeightType) -> tuple[bytes, Verification]:
    from edgefl.models.tflite_release import verified_tflite

    return verified_tflite(source.weights, source.model, weight_type)
