"""The server over real gRPC on loopback, in this process: who may what, downloads, operators, health."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from server_kit import (
    FEATURES,
    OPERATOR,
    Caller,
    as_device,
    check_in,
    definition,
    error_of,
    run,
    seen,
    served,
    server_config,
    unwrap,
    update_for,
)

from edgefl.errors import (
    BusyError,
    ConfigError,
    ConflictError,
    FencedError,
    NotFoundError,
    PermissionDeniedError,
    RemoteProtocolError,
    UnauthenticatedError,
    UnavailableError,
)
from edgefl.models.tflite_metadata import read_classes
from edgefl.proto.v1 import control_pb2, fleet_pb2
from edgefl.protocol.messages import Accepted, Rejection
from edgefl.types import Weights
from edgefl.wire import DOWNLOAD_CHUNK_BYTES, check_in_to_proto
from edgefl_server.daemon import Daemon
from edgefl_server.sqlite_store import SqliteStore

# ------------------------------------------------------------------------------------------------ who may what


def test_no_identity(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        for metadata in (None, ((as_device("a")[0][0], "device"),), as_device("Not A Name"), as_device("a") * 2):
            with pytest.raises(UnauthenticatedError, match="device/NAME or operator/NAME"):
                await unwrap(caller.control.ListTasks(control_pb2.ListTasksRequest(), metadata=metadata))
            with pytest.raises(UnauthenticatedError):
                await unwrap(caller.fleet.CheckIn(check_in_to_proto(check_in()), metadata=metadata))

    run(tmp_path, body)


def test_roles_are_kept_apart(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        with pytest.raises(PermissionDeniedError, match="device 'a' may not call"):
            await unwrap(caller.control.ListTasks(control_pb2.ListTasksRequest(), metadata=as_device("a")))
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await caller.fleet.CheckIn(check_in_to_proto(check_in()), metadata=OPERATOR)
        error, retry = error_of(caught.value)
        assert isinstance(error, PermissionDeniedError)
        assert retry is not None  # errors of the fleet's service carry one
        download = caller.fleet.Download(fleet_pb2.DownloadRequest(sha256=bytes(32)), metadata=OPERATOR)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await download.read()
        assert caught.value.code() is grpc.StatusCode.PERMISSION_DENIED

    run(tmp_path, body)


def test_methods_without_a_role_are_for_nobody(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        for method in ("/edgefl.proto.v1.Fleet/Erase", "/edgefl.proto.v1.Control/createtask", "/other.Service/Get"):
            for metadata in (OPERATOR, as_device("a")):
                with pytest.raises(PermissionDeniedError, match="may not call"):
                    await unwrap(caller.channel.unary_unary(method)(b"", metadata=metadata))
            with pytest.raises(UnauthenticatedError):
                await unwrap(caller.channel.unary_unary(method)(b""))

    run(tmp_path, body)


def test_an_oversize_message_is_refused_and_the_server_goes_on(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=1))
        assignment = await caller.assignment("a")
        with pytest.raises(BusyError, match="larger than max"):
            await caller.report("a", update_for(assignment, "a", payload=bytes(5 << 20)))
        assert await caller.report("a", update_for(assignment, "a")) == Accepted(1)

    run(tmp_path, body)


def test_bytes_that_are_no_message(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        report = caller.channel.unary_unary("/edgefl.proto.v1.Fleet/Report")
        answer = fleet_pb2.ReportResponse.FromString(await report(b"\xff\xff\xff", metadata=as_device("a")))
        assert answer.refused.reason == fleet_pb2.REFUSAL_REASON_MALFORMED
        for method in ("Fleet/QueryUpload", "Fleet/CheckIn"):
            call = caller.channel.unary_unary(f"/edgefl.proto.v1.{method}")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await call(b"\xff\xff\xff", metadata=as_device("a"))
            error, retry = error_of(caught.value)
            assert isinstance(error, RemoteProtocolError)  # and not gRPC's UNKNOWN, which a device would take for a bug
            assert "not a valid message of this call" in str(error)
            assert retry is not None
        stream = caller.channel.stream_unary("/edgefl.proto.v1.Fleet/Upload")
        with pytest.raises(RemoteProtocolError, match="not a valid message of this call"):
            await unwrap(stream(iter([b"\xff"]), metadata=as_device("a")))
        watch = caller.channel.unary_stream("/edgefl.proto.v1.Control/WatchRounds")(b"\xff", metadata=OPERATOR)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await watch.read()
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(RemoteProtocolError, match="population"):
            await caller.check_in("a", population="")
        await caller.create(definition())

    run(tmp_path, body)


# ------------------------------------------------------------------------------------------------ downloads


def test_downloads_resume_from_an_offset(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(definition(features=100_000 // 2))
        (sha256,) = await caller.models()
        whole = await caller.download(sha256)
        assert len(whole) > DOWNLOAD_CHUNK_BYTES
        assert hashlib.sha256(whole).hexdigest() == sha256
        request = fleet_pb2.DownloadRequest(sha256=bytes.fromhex(sha256))
        broken = caller.fleet.Download(request, metadata=as_device("a"))
        got = (await broken.read()).data
        broken.cancel()
        assert 0 < len(got) < len(whole)
        assert got + await caller.download(sha256, len(got)) == whole
        assert await caller.download(sha256, len(whole)) == b""
        for wrong, error in (
            (fleet_pb2.DownloadRequest(sha256=bytes.fromhex(sha256), offset=len(whole) + 1), RemoteProtocolError),
            (fleet_pb2.DownloadRequest(sha256=b"short"), RemoteProtocolError),
            (fleet_pb2.DownloadRequest(sha256=bytes(32)), NotFoundError),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await caller.fleet.Download(wrong, metadata=as_device("a")).read()
            assert isinstance(error_of(caught.value)[0], error)

    run(tmp_path, body)


# ------------------------------------------------------------------------------------------------ operators


def test_wrong_requests_are_told_why(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        with pytest.raises(ConfigError, match="definition: round: unknown key 'gaol'"):
            await caller.create(definition().replace("goal", "gaol"))
        await caller.create(definition())
        with pytest.raises(ConflictError, match="exists"):
            await caller.create(definition())
        nobody = control_pb2.TaskRequest(name="nobody")
        for method in ("PauseTask", "ResumeTask", "EndTask", "ListModels"):
            with pytest.raises(NotFoundError, match="nobody"):
                await caller.operate(method, nobody)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await caller.control.WatchRounds(control_pb2.WatchRoundsRequest(task="nobody"), metadata=OPERATOR).read()
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND

    run(tmp_path, body)


def test_pause_resume_and_end_can_be_repeated(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=1))
        name = control_pb2.TaskRequest(name="train")
        for method, status in (
            ("PauseTask", control_pb2.TASK_STATUS_PAUSED),
            ("ResumeTask", control_pb2.TASK_STATUS_RUNNING),
            ("EndTask", control_pb2.TASK_STATUS_ENDED),
        ):
            for _ in range(2):
                assert (await caller.operate(method, name)).status == status
        with pytest.raises(ConflictError):
            await caller.operate("ResumeTask", name)
        assert isinstance((await caller.check_in("a")).outcome, Rejection)

    run(tmp_path, body)


def test_a_watcher_sees_each_change_and_the_end(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(definition(goal=1, rounds=5))
        await caller.run_round(("a",))
        phases: list[tuple[int, int]] = []
        watching = asyncio.Event()

        async def watch() -> None:
            async for change in caller.rounds():
                phases.append((change.round, change.phase))
                watching.set()

        watcher = asyncio.create_task(watch())
        await watching.wait()
        await caller.run_round(("a",))
        await caller.assignment("a")
        await caller.operate("EndTask", control_pb2.TaskRequest(name="train"))
        await watcher  # the stream ends with the task
        committed, abandoned = control_pb2.ROUND_PHASE_COMMITTED, control_pb2.ROUND_PHASE_ABANDONED
        assert phases[0] == (1, committed)
        assert (2, control_pb2.ROUND_PHASE_COLLECTING) in phases
        assert (2, committed) in phases
        assert phases[-1] == (3, abandoned)
        assert phases == sorted(phases)
        past = [(c.round, c.phase) async for c in caller.rounds(from_round=2)]
        assert past == [(2, committed), (3, abandoned)]

    run(tmp_path, body)


def test_models_are_exported_and_released(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        await caller.create(definition(rounds=1).replace("num_classes = 2", 'classes = ["up", "down"]'))
        await caller.run_round(("a", "b"))
        await caller.ended(1)
        digests = await caller.models()
        exported = await export(caller, control_pb2.MODEL_FORMAT_WEIGHTS)
        assert Weights.from_bytes(exported, 2, FEATURES).digest == digests[1]
        for model_format in (control_pb2.MODEL_FORMAT_TFLITE_FLOAT32, control_pb2.MODEL_FORMAT_TFLITE_INT8):
            assert read_classes(await export(caller, model_format)) == ("up", "down")
        with pytest.raises(NotFoundError, match="version 9"):
            await caller.operate("CreateRelease", release_request(model_version=9))
        with pytest.raises(ConfigError, match="model format is 1"):
            await caller.operate("CreateRelease", release_request(format=control_pb2.MODEL_FORMAT_WEIGHTS))
        made = await asyncio.gather(*(caller.operate("CreateRelease", release_request()) for _ in range(2)))
        assert sorted(info.release.version for info in made) == [1, 2]
        assert all(0 <= info.max_abs_diff <= 1e-5 and info.model_version == 1 for info in made)
        listed = (await caller.operate("ListReleases", control_pb2.ListReleasesRequest())).releases
        assert [r.release.version for r in listed] == [1, 2]
        answer = await caller.check_in("a")
        (offered,) = answer.releases
        assert (offered.name, offered.version) == ("app", 2)
        file = await caller.download(offered.sha256)
        assert (len(file), hashlib.sha256(file).hexdigest()) == (offered.size_bytes, offered.sha256)
        assert read_classes(file) == ("up", "down")

    run(tmp_path, body)


def release_request(**changes: object) -> control_pb2.CreateReleaseRequest:
    fields = {"name": "app", "task": "train", "format": control_pb2.MODEL_FORMAT_TFLITE_FLOAT32, **changes}
    return control_pb2.CreateReleaseRequest(**fields)  # type: ignore[arg-type]


async def export(caller: Caller, model_format: control_pb2.ModelFormat.ValueType) -> bytes:
    request = control_pb2.ExportModelRequest(task="train", format=model_format)
    return b"".join([chunk.data async for chunk in caller.control.ExportModel(request, metadata=OPERATOR)])


# ------------------------------------------------------------------------------------------------ the daemon


def test_health_and_reflection_answer_anyone(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        health = health_pb2_grpc.HealthStub(caller.channel)
        for service in ("", "edgefl.proto.v1.Fleet", "edgefl.proto.v1.Control"):
            response = await health.Check(health_pb2.HealthCheckRequest(service=service))
            assert response.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await health.Check(health_pb2.HealthCheckRequest(service="nobody"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        reflection = reflection_pb2_grpc.ServerReflectionStub(caller.channel)
        call = reflection.ServerReflectionInfo(iter([reflection_pb2.ServerReflectionRequest(list_services="")]))
        names = [service.name for service in (await call.read()).list_services_response.service]
        assert {"edgefl.proto.v1.Fleet", "edgefl.proto.v1.Control", "grpc.health.v1.Health"} <= set(names)

    run(tmp_path, body)


def test_a_taken_port_is_said_to_be_taken(tmp_path: Path) -> None:
    async def main() -> None:
        async with served(server_config(tmp_path)) as caller:
            address = caller.address
            with pytest.raises(UnavailableError, match="address already in use; stop the program"):
                await Daemon(server_config(tmp_path / "other", listen=address)).start()
            SqliteStore(tmp_path / "other" / "data", retention_rounds=1).close()  # its lock was given back

    asyncio.run(main())


def test_two_servers_on_one_data_dir(tmp_path: Path) -> None:
    async def body(caller: Caller) -> None:
        with pytest.raises(FencedError, match="held by another server"):
            await Daemon(server_config(tmp_path)).start()
        await caller.create(definition())  # the first is unharmed

    run(tmp_path, body)


def test_a_failed_store_stops_the_engine_and_tells_those_who_wait(tmp_path: Path) -> None:
    async def main() -> None:
        daemon = Daemon(server_config(tmp_path))
        await daemon.start()
        caller = Caller(daemon.address)
        await caller.create(definition())
        waiting = asyncio.create_task(caller.check_in("a"))
        await seen(caller, "a")
        daemon._store._epoch += 1  # as if another server had taken the database over
        with pytest.raises(UnavailableError, match="stopping after a failure"):
            await caller.operate("PauseTask", control_pb2.TaskRequest(name="train"))
        assert isinstance(await daemon.failed, FencedError)
        with pytest.raises(UnavailableError):
            await waiting
        with pytest.raises(UnavailableError):
            await caller.operate("ListTasks", control_pb2.ListTasksRequest())
        await daemon.give_up()
        await caller.channel.close()

    asyncio.run(main())
