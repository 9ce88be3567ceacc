"""Who calls is read from the call's context, before its message; channels and ports are made in one module."""

from __future__ import annotations

import asyncio
import re
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from places import ROOT
from script_kit import SCRIPT
from server_kit import OPERATOR, Caller, as_device, check_in, definition, error_of, run, unwrap

from edgefl.errors import ConfigError, PermissionDeniedError, RemoteProtocolError, UnauthenticatedError
from edgefl.proto.v1 import control_pb2, fleet_pb2
from edgefl.protocol.messages import RetryWindow
from edgefl.transport import bind_port, open_channel
from edgefl.wire import IDENTITY_KEY, check_in_to_proto
from edgefl_server.answers import AnswerCounts
from edgefl_server.identity import METHOD_ROLES, Identity, IdentityInterceptor, Role, caller

NOBODY: dict[str, Any] = {
    "no name": None,
    "two names": as_device("a") + as_device("b"),
    "two roles": as_device("a") + OPERATOR,
    "the same name twice": OPERATOR * 2,
    "bytes that are not text": ((IDENTITY_KEY + "-bin", b"device/\xff\xfe"),),
    "an empty name": ((IDENTITY_KEY, "device/"),),
    "no role": ((IDENTITY_KEY, "a"),),
    "an unknown role": ((IDENTITY_KEY, "server/a"),),
    "a role in capitals": ((IDENTITY_KEY, "Operator/olga"),),
    "a path": ((IDENTITY_KEY, "device/../a"),),
    "a name with a space": ((IDENTITY_KEY, "device/a b"),),
}
"""Metadata that names nobody."""

KINDS = {
    "/edgefl.proto.v1.Fleet/CheckIn": "unary_unary",
    "/edgefl.proto.v1.Fleet/Download": "unary_stream",
    "/edgefl.proto.v1.Fleet/Upload": "stream_unary",
    "/edgefl.proto.v1.Control/CreateTask": "unary_unary",
    "/edgefl.proto.v1.Control/WatchRounds": "unary_stream",
}
"""Methods of each kind of call."""


async def call(caller_: Caller, method: str, metadata: Any, raw: bytes = b"") -> None:
    """Call ``method`` with one message. Raises what the server answers."""
    kind = KINDS[method]
    request: Any = iter([raw]) if kind.startswith("stream") else raw
    made = getattr(caller_.channel, kind)(method)(request, metadata=metadata)
    if kind == "unary_stream":
        try:
            async for _ in made:
                pass
        except grpc.aio.AioRpcError as error:
            raise error_of(error)[0] from None
    else:
        await unwrap(made)


@pytest.mark.parametrize("method", KINDS)
def test_who_is_not_named_once_and_rightly_is_refused(method: str, tmp_path: Path) -> None:
    async def body(caller_: Caller) -> None:
        for metadata in NOBODY.values():
            with pytest.raises(UnauthenticatedError, match="device/NAME or operator/NAME"):
                await call(caller_, method, metadata)

    run(tmp_path, body)


@pytest.mark.parametrize("method", KINDS)
def test_a_role_does_not_open_the_other_roles_methods(method: str, tmp_path: Path) -> None:
    async def body(caller_: Caller) -> None:
        wrong = OPERATOR if "Fleet" in method else as_device("a")
        with pytest.raises(PermissionDeniedError, match=f"may not call {method}"):
            await call(caller_, method, wrong)

    run(tmp_path, body)


def test_a_refused_call_is_answered_before_its_message_is_there(tmp_path: Path) -> None:
    async def never() -> AsyncIterator[bytes]:
        await asyncio.Event().wait()
        yield b""

    async def body(caller_: Caller) -> None:
        for method in (*KINDS, "/edgefl.proto.v1.Fleet/Erase"):
            for metadata, code in (
                (None, grpc.StatusCode.UNAUTHENTICATED),
                (OPERATOR if "Fleet" in method else as_device("a"), grpc.StatusCode.PERMISSION_DENIED),
            ):
                waiting = caller_.channel.stream_unary(method)(never(), metadata=metadata)
                assert await asyncio.wait_for(waiting.code(), 10) is code

    run(tmp_path, body)


def test_a_call_without_a_message_is_answered(tmp_path: Path) -> None:
    async def body(caller_: Caller) -> None:
        for method in ("CheckIn", "Download"):
            empty = caller_.channel.stream_unary(f"/edgefl.proto.v1.Fleet/{method}")(iter(()), metadata=as_device("a"))
            with pytest.raises(RemoteProtocolError, match="no message; expected one"):
                await asyncio.wait_for(unwrap(empty), 10)
        await caller_.create(definition())

    run(tmp_path, body)


