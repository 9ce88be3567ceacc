"""The daemon's life: open, recover, serve, drain.

    lock and database -> bind -> recover -> SERVING ... SIGTERM -> NOT_SERVING -> answer who waits -> finish -> close

A second signal ends the process at once. A failure of the store ends it with that failure's exit status, for a
supervisor to start it again: what was acknowledged is durable, and the round it was in goes on.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import signal
import socket

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from edgefl._version import __version__
from edgefl.address import split_address
from edgefl.errors import ConfigError, EdgeFLError, NotFoundError, UnavailableError
from edgefl.learning import build_process
from edgefl.proto.v1 import control_pb2, control_pb2_grpc, fleet_pb2
from edgefl.protocol.coordinator import Coordinator
from edgefl.protocol.events import Draining
from edgefl.protocol.messages import RetryWindow
from edgefl.protocol.pace import CoordinatorConfig
from edgefl.systemd import notify
from edgefl.transport import MESSAGE_OPTIONS, bind_port
from edgefl_server.answers import AnswerCounts
from edgefl_server.config import ServerConfig
from edgefl_server.control_service import ControlService
from edgefl_server.engine import Engine
from edgefl_server.fleet_service import FleetService
from edgefl_server.identity import IdentityInterceptor, insecure_identity
from edgefl_server.sqlite_store import SqliteStore
from edgefl_server.store import Store
from edgefl_server.upload_calls import UploadCalls
from edgefl_server.uploads import Uploads

log = logging.getLogger("edgefl_server")

SERVICES = (
    fleet_pb2.DESCRIPTOR.services_by_name["Fleet"].full_name,
    control_pb2.DESCRIPTOR.services_by_name["Control"].full_name,
)
_LAST_WORDS_S = 0.5
"""How long calls may take to end when all answers are there and only have to be sent."""

_SERVING = health_pb2.HealthCheckResponse.SERVING
_NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Daemon:
    """One server. ``start`` returns when it serves; ``address`` is then where (port 0 in the configuration: chosen)."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._health = health.aio.HealthServicer()
        self.address = config.listen

    async def start(self) -> None:
        """Raises ``FencedError``, ``StorageError``, ``ConfigError`` or ``UnavailableError`` (the port is taken)."""
        config = self._config
        config.check_transport()
        self._store = SqliteStore(
            config.data_dir,
            retention_rounds=config.retention_rounds,
            checkpoint_every=config.checkpoint_every,
            history_rounds=config.history_rounds,
        )
        try:
            self._engine = Engine(
                self._store, make_coordinator(config, self._store), gather_window_s=config.gather_window_ms / 1000
            )
            uploads = Uploads(config.data_dir / "uploads", max_total_bytes=config.max_uploads_bytes)
            self._uploads = UploadCalls(self._engine, uploads, most_calls=config.max_reports_in_flight)
            self._server = self._make_server()
            for service in ("", *SERVICES):
                await self._health.set(service, _NOT_SERVING)
            self.address = bind(self._server, config.listen)
            await self._server.start()
            try:
                await self._engine.start()
                try:
                    await self._uploads.sweep()
                except BaseException:
                    await self._engine.stop()  # its thread writes by the store
                    raise
            except BaseException:
                await self._server.stop(None)
                raise
        except BaseException:
            self._store.close()
            raise
        for service in ("", *SERVICES):
            await self._health.set(service, _SERVING)

    @property
    def failed(self) -> asyncio.Future[EdgeFLError]:
        return self._engine.failed

    async def drain(self) -> None:
        """Answer who waits, let calls in flight finish for at most ``drain_s``, and close the store."""
        await self._health.enter_graceful_shutdown()
        with contextlib.suppress(UnavailableError):  # the engine has failed, and told those who wait
            await self._engine.control(Draining())
        self._engine.feed.close()
        stopping = asyncio.ensure_future(self._server.stop(self._config.drain_s))
        idle = asyncio.ensure_future(self._gate.idle.wait())
        await asyncio.wait((stopping, idle), return_when=asyncio.FIRST_COMPLETED)
        idle.cancel()
        await self._server.stop(_LAST_WORDS_S)  # sooner than drain_s: who watches the health would hold it up
        await stopping
        await self._engine.stop()
        self._store.close()

    async def give_up(self) -> None:
        """After ``failed``: let the errors that the waiting calls got go out, and close."""
        await self._server.stop(_LAST_WORDS_S)
        await self._engine.stop()
        self._store.close()

    def _make_server(self) -> grpc.aio.Server:
        config = self._config
        retry = RetryWindow(config.idle_retry_min_s, config.idle_retry_max_s)
        counts = AnswerCounts()
        self._gate = IdentityInterceptor(insecure_identity, retry, counts)
        server = grpc.aio.server(
            interceptors=[self._gate],
            options=[
                ("grpc.so_reuseport", 0),  # two servers on one port would share its devices between them
                *MESSAGE_OPTIONS,
            ],
        )
        fleet = FleetService(
            self._engine,
            self._store,
            self._uploads,
            max_reports_in_flight=config.max_reports_in_flight,
            retry=retry,
            counts=counts,
        )
        fleet.add_to(server)
        control_pb2_grpc.add_ControlServicer_to_server(ControlService(self._engine, self._store, counts), server)
        health_pb2_grpc.add_HealthServicer_to_server(self._health, server)
        reflection.enable_server_reflection((*SERVICES, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
        return server


def make_coordinator(config: ServerConfig, store: Store) -> Coordinator:
    """The coordinator of the learning processes, reading what it does not keep in memory from ``store``."""

    def load_model(task: str, version: int) -> bytes | None:
        try:
            return store.model(task, version)
        except NotFoundError:
            return None

    return Coordinator(
        build_process,
        CoordinatorConfig(
            long_poll_s=config.long_poll_s,
            max_waiting=config.max_waiting_check_ins,
            idle_min_s=config.idle_retry_min_s,
            idle_max_s=config.idle_retry_max_s,
            backoff_max_s=config.backoff_max_s,
        ),
        find_accepted=store.find_accepted,
        load_model=load_model,
    )


def bind(server: grpc.aio.Server, listen: str) -> str:
    """Bind ``listen`` and return HOST:PORT with the port in use. Raises ``UnavailableError`` or ``ConfigError``."""
    host, port = split_address(listen)
    shown = f"[{host}]" if ":" in host else host
    if port:
        _probe(host, port, listen)
    try:
        port = bind_port(server, listen)
    except RuntimeError:
        raise UnavailableError(f"cannot listen on {listen}: choose another address with --listen") from None
    return f"{shown}:{port}"


def _probe(host: str, port: int, listen: str) -> None:
    """Bind and give up again: gRPC says that it failed, but not why."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as gRPC does: TIME_WAIT is not an obstacle
            probe.bind(address)
    except OSError as error:
        what = f"cannot listen on {listen}: {(error.strerror or str(error)).lower()}"
        if error.errno == errno.EADDRINUSE:
            raise UnavailableError(f"{what}; stop the program that has it, or choose another with --listen") from None
        raise ConfigError(f"{what}; choose another address with --listen") from None


async def serve(config: ServerConfig) -> int:
    """Serve until a signal. Returns the exit status; raises what makes serving impossible."""
    daemon = Daemon(config)
    await daemon.start()
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def on_signal(number: int) -> None:
        if stopping.is_set():
            os._exit(128 + number)
        log.info("stopping: letting calls in flight finish; a second signal stops at once")
        stopping.set()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, on_signal, number)
    print(f"listening on {daemon.address}", flush=True)
    log.info("edgefl-server %s serves %s from %s", __version__, daemon.address, config.data_dir)
    notify("READY=1")
    stop = asyncio.ensure_future(stopping.wait())
    await asyncio.wait((stop, daemon.failed), return_when=asyncio.FIRST_COMPLETED)
    stop.cancel()
    notify("STOPPING=1")
    if daemon.failed.done():
        await daemon.give_up()
        raise daemon.failed.result()
    await daemon.drain()
    if daemon.failed.done():
        raise daemon.failed.result()
    log.info("stopped")
    return 0
