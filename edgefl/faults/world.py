"""One run: the agenda, the link, the faults, the operator; and what lives and dies on them.

Nothing here reads a clock or the system's randomness: a seed gives the same run on every machine.

Faults end a server by a ``Crash`` or a ``StorageError``. Any other error is none of theirs, and ends the run with it.
"""

from __future__ import annotations

import contextlib
import heapq
import logging
import os
import random
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from edgefl.errors import FencedError, StorageError
from edgefl.faults.checks import Checks, Promises, require
from edgefl.faults.device import SimDevice
from edgefl.faults.disk import Crash, Disk
from edgefl.faults.fleet import Fleet
from edgefl.faults.link import Link
from edgefl.faults.memory import DeviceMemory
from edgefl.faults.operator import Operator
from edgefl.faults.points import Points
from edgefl.faults.scenario import Fault, Kind, Scenario
from edgefl.faults.server import SimServer
from edgefl.faults.tally import Tally
from edgefl.protocol.events import Draining, TaskStatus
from edgefl_server.sqlite_file import rewrite_log, take_lock

MIN_STEPS = 30_000
STEPS_A_REPORT = 400
"""Ten times what the longest good run takes: more is a run that never ends."""

TRACE_LINES = 400

Template = Mapping[str, bytes]


class World:
    """One run of ``scenario`` on ``fleet``, below the folder ``root``. ``template``: the files of a new database.

    ``poll`` is called between any two steps; what it raises ends the run.
    """

    def __init__(
        self, scenario: Scenario, fleet: Fleet, root: Path, template: Template, poll: Callable[[], None]
    ) -> None:
        self.scenario = scenario
        self.config = scenario.config
        self.fleet = fleet
        self.tasks = fleet.definitions(scenario.rounds)
        self.population = self.tasks[0][0].population
        self.now = 0.0
        self.tally = Tally()
        self.promises = Promises()
        self.memory = DeviceMemory()
        self.checks = Checks(fleet.process, self.promises, scenario.retention)
        self.offered: dict[str, int] = {}
        self.paused: set[str] = set()
        self.servers: list[SimServer] = []
        self.trace: deque[str] = deque(maxlen=TRACE_LINES)
        self._root = root
        self._poll = poll
        self._chance = random.Random(f"{scenario.seed} world")
        self._upload_chance = random.Random(f"{scenario.seed} uploads lost")
        self._agenda: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self._boots = 0
        self._points = Points(self._struck_at)
        self._wall_shift = 0.0
        self.perhaps_done = False
        self._last_commit = 0.0
        self.disk = Disk.with_files(root / "server-0", self.server_point, template)
        self.link = Link(self, random.Random(f"{scenario.seed} link"))
        self.operator = Operator(self)
        self.devices = [self._device(index, 0) for index in range(len(fleet.members))]
        if scenario.clone:
            self.struck(Kind.CLONE)
            self.devices.append(self._device(0, 1))

    def _device(self, index: int, copy: int) -> SimDevice:
        folder = self._root / f"device-{index}-{copy}"
        chance = random.Random(f"{self.scenario.seed} {index} {copy}")
        return SimDevice(self, self.fleet.members[index], copy, folder, chance)

    # The run --------------------------------------------------------------------------------------------

    def run(self) -> None:
        """Raises ``Violation``, and what ``poll`` raises."""
        with _wall_clock(lambda: 1.8e9 + self.now + self._wall_shift), _silence():
            try:
                self._run()
            finally:
                self._close()

    def _run(self) -> None:
        self._start_server()
        self.operator.start()
        for device in self.devices:
            self.later(self._chance.uniform(0.0, 1.0), device.guarded_boot)
        for fault in self.scenario.faults:
            self.later(fault.at, lambda fault=fault: self._strike(fault))  # type: ignore[misc]
        self.later(self.scenario.until, self._heal)
        patience_s, most_steps = self._patience_s(), self._most_steps()
        steps = 0
        while not (self.perhaps_done and self.finished()):
            self._poll()
            self.perhaps_done = False
            steps += 1
            self.now, _, action = heapq.heappop(self._agenda)
            action()
            require(steps < most_steps, f"I9: {most_steps} steps, and no end")
            quiet = self.now - max(self.scenario.until, self._last_commit)
            require(quiet < patience_s, f"I9: no round committed for {quiet:.0f} s without faults")
        self._points.disarm()
        struck = self.tally.faults.copy()
        self._crashed(True, Crash("the end", True))
        self.tally.faults = struck  # this power cut is a question to the ledger, and none of the faults
        self._start_server()  # which looks at all that it finds
        require(self.finished(), "I4: what was completed is not, after a power cut")
        self.memory.check(self.servers[-1].store.db)
        self.promises.check_fates(self.servers[-1].store.db)
        self.tally.close(self.servers[-1].store.db, self.promises, self.now)
        require(self.tally.lost == 0, f"I1: {self.tally.lost} acknowledged updates are in no round that ended")

    def _patience_s(self) -> float:
        """I9: two deadlines; longer where devices are told to wait longer than a deadline after a failure."""
        rounds = [spec.round for spec, _ in self.tasks]
        deadline_s = max(max(one.deadline_s, one.selection_s) for one in rounds)
        session = self.fleet.session
        return max(2 * deadline_s, deadline_s + session.check_in_timeout_s + session.backoff_cap_s)

    def _most_steps(self) -> int:
        rounds = sum(spec.rounds for spec, _ in self.tasks)
        return max(MIN_STEPS, STEPS_A_REPORT * rounds * len(self.devices))

    def sql(self, text: str) -> str:
        """A statement of the server's as it is carried out."""
        if text.startswith("PRAGMA wal_autocheckpoint"):
            return f"PRAGMA wal_autocheckpoint = {self.scenario.checkpoint_pages}"
        return text

    def rewrite_log(self, path: Path) -> None:
        self.disk.rewritten(path, rewrite_log)

    def finished(self) -> bool:
        """All tasks are completed, all releases made."""
        if not self.servers or not self.operator.done:
            return False
        tasks = self.servers[-1].coordinator.tasks()
        return len(tasks) == len(self.tasks) and all(task.status is TaskStatus.COMPLETED for task in tasks)

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
        """A line of the trace, without the path of a folder that has another name in each process."""
        self.trace.append(f"{self.now:9.3f}  {who:10} {what.replace(f'{self._root}/', '')}")

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

    def is_cloned(self, device: str) -> bool:
        """Whether two devices go by this name: the server takes them for one, whose memory it cannot follow."""
        return sum(one.name == device for one in self.devices) > 1

    @property
    def faulty(self) -> bool:
        return self.now < self.scenario.until

    def struck(self, kind: Kind) -> None:
        self.tally.faults[kind.value] += 1

    # Faults ---------------------------------------------------------------------------------------------

    def _strike(self, fault: Fault) -> None:
        self.say("fault", str(fault))
        device = self.devices[fault.who % len(self.devices)]
        match fault.kind:
            case Kind.SERVER_KILL | Kind.SERVER_POWER | Kind.SYNC_ERROR | Kind.WRITE_ERROR:
                self._points.arm(fault.kind, fault.after)
            case Kind.DEVICE_KILL | Kind.DEVICE_POWER | Kind.CARD_FULL | Kind.CARD_ERROR:
                self._points.arm(fault.kind, fault.after, device.who)
            case Kind.DISK_FULL:
                self._points.fill_disk(self.now + fault.lasts_s)
            case Kind.PARTITION:
                for other in self.devices[: 1 + fault.who % len(self.devices)]:
                    self.link.cut_off[other.who] = self.now + fault.lasts_s
            case Kind.WALL_CLOCK:
                self.struck(fault.kind)
                self._wall_shift += (-1) ** fault.who * 10.0 ** (fault.who % 9)
            case Kind.TAKEOVER:
                self._take_over(fault.lasts_s)
            case Kind.RESTART if self.servers:
                self._tell_to_stop(self.servers[-1], fault.lasts_s)

    def _heal(self) -> None:
        self.say("fault", "no more of them")
        self._points.disarm()
        self.link.cut_off = {}
        for server in self.servers[:-1]:
            self._exit(server, "its machine is switched off")

    def server_point(self, where: str) -> None:
        self._points.server(where, self.now)

    def device_point(self, device: SimDevice, where: str) -> None:
        self._points.device(device.who, where)

    def _struck_at(self, kind: Kind, where: str) -> None:
        self.struck(kind)
        self.say("fault", f"{kind.value} at: {where}")

    # Servers --------------------------------------------------------------------------------------------

    def _start_server(self) -> None:
        if self.servers:
            return
        self._boots += 1
        try:
            server = self._new_server()
        except Crash as crash:
            self._crashed(bool(crash.args[1]), crash)
        except StorageError as error:
            self.say("server", f"cannot start: {error}")
            self.later(1.0, self._start_server)
        else:
            self.say(server.who, "is up")

    def _new_server(self, lock: Callable[[Path], int] = take_lock) -> SimServer:
        server = SimServer(self, self.disk, f"server.{self._boots}", lock)
        self.servers.append(server)  # from here on whatever ends it closes its store
        try:
            server.recover()
        except StorageError:
            self._gone(server)
            with self.disk.undisturbed():
                server.store.close()
            raise
        self.perhaps_done = True
        return server

    def _take_over(self, lasts_s: float) -> None:
        """Locks do not work (a network file system): another server opens the database of one that lives."""
        if len(self.servers) != 1:
            return
        (old,) = self.servers
        self._check_lock(old)
        self._boots += 1
        own_lock = self._root / f"lock-{self._boots}"
        try:
            self._new_server(lambda _: take_lock(own_lock))
        except Crash as crash:
            self._crashed(bool(crash.args[1]), crash)
            return
        except StorageError as error:
            self.say("server", f"cannot take over: {error}")
            return
        self.struck(Kind.TAKEOVER)
        old.store.stale = True
        self.say(self.servers[-1].who, f"takes over from {old.who}")
        self.later(lasts_s, lambda: self._exit(old, "its machine is switched off"))

    def _check_lock(self, server: SimServer) -> None:
        """Where locks do work, nobody else opens the database of a server that lives."""
        if server.has_lock:
            try:
                second = take_lock(self.disk.folder)
            except FencedError:
                return
            os.close(second)
            require(False, f"I5: {server.who} lives, and another server could take its lock")

    def take_turn(self, server: SimServer) -> None:
        if not server.up or not server.waits_for_turn():
            return
        try:
            server.turn()
        except Crash as crash:
            self._crashed(bool(crash.args[1]), crash)
        except StorageError as error:
            self._exit(server, str(error))

    def _tell_to_stop(self, server: SimServer, lasts_s: float) -> None:
        """As SIGTERM does: the server drains while calls in flight finish, then closes its files."""
        self.struck(Kind.RESTART)
        server.put(self.new_token(), Draining())
        self.later(lasts_s, lambda: self._exit(server, "it was told to stop", in_order=True))

    def _exit(self, server: SimServer, why: str, in_order: bool = False) -> None:
        """The process ends by itself; without closing its files, by chance, if it is not said to be in good order."""
        if not server.up:
            return
        self.say(server.who, f"ends: {why}")
        if len(self.servers) == 1 and not in_order and self._chance.random() < 0.5:
            self._gone(server)
            self._move(self.disk.killed(self._next_folder()))
            server.store.close()
        else:
            self._gone(server)
            # What faults do to a closing file is what they do to one that is never closed.
            with self.disk.undisturbed():
                server.store.close()
        if not self.servers:
            self.later(self._chance.uniform(0.2, 2.0), self._start_server)

    def _crashed(self, power: bool, crash: Crash) -> None:
        self.say("server", f"{'loses power' if power else 'is killed'} at: {crash.args[0]}")
        old, folder = self.disk, self._next_folder()
        if power:
            found = old.power_cut(self.config.disk, self._chance, self.tally.faults)
            after = Disk.with_files(folder, self.server_point, found)
            old.uploads_after_power_cut(folder, self.config.disk, self._upload_chance, self.tally.faults)
        else:
            after = old.killed(folder)
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
        self.disk = disk


@contextlib.contextmanager
def _wall_clock(clock: Callable[[], float]) -> Iterator[None]:
    """This process's wall clock is ``clock``: nothing may depend on it."""
    real, time.time = time.time, clock
    try:
        yield
    finally:
        time.time = real


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The agent warns of what a power cut left behind."""
    logging.disable()
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