def test_two_calls_at_once_keep_their_names_apart(tmp_path: Path) -> None:
    async def body(caller_: Caller) -> None:
        names = [f"d{number}" for number in range(20)]
        request = check_in_to_proto(check_in())
        await asyncio.gather(*(caller_.fleet.CheckIn(request, metadata=as_device(name)) for name in names))
        listed = await caller_.operate("ListDevices", control_pb2.ListDevicesRequest())
        assert sorted(device.name for device in listed.devices) == sorted(names)

    run(tmp_path, body, long_poll_s=0.2)


def test_the_identity_may_come_from_the_connection() -> None:
    """What is handed to ``identify`` is the call's context, with what TLS knows of the peer, for each kind of call."""
    seen: list[tuple[str, dict[str, Any]]] = []

    def identify(context: Any) -> Identity:
        seen.append((context.peer(), context.auth_context()))
        return Identity(Role.OPERATOR, "olga")

    async def named(request: bytes, context: Any) -> bytes:  # noqa: ARG001
        return caller().name.encode()

    async def names(request: bytes, context: Any) -> AsyncIterator[bytes]:  # noqa: ARG001
        yield caller().name.encode()

    async def main() -> None:
        gate = IdentityInterceptor(identify, RetryWindow(1.0, 2.0), AnswerCounts())
        server = grpc.aio.server(interceptors=[gate])
        handlers = {
            "ListTasks": grpc.unary_unary_rpc_method_handler(named),
            "WatchRounds": grpc.unary_stream_rpc_method_handler(names),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("edgefl.proto.v1.Control", handlers),))
        port = bind_port(server, "127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert await channel.unary_unary("/edgefl.proto.v1.Control/ListTasks")(b"") == b"olga"
            assert [m async for m in channel.unary_stream("/edgefl.proto.v1.Control/WatchRounds")(b"")] == [b"olga"]
        assert gate.idle.is_set()
        await server.stop(None)

    asyncio.run(main())
    assert len(seen) == 2
    assert all(peer.startswith("ipv4:127.0.0.1:") and isinstance(auth, dict) for peer, auth in seen)


def test_every_method_of_the_table_is_served() -> None:
    services = (fleet_pb2.DESCRIPTOR.services_by_name["Fleet"], control_pb2.DESCRIPTOR.services_by_name["Control"])
    made = {f"/{service.full_name}/{method.name}" for service in services for method in service.methods}
    assert {method for method in METHOD_ROLES if method.startswith("/edgefl.")} == made


# ------------------------------------------------------------------------------------------------ one transport


def test_plaintext_stays_on_this_machine() -> None:
    with pytest.raises(ConfigError, match="not loopback"):
        open_channel("192.0.2.1:7443")
    with pytest.raises(ConfigError, match="not loopback"):
        bind_port(None, "0.0.0.0:0")


def test_channels_and_ports_are_made_in_one_module() -> None:
    making = re.compile(r"insecure_channel|secure_channel|add_(in)?secure_port|_credentials\(")
    folders = (ROOT / "edgefl", ROOT / "server", ROOT / "device")
    found = {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in folder.rglob("*.py")
        if making.search(path.read_text(encoding="utf-8")) and not path.name.endswith("_pb2_grpc.py")
    }
    assert found == {"edgefl/transport.py"}


def test_a_simulation_in_one_process_does_not_load_grpc(tmp_path: Path) -> None:
    data = tmp_path / "mine.csv"
    data.write_text("client,label,x\n" + "".join(f"c{row % 2},{row % 2},{row}\n" for row in range(8)))
    task = tmp_path / "task.toml"
    task.write_text(
        'name = "t"\nkind = "training"\npopulation = "p"\nrounds = 1\n'
        "model = { num_features = 1, num_classes = 2 }\n"
        "client = { learning_rate = 0.1 }\nround = { goal = 2, minimum = 2 }\n"
    )
    code = (
        "import sys; from edgefl.cli.main import main\n"
        f"assert main(['simulate', {str(task)!r}, '--dataset', {str(data)!r}]) == 0\n"
        "print({'grpc', 'edgefl.transport'} & set(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run([*SCRIPT, code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip().splitlines()[-1] == "set()"
