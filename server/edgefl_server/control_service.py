"""The ``Control`` service: what operators call. Thin: wire to values, the engine or the store, values to wire."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from edgefl.errors import ConfigError, ConflictError
from edgefl.learning.shapes import model_of
from edgefl.learning.statistics import StatisticsProcess
from edgefl.proto.v1 import control_pb2, control_pb2_grpc, fleet_pb2
from edgefl.protocol.events import (
    FINAL,
    Event,
    RoundSummary,
    TaskCreated,
    TaskEnded,
    TaskPaused,
    TaskRecord,
    TaskResumed,
    TaskStatus,
)
from edgefl.protocol.messages import Accepted, AlreadyAccepted, Late, Noted
from edgefl.protocol.process import FeatureStatistics
from edgefl.protocol.task import TaskKind, parse_task
from edgefl.settings import MAX_FILE_BYTES
from edgefl.wire import DOWNLOAD_CHUNK_BYTES
from edgefl.wire.control import device_to_proto, feature_to_proto, release_to_proto, round_to_proto, task_to_proto
from edgefl_server.answers import AnswerCounts
from edgefl_server.engine import Engine
from edgefl_server.releases import Releases
from edgefl_server.rounds_feed import Subscription
from edgefl_server.store import Store

ROUNDS_PAGE = 500
"""Ended rounds read from the store at once: a task may have a million."""


class ControlService(control_pb2_grpc.ControlServicer):
    def __init__(self, engine: Engine, store: Store, counts: AnswerCounts) -> None:
        self._engine = engine
        self._counts = counts
        self._store = store
        self._releases = Releases(engine, store)

    # ------------------------------------------------------------------------------------------------ tasks

    async def CreateTask(self, request: control_pb2.CreateTaskRequest, context: Any) -> control_pb2.Task:  # noqa: ARG002
        if len(request.definition) > MAX_FILE_BYTES:
            raise ConfigError(
                f"a definition of {len(request.definition)} characters; expected at most {MAX_FILE_BYTES}"
            )
        spec = parse_task(request.definition, "definition")
        event = TaskCreated(spec, request.definition, request.initial_model, request.check_devices)
        await self._engine.control(event)
        return await self._shown(spec.name)

    async def ListTasks(self, request: control_pb2.ListTasksRequest, context: Any) -> control_pb2.ListTasksResponse:  # noqa: ARG002
        shown = await self._engine.ask(lambda c: [(record, *c.standing(record.spec.name)) for record in c.tasks()])
        return control_pb2.ListTasksResponse(tasks=[task_to_proto(*one) for one in shown])

    async def PauseTask(self, request: control_pb2.TaskRequest, context: Any) -> control_pb2.Task:  # noqa: ARG002
        return await self._change(request.name, TaskStatus.PAUSED, TaskPaused(request.name))

    async def ResumeTask(self, request: control_pb2.TaskRequest, context: Any) -> control_pb2.Task:  # noqa: ARG002
        return await self._change(request.name, TaskStatus.RUNNING, TaskResumed(request.name))

    async def EndTask(self, request: control_pb2.TaskRequest, context: Any) -> control_pb2.Task:  # noqa: ARG002
        return await self._change(request.name, TaskStatus.ENDED, TaskEnded(request.name))

    # ----------------------------------------------------------------------------------------------- rounds

    async def WatchRounds(
        self,
        request: control_pb2.WatchRoundsRequest,
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[control_pb2.Round]:
        # Subscribed before the past is read, so that no change falls between the two.
        with self._engine.feed.subscribe(request.task) as subscription:
            record, recent = await self._engine.ask(lambda c: (c.task(request.task), c.rounds()))
            next_round = request.from_round
            while page := self._store.ended_rounds(request.task, next_round, ROUNDS_PAGE):
                for summary in page:
                    yield round_to_proto(summary)
                next_round = page[-1].round_num + 1
            if not request.follow or record.status in FINAL:
                return
            for summary in recent:
                if summary.task == request.task and summary.round_num >= next_round:
                    yield round_to_proto(summary)
            async for summary in _changes(subscription, next_round):
                yield round_to_proto(summary)

    async def DescribeFeatures(
        self,
        request: control_pb2.TaskRequest,
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[control_pb2.Feature]:
        for feature in described_features(await self._task(request.name)):
            yield feature_to_proto(feature)

    # ---------------------------------------------------------------------------------- models and releases

    async def ListModels(self, request: control_pb2.TaskRequest, context: Any) -> control_pb2.ListModelsResponse:  # noqa: ARG002
        await self._task(request.name)
        response = control_pb2.ListModelsResponse()
        for model in self._store.models(request.name):
            content = fleet_pb2.Content(sha256=bytes.fromhex(model.sha256), size_bytes=model.size_bytes)
            response.models.add(task=model.task, version=model.version, content=content)
        return response

    async def ExportModel(
        self,
        request: control_pb2.ExportModelRequest,
        context: Any,  # noqa: ARG002
    ) -> AsyncIterator[control_pb2.ExportModelResponse]:
        data = await self._releases.export(request.task, request.version, request.format)
        for start in range(0, len(data), DOWNLOAD_CHUNK_BYTES):
            yield control_pb2.ExportModelResponse(data=data[start : start + DOWNLOAD_CHUNK_BYTES])

    async def CreateRelease(
        self,
        request: control_pb2.CreateReleaseRequest,
        context: Any,  # noqa: ARG002
    ) -> control_pb2.ReleaseInfo:
        record, difference = await self._releases.create(
            request.name, request.task, request.model_version, request.format
        )
        return release_to_proto(record, difference)

    async def ListReleases(
        self,
        request: control_pb2.ListReleasesRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> control_pb2.ListReleasesResponse:
        records = await self._engine.ask(lambda c: tuple(c.releases()))
        return control_pb2.ListReleasesResponse(releases=map(release_to_proto, records))

    async def ListDevices(
        self,
        request: control_pb2.ListDevicesRequest,
        context: Any,  # noqa: ARG002
    ) -> control_pb2.ListDevicesResponse:
        views = await self._engine.ask(lambda c: c.devices())
        wanted = [view for view in views if request.population in ("", view.record.population)]
        return control_pb2.ListDevicesResponse(devices=map(device_to_proto, wanted))

    async def CountAnswers(
        self,
        request: control_pb2.CountAnswersRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> control_pb2.CountAnswersResponse:
        receipts = self._counts.receipts
        response = control_pb2.CountAnswersResponse(
            accepted=receipts[Accepted],
            already_accepted=receipts[AlreadyAccepted],
            late=receipts[Late],
            noted=receipts[Noted],
        )
        for reason, count in sorted(self._counts.refusals.items(), key=lambda item: item[0].value):
            response.refused.add(reason=fleet_pb2.RefusalReason.ValueType(reason.value), count=count)
        for kind, count in sorted(self._counts.errors.items(), key=lambda item: item[0].__name__):
            response.errors.add(error=kind.__name__, count=count)
        return response

    # -------------------------------------------------------------------------------------------- privately

    async def _change(self, task: str, wanted: TaskStatus, event: Event) -> control_pb2.Task:
        """The task in ``wanted``; a task that is so already stays as it is, so that a repeated call succeeds."""
        record = await self._task(task)
        if record.status is not wanted:
            await self._engine.control(event)
        return await self._shown(task)

    async def _shown(self, name: str) -> control_pb2.Task:
        return task_to_proto(*await self._engine.ask(lambda c: (c.task(name), *c.standing(name))))

    async def _task(self, name: str) -> TaskRecord:
        return await self._engine.ask(lambda c: c.task(name))


def described_features(record: TaskRecord) -> tuple[FeatureStatistics, ...]:
    """Raises ``ConflictError`` where there are none: of another kind, not asked for, not yet completed."""
    spec = record.spec
    if spec.kind is not TaskKind.STATISTICS:
        raise ConflictError(f"task {spec.name!r} is of kind {spec.kind.value!r}; expected a statistics task")
    process = StatisticsProcess(spec, model_of(spec, None))
    if not process.described:
        raise ConflictError(
            f"task {spec.name!r} asks for neither statistics.bins nor statistics.extremes; create one that does"
        )
    found = process.result(record.state)
    if found is None:
        raise ConflictError(
            f"task {spec.name!r} has committed {record.state.version} of its {spec.rounds} rounds; "
            "its result is there after the last"
        )
    return found


async def _changes(subscription: Subscription, next_round: int) -> AsyncIterator[RoundSummary]:
    """Every change from ``next_round`` on; ends with the task."""
    while (summary := await subscription.next()) is not None:
        if summary.round_num >= next_round:
            yield summary
