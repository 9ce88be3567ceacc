"""The operator: creates the tasks and the releases, pauses and resumes; tries again until each is acknowledged."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any

from edgefl.errors import ConflictError
from edgefl.faults.scenario import Kind
from edgefl.protocol.events import Event, ReleaseCreated, ReleaseRecord, TaskCreated, TaskPaused, TaskResumed
from edgefl.protocol.messages import ReleaseInfo
from edgefl.protocol.task import TaskKind

if TYPE_CHECKING:
    from edgefl.faults.world import World

RETRY_S = 1.0


class Operator:
    def __init__(self, world: World) -> None:
        self._world = world
        self._todo: list[tuple[float, Event, tuple[bytes, ...]]] = []
        self._token = 0
        for spec, text in world.tasks:
            self._todo.append((0.0, TaskCreated(spec, text, world.fleet.initial(spec.name)), ()))
        trained = [spec.name for spec, _ in world.tasks if spec.kind is TaskKind.TRAINING]
        for number, at in enumerate(world.scenario.releases if trained else (), start=1):
            raw = b"release %d" % number
            info = ReleaseInfo("release", number, hashlib.sha256(raw).hexdigest(), len(raw))
            self._todo.append((at, ReleaseCreated(ReleaseRecord(info, world.population, trained[0], 0)), (raw,)))
        for fault in world.scenario.faults:
            if fault.kind is Kind.PAUSE:
                task = world.tasks[fault.who % len(world.tasks)][0].name
                self._todo.append((fault.at, TaskPaused(task), ()))
                self._todo.append((min(fault.at + fault.lasts_s, world.scenario.until), TaskResumed(task), ()))
        self._todo.sort(key=lambda todo: todo[0])

    @property
    def done(self) -> bool:
        return not self._todo

    def start(self) -> None:
        self._next()

    def answered(self, token: int, value: Any) -> None:
        if token != self._token:
            return
        if value is None or isinstance(value, ConflictError):
            # A conflict says that an earlier try was durable though its answer was lost.
            _, event, _ = self._todo.pop(0)
            if value is None:
                self._acknowledged(event)
        self._token = 0
        self._next()

    def _acknowledged(self, event: Event) -> None:
        if isinstance(event, ReleaseCreated):
            info = event.release.info
            self._world.offered[info.name] = info.version
        elif isinstance(event, TaskPaused):
            self._world.struck(Kind.PAUSE)
            self._world.paused.add(event.task)

    def _next(self) -> None:
        if self._todo:
            self._world.later(max(0.0, self._todo[0][0] - self._world.now), self._send)

    def _send(self) -> None:
        world = self._world
        if self._token or not self._todo:
            return
        _, event, content = self._todo[0]
        self._token = world.new_token()
        mine = self._token
        if isinstance(event, TaskResumed):
            world.paused.discard(event.task)
        # A server that was taken over refuses by what it remembers: that writes nothing, so nothing fences it. A person
        # who is told that the paused task runs asks again; this one waits for the server in office.
        if world.servers and not world.servers[-1].store.stale:
            world.servers[-1].put(mine, event, content)
        world.later(RETRY_S, lambda: self._give_up(mine))

    def _give_up(self, token: int) -> None:
        if token == self._token:
            self._token = 0
            self._send()
