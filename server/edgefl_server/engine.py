"""The engine: one thread that owns the coordinator and the store, between asyncio calls and the disk.

    asyncio call -> queue -> [gather a few ms] -> batcher: coordinator.handle, one transaction -> asyncio futures

Invariants (design §5; the order of effects is the batcher's, ``edgefl_server.batcher``):

- When a transaction fails, or the coordinator fails in a way that it does not declare, nothing of the batch leaves,
  nothing is retried, and the daemon exits: what is in memory can no longer be trusted, what is on disk can.
- A waiting call holds a future, no thread.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

from edgefl.command import one_line
from edgefl.errors import EdgeFLError, LocalProtocolError, UnavailableError
from edgefl.protocol.coordinator import Coordinator
from edgefl.protocol.events import DeviceCheckedIn, DeviceGone, Event, ReportReceived
from edgefl.protocol.messages import (
    CheckIn,
    CheckInAnswer,
    Receipt,
    Report,
    RetryWindow,
)
from edgefl_server.batcher import Batcher, Delivery, Job, Question
from edgefl_server.rounds_feed import RoundsFeed, describe
from edgefl_server.store import Store

T = TypeVar("T")
log = logging.getLogger("edgefl_server")

MAX_BATCH = 512
"""Events in one transaction: 16 MB of reports of 31 kB, one checkpoint's worth of log."""

ENOUGH = 32
"""Events that came while the last batch was carried out, from which on waiting for more gains nothing."""


class Engine:
    """Asyncio's side of the engine thread. Its coroutines and ``feed`` belong to the loop's thread.

    ``gather_window_s``: how long an event waits for others to share its transaction; 0 takes what is queued.
    ``clock``: monotonic seconds, as the coordinator's ``now``. ``work_clock``: processor seconds of this process, its
    calls included: what an event costs is measured by it, and paces the devices.
    ``failed`` is resolved with the error when the engine had to stop by itself.
    """

    def __init__(
        self,
        store: Store,
        coordinator: Coordinator,
        *,
        gather_window_s: float,
        clock: Callable[[], float] = time.monotonic,
        work_clock: Callable[[], float] = time.process_time,
    ) -> None:
        self._coordinator = coordinator
        self._batcher = Batcher(store, coordinator, self._leave)
        self._window_s = gather_window_s
        self._clock = clock
        self._work_clock = work_clock
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[Job | Question | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="edgefl-engine", daemon=True)
        self._futures: dict[int, asyncio.Future[Any]] = {}
        self._next_token = 1
        self.feed = RoundsFeed()
        self.failed: asyncio.Future[EdgeFLError] = self._loop.create_future()

    # ---------------------------------------------------------------------------------------------- asyncio's side

    async def start(self) -> None:
        """Recover from the store; returns when events are taken. Raises what made it impossible."""
        self._thread.start()
        try:
            await self.ask(lambda _: None)
        except UnavailableError:
            raise self.failed.result() from None

    async def check_in(self, device: str, check_in: CheckIn) -> CheckInAnswer:
        """Wait until the coordinator answers; a cancelled wait tells it that the device is gone."""
        token, future = self._new_call()
        self._queue.put(Job(token, DeviceCheckedIn(token, device, check_in)))
        try:
            return await future  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            self._queue.put(Job(self._new_token(), DeviceGone(token)))
            raise
        finally:
            self._futures.pop(token, None)

    async def report(self, device: str, report: Report) -> tuple[Receipt, RetryWindow]:
        """The receipt, once it is durable."""
        token, future = self._new_call()
        self._queue.put(Job(token, ReportReceived(token, device, report)))
        try:
            return await future  # type: ignore[no-any-return]
        finally:
            self._futures.pop(token, None)

    async def control(self, event: Event, content: tuple[bytes, ...] = ()) -> None:
        """Hand in an operator's event; returns when it is durable. Raises what the coordinator refuses it with."""
        token, future = self._new_call()
        self._queue.put(Job(token, event, content))
        try:
            await future
        finally:
            self._futures.pop(token, None)

    async def ask(self, question: Callable[[Coordinator], T]) -> T:
        """What ``question`` reads from the coordinator, on its own thread, after the events before it are durable."""
        token, future = self._new_call()
        self._queue.put(Question(token, question))
        try:
            return await future  # type: ignore[no-any-return]
        finally:
            self._futures.pop(token, None)

    async def stop(self) -> None:
        """Carry out what is queued, then end the thread."""
        self._queue.put(None)
        await asyncio.to_thread(self._thread.join)

    def _new_token(self) -> int:
        token, self._next_token = self._next_token, self._next_token + 1
        return token

    def _new_call(self) -> tuple[int, asyncio.Future[Any]]:
        if self.failed.done():
            raise UnavailableError("the server is stopping after a failure; try again later")
        token = self._new_token()
        future = self._futures[token] = self._loop.create_future()
        return token, future

    def _deliver(self, delivery: Delivery) -> None:
        for token, value in delivery.done:
            future = self._futures.get(token)
            if future is None or future.done():
                continue  # its caller went away
            if isinstance(value, BaseException):
                future.set_exception(value)
            else:
                future.set_result(value)
        for publication in delivery.rounds:
            self.feed.publish(publication.summary)
        for task in delivery.finished:
            self.feed.finish(task)

    def _stop_after(self, error: EdgeFLError) -> None:
        if not self.failed.done():
            self.failed.set_result(error)
        for future in self._futures.values():
            if not future.done():
                future.set_exception(UnavailableError("the server is stopping after a failure; try again later"))

    # ------------------------------------------------------------------------------------------ the engine's thread

    def _run(self) -> None:
        try:
            self._batcher.recover(self._clock())
            worked = self._work_clock()
            while (count := self._turn()) is not None:
                before, worked = worked, self._work_clock()
                self._coordinator.note_work(count, worked - before)
        except EdgeFLError as error:
            self._loop.call_soon_threadsafe(self._stop_after, error)
        except Exception as error:
            log.exception("the engine failed")
            bug = LocalProtocolError(f"the engine failed: {type(error).__name__}: {error}; the log has the traceback")
            self._loop.call_soon_threadsafe(self._stop_after, bug)

    def _turn(self) -> int | None:
        """Gather a batch and carry it out; how many events it had, None when it was the last."""
        items = self._gather()
        self._batcher.turn([item for item in items if item is not None], self._clock())
        return None if None in items else sum(isinstance(item, Job) for item in items)

    def _gather(self) -> list[Job | Question | None]:
        deadline = self._coordinator.next_deadline()
        timeout_s = None if deadline is None else max(0.0, deadline - self._clock())
        try:
            items = [self._queue.get(timeout=timeout_s)]
        except queue.Empty:
            return []
        if self._window_s > 0 and isinstance(items[0], Job) and self._queue.qsize() < ENOUGH:
            time.sleep(self._window_s)  # wakes once a batch, where a wait for each event would wake once an event
        try:
            while len(items) < MAX_BATCH:
                items.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        return items

    def _leave(self, delivery: Delivery) -> None:
        for notice in delivery.notices:
            log.warning("%s", one_line(notice))
        for publication in delivery.rounds:
            line = describe(publication.summary)
            if line:
                log.info(line)
        self._loop.call_soon_threadsafe(self._deliver, delivery)
