"""The server: the real coordinator, batcher and store on a faulty disk, without threads.

Its turns are the engine's: what arrives within a few milliseconds shares one transaction. A turn that raises is the end
of the process, as it is for the engine.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from edgefl.errors import NotFoundError
from edgefl.faults.checks import require
from edgefl.faults.disk import UPLOADS, Disk, connection_factory
from edgefl.protocol.coordinator import Coordinator
from edgefl.protocol.events import (
    OVER,
    Draining,
    Event,
    Persist,
    Phase,
    ReportReceived,
    SaveAbandon,
    SaveCommit,
    SaveSelection,
)
from edgefl.protocol.messages import CheckInAnswer, ClientUpdate
from edgefl.protocol.pace import CoordinatorConfig
from edgefl_server.batcher import Batcher, Delivery, Job
from edgefl_server.sqlite_file import take_lock
from edgefl_server.sqlite_store import SqliteStore
from edgefl_server.uploads import Uploads

if TYPE_CHECKING:
    from edgefl.faults.world import World

CONFIG = CoordinatorConfig()
GATHER_S = 0.005

MAX_UPLOADS_BYTES = 1 << 40
"""No run asks what happens when there is no room: a device waits then, as for any busy server."""


class WatchedStore(SqliteStore):
    """Tells what was written; and that a server which another took over from writes nothing (I5).

    No cohort is drawn for a task that is paused, as far as its operator was told, or by a server that drains.
    """

    stale = False
    draining = False
    wrote = False
    ended = False

    def __init__(self, world: World, data_dir: Path, lock: Callable[[Path], int]) -> None:
        super().__init__(
            data_dir,
            retention_rounds=world.scenario.retention,
            factory=connection_factory(world.sql),
            lock=lock,
            rewrite=world.rewrite_log,
            clock=lambda: time.time(),  # the world's, which its faults shift
        )
        self._world = world

    @property
    def db(self) -> sqlite3.Connection:
        """The writing connection: the checks see what the server sees."""
        return self._db

    def apply(self, effects: Sequence[Persist], content: Sequence[bytes] = ()) -> None:
        tally = self._world.tally
        for effect in effects:  # noted before: a COMMIT may be durable though its process died in it
            if isinstance(effect, SaveSelection):
                tally.begins((effect.round.task, effect.round.round_num), self._world.now)
            elif isinstance(effect, SaveCommit | SaveAbandon):
                tally.ends((effect.task, effect.round_num), self._world.now)
        super().apply(effects, content)
        if effects or content:
            require(not self.stale, f"I5: a server that was taken over wrote {effects}")
            self.wrote = True
            for effect in effects:
                if isinstance(effect, SaveSelection):
                    task = effect.round.task
                    require(not self.draining, f"draining: a cohort of {task} is drawn by a server that stops")
                    require(task not in self._world.paused, f"pause: a cohort of {task} is drawn, which is paused")
            self.ended |= any(isinstance(effect, SaveCommit | SaveAbandon) for effect in effects)


@dataclass
class Inbox:
    """What waits for the next turn."""

    jobs: list[Job] = field(default_factory=list)
    wake_at: float = float("inf")


class SimServer:
    """One process: the constructor opens the store, then comes ``recover``; both raise what the store raises.

    Whoever made it closes ``store``, also after a ``recover`` that raised: a store holds its lock until then.
    """

    def __init__(self, world: World, disk: Disk, who: str, lock: Callable[[Path], int] = take_lock) -> None:
        self.who, self.disk = who, disk
        self.up = True
        self.has_lock = lock is take_lock
        self._world = world
        self._inbox = Inbox()
        self._reports: dict[int, tuple[str, ClientUpdate]] = {}
        self._clock_base = world.now - 100.0 * (len(who) % 3)  # a monotonic clock starts anywhere
        self.store = WatchedStore(world, disk.folder, lock)
        self.uploads = Uploads(disk.folder / UPLOADS, max_total_bytes=MAX_UPLOADS_BYTES)
        self.coordinator = Coordinator(
            world.fleet.process, CONFIG, find_accepted=self.store.find_accepted, load_model=self._load_model
        )
        self._batcher = Batcher(self.store, self.coordinator, self._leave)

    def recover(self) -> None:
        self._world.checks.everything(self.store.db)
        self._batcher.recover(self.monotonic)
        self._after()

    @property
    def monotonic(self) -> float:
        return self._world.now - self._clock_base

    def _load_model(self, task: str, version: int) -> bytes | None:
        try:
            return self.store.model(task, version)
        except NotFoundError:
            return None

    def content(self, sha256: str) -> bytes:
        """What ``Download`` gives. Raises ``NotFoundError``."""
        made = self.coordinator.content(sha256)
        return self.store.content(sha256) if made is None else made

    def put(self, token: int, event: Event, content: tuple[bytes, ...] = ()) -> None:
        if isinstance(event, ReportReceived) and isinstance(event.report, ClientUpdate):
            self._reports[token] = (event.device, event.report)
        self._inbox.jobs.append(Job(token, event, content))
        self._wake_in(GATHER_S)

    def turn(self) -> None:
        """One batch. Raises what ends the process."""
        self._inbox.wake_at = float("inf")
        jobs, self._inbox.jobs = self._inbox.jobs, []
        self._batcher.turn(jobs, self.monotonic)
        self.store.draining |= any(isinstance(job.event, Draining) for job in jobs)
        self._after()

    def waits_for_turn(self) -> bool:
        return self._inbox.wake_at <= self._world.now

    def _wake_in(self, delay_s: float) -> None:
        if self._world.now + delay_s < self._inbox.wake_at:
            self._inbox.wake_at = self._world.now + delay_s
            self._world.later(delay_s, lambda: self._world.take_turn(self))

    def _after(self) -> None:
        """The step is done: look at what it wrote, and sleep until the next deadline."""
        store = self.store
        if store.ended:
            self._world.checks.everything(store.db)
        elif store.wrote:
            self._world.checks.ledger(store.db)
        store.wrote = store.ended = False
        deadline = self.coordinator.next_deadline()
        if deadline is not None:
            self._wake_in(max(0.0, deadline - self.monotonic) + 1e-9)

    def _leave(self, delivery: Delivery) -> None:
        self._world.server_point("before the first answer")
        for token, value in delivery.done:
            report = self._reports.pop(token, None)
            if report is not None and not isinstance(value, Exception):
                self._world.promises.leaves(*report, value[0])
                self._world.say(self.who, f"{report[0]} {report[1].task} {report[1].round_num}: {value[0]}")
            elif isinstance(value, CheckInAnswer):
                self._check_offer(value)
            self._world.answer(token, value)
            self._world.server_point("between two answers")
        for notice in delivery.notices:
            self._world.say(self.who, notice)
        for publication in delivery.rounds:
            summary = publication.summary
            if summary.phase in OVER:
                self._world.say(self.who, f"{summary.task} {summary.round_num} is {summary.phase.value}")
            if summary.phase is Phase.COMMITTED:
                self._world.committed()

    def _check_offer(self, answer: CheckInAnswer) -> None:
        """I7, the server's part: what a server in office offers never falls."""
        if self.store.stale:
            return
        offered = self._world.offered
        found = {info.name: info.version for info in answer.releases}
        for name, version in offered.items():
            require(found.get(name, 0) >= version, f"I7: {name} {found.get(name)} is offered, and {version} was")
        offered.update(found)
