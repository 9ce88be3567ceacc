"""One run: the agenda, the link, the faults, the operator; and what lives and dies on them.

Nothing here reads a clock or the system's randomness: a seed gives the same run on every machine.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import random
import shutil
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import apsw

from edgefl.errors import EdgeFLError
from edgefl.protocol.events import TaskStatus
from edgefl_server import sqlite_read, sqlite_store
from edgefl_server.sqlite_file import rewrite_log, take_lock
from edgefl_server.sqlite_store import SqliteStore
from faults.card import card_error
from faults.checks import Promises, Violation, require
from faults.device import SimDevice
from faults.disk import Crash, Disk, connection_factory
from faults.link import Link
from faults.operator_ import Operator
from faults.scenario import DEADLINE_S, FAULTS_END_S, Fault, Kind, Scenario, parse
from faults.server import SimServer

MAX_STEPS = 30_000
"""Ten times what the longest good run takes: more is a run that never ends."""

TRACE_LINES = 400

_CARD_POINTS = {Kind.CARD_FULL: "write", Kind.CARD_ERROR: "sync"}
"""Where these faults of a card strike."""


@dataclass
class Armed:
    """A fault that strikes at a later point."""

    kind: Kind
    left: int
    device: SimDevice | None = None


def _as_it_is(sql: str) -> str:
    return sql


class World:
    """``template``: the files of a new database. The last three are for mutants; ``rewrite`` is applied to SQL."""

    def __init__(
        self,
        scenario: Scenario,
        root: Path,
        template: dict[str, bytes],
        rewrite: Callable[[str], str] = _as_it_is,
        retries_sync: bool = False,
        trusts_log: bool = False,
    ) -> None:
        self.scenario = scenario
        self.now = 0.0
        self.promises = Promises()
        self.offered: dict[str, int] = {}
        self.servers: list[SimServer] = []
        self.trace: deque[str] = deque(maxlen=TRACE_LINES)
        self.steps = 0
        self._root = root
        self._rewrite = rewrite
        self._retries_sync = retries_sync
        self._trusts_log = trusts_log
        self._chance = random.Random(f"{scenario.seed} world")
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._boots = 0
        self._armed: list[Armed] = []
        self._full_until = -1.0
        self._wall_shift = 0.0
        self.perhaps_done = False
        self._last_commit = 0.0
        self.disk = self._adopt(Disk.with_files(root / "server-0", self.server_point, template))
        self.link = Link(self, random.Random(f"{scenario.seed} link"))
        self.operator = Operator(self)
        self.devices = [self._device(f"d{n}", 0) for n in range(scenario.num_devices)]
        if scenario.clone:
            self.devices.append(self._device("d0", 1))

    def _adopt(self, disk: Disk) -> Disk:
        disk.retries_sync = self._retries_sync
        return disk

    def _device(self, name: str, copy: int) -> SimDevice:
        folder = self._root / f"{name}-{copy}"
        return SimDevice(self, name, copy, folder, random.Random(f"{self.scenario.seed} {name} {copy}"))

    # The run --------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises ``Violation``."""
        wall = patch.object(time, "time", lambda: 1.8e9 + self.now + self._wall_shift)
        rewrite = patch.object(sqlite_store, "rewrite_log", self._rewrite_log)
        with wall, rewrite, patch.object(sqlite_read, "parse_task", parse):
            logging.disable()  # the agent warns of what a power cut left behind
            try:
                self._run()
            finally:
                logging.disable(logging.NOTSET)
                self._close()

    def _run(self) -> None:
        self._start_server()
        self.operator.start()
        for device in self.devices:
            self.later(self._chance.uniform(0.0, 1.0), device.guarded_boot)
        for fault in self.scenario.faults:
            self.later(fault.at, lambda fault=fault: self._strike(fault))  # type: ignore[misc]
        self.later(FAULTS_END_S, self._heal)
        while not (self.perhaps_done and self.finished()):
            self.perhaps_done = False
            self.steps += 1
            self.now, _, action = heapq.heappop(self._agenda)
            action()
            require(self.steps < MAX_STEPS, f"I9: {MAX_STEPS} steps, and no end")
            quiet = self.now - max(FAULTS_END_S, self._last_commit)
            require(quiet < 2 * DEADLINE_S, f"I9: no round committed for {quiet:.0f} s without faults")
        self._armed = []
        self._full_until = -1.0
        self._crashed(True, Crash("the end", True))
        self._start_server()  # which looks at all that it finds
        require(self.finished(), "I4: what was completed is not, after a power cut")

    def _rewrite_log(self, path: Path) -> None:
        if not self._trusts_log:
            self.disk.rewritten(path, rewrite_log)

    def finished(self) -> bool:
        """All tasks are completed, all releases made."""
        if not self.servers or not self.operator.done:
            return False
        tasks = self.servers[-1].coordinator.tasks()
        return len(tasks) == 2 and all(task.status is TaskStatus.COMPLETED for task in tasks)

    def _close(self) -> None:
        self.disk.dead = True
        for server in self.servers:
            server.store.close()
        for device in self.devices:
            device.end()
        self.disk.forget()

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        self._count += 1
        heapq.heappush(self._agenda, (self.now + delay_s, self._count, action))

    def say(self, who: str, what: str) -> None:
        self.trace.append(f"{self.now:9.3f}  {who:10} {what}")

    def new_token(self) -> int:
        self._count += 1
        return self._count

    def committed(self) -> None:
        self._last_commit = self.now
        self.perhaps_done = True

    def answer(self, token: int, value: Any) -> None:
        """A server answers ``token``."""
        if not self.link.answer(token, value):
            self.operator.answered(token, value)
            self.perhaps_done = True

    @property
    def faulty(self) -> bool:
        return self.now < FAULTS_END_S

    # Faults ---------------------------------------------------------------------------------------------

    def _strike(self, fault: Fault) -> None:
        self.say("fault", str(fault))
        device = self.devices[fault.who % len(self.devices)]
        match fault.kind:
            case Kind.SERVER_KILL | Kind.SERVER_POWER | Kind.SYNC_ERROR | Kind.WRITE_ERROR:
                self._armed.append(Armed(fault.kind, fault.after))
            case Kind.DEVICE_KILL | Kind.DEVICE_POWER | Kind.CARD_FULL | Kind.CARD_ERROR:
                self._armed.append(Armed(fault.kind, fault.after, device))
            case Kind.DISK_FULL:
                self._full_until = self.now + fault.lasts_s
            case Kind.PARTITION:
                for other in self.devices[: 1 + fault.who % len(self.devices)]:
                    self.link.cut_off[other.who] = self.now + fault.lasts_s
            case Kind.WALL_CLOCK:
                self._wall_shift += (-1) ** fault.who * 10.0 ** (fault.who % 9)
            case Kind.TAKEOVER:
                self._take_over(fault.lasts_s)

    def _heal(self) -> None:
        self.say("fault", "no more of them")
        self._armed = []
        self._full_until = -1.0
        self.link.cut_off = {}
        for server in self.servers[:-1]:
            self._exit(server, "its machine is switched off")

    def server_point(self, where: str) -> None:
        if where.startswith("write") and self.now < self._full_until:
            raise apsw.FullError("database or disk is full")
        for armed in self._armed:
            if armed.device is not None:
                continue
            if armed.kind is Kind.SYNC_ERROR and not where.startswith("sync"):
                continue
            if armed.kind is Kind.WRITE_ERROR and not where.startswith("write"):
                continue
            armed.left -= 1
            if armed.left < 0:
                self._armed.remove(armed)
                self.say("fault", f"{armed.kind.value} at: {where}")
                if armed.kind in (Kind.SYNC_ERROR, Kind.WRITE_ERROR):
                    raise apsw.IOError("disk I/O error")
                raise Crash(where, armed.kind is Kind.SERVER_POWER)

    def device_point(self, device: SimDevice, where: str) -> None:
        for armed in self._armed:
            if armed.device is not device or not where.startswith(_CARD_POINTS.get(armed.kind, "")):
                continue
            armed.left -= 1
            if armed.left < 0:
                self._armed.remove(armed)
                self.say("fault", f"{armed.kind.value} at: {where}")
                if armed.kind in _CARD_POINTS:
                    raise card_error(full=armed.kind is Kind.CARD_FULL)
                raise Crash(where, armed.kind is Kind.DEVICE_POWER)

    # Servers --------------------------------------------------------------------------------------------

    def _start_server(self) -> None:
        if self.servers:
            return
        self._boots += 1
        try:
            server = self._new_server()
        except Crash as crash:
            self._crashed(bool(crash.args[1]), crash)
        except EdgeFLError as error:
            self.say("server", f"cannot start: {error}")
            self.later(1.0, self._start_server)
        else:
            self.say(server.who, "is up")

    def _new_server(self) -> SimServer:
        server = SimServer(self, self.disk, f"server.{self._boots}", self.scenario.retention, self._sql)
        self.servers.append(server)
        self.perhaps_done = True
        return server

    def _sql(self, sql: str) -> str:
        if sql.startswith("PRAGMA wal_autocheckpoint"):
            sql = f"PRAGMA wal_autocheckpoint = {self.scenario.checkpoint_pages}"
        return self._rewrite(sql)

    def _take_over(self, lasts_s: float) -> None:
        """Locks do not work (a network file system): another server opens the database of one that lives."""
        if len(self.servers) != 1:
            return
        (old,) = self.servers
        self._boots += 1
        with patch("edgefl_server.sqlite_store.take_lock", lambda _: take_lock(self._root / f"lock-{self._boots}")):
            try:
                self._new_server()
            except Crash as crash:
                self._crashed(bool(crash.args[1]), crash)
                return
            except EdgeFLError as error:
                self.say("server", f"cannot take over: {error}")
                return
        old.store.stale = True
        self.say(self.servers[-1].who, f"takes over from {old.who}")
        self.later(lasts_s, lambda: self._exit(old, "its machine is switched off"))

    def take_turn(self, server: SimServer) -> None:
        if not server.up or not server.waits_for_turn():
            return
        try:
            server.turn()
        except Crash as crash:
            self._crashed(bool(crash.args[1]), crash)
        except EdgeFLError as error:
            self._exit(server, str(error))

    def _exit(self, server: SimServer, why: str) -> None:
        """The process ends by itself; in good order, or (by chance) without closing its files."""
        if not server.up:
            return
        self.say(server.who, f"ends: {why}")
        if len(self.servers) == 1 and self._chance.random() < 0.5:
            self._gone(server)
            self._move(self.disk.killed(self._next_folder()))
            server.store.close()
        else:
            self._gone(server)
            # What faults do to a closing file is what they do to one that is never closed.
            with patch.object(self.disk, "point", lambda _: None):
                server.store.close()
        if not self.servers:
            self.later(self._chance.uniform(0.2, 2.0), self._start_server)

    def _crashed(self, power: bool, crash: Crash) -> None:
        self.say("server", f"{'loses power' if power else 'is killed'} at: {crash.args[0]}")
        old, folder = self.disk, self._next_folder()
        after = Disk.with_files(folder, self.server_point, old.power_cut(self._chance)) if power else old.killed(folder)
        dead = list(self.servers)
        for server in dead:
            self._gone(server)
        self._move(after)
        for server in dead:
            server.store.close()
        self.later(self._chance.uniform(0.2, 3.0), self._start_server)

    def _gone(self, server: SimServer) -> None:
        server.up = False
        if server in self.servers:
            self.servers.remove(server)
        self.link.reset(server)

    def _next_folder(self) -> Path:
        self._count += 1
        return self._root / f"server-{self._count}"

    def _move(self, disk: Disk) -> None:
        self.disk.dead = True
        self.disk.forget()
        self.disk = self._adopt(disk)


def new_database(root: Path) -> dict[str, bytes]:
    """The files of a database that a server has just made."""
    disk = Disk(root / "new", lambda _: None)
    SqliteStore(disk.folder, retention_rounds=1, factory=connection_factory(_as_it_is)).close()
    files = {path.name: path.read_bytes() for path in disk.folder.iterdir() if path.name == "edgefl.db"}
    disk.forget()
    return files


@contextlib.contextmanager
def scratch(root: Path) -> Iterator[Path]:
    """A folder for one run."""
    folder = root / "run"
    folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


__all__ = ["Violation", "World", "new_database", "scratch"]
