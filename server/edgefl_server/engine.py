"""The engine: one thread that owns the coordinator and the store, between asyncio calls and the disk.

    asyncio call -> queue -> [gather a few ms] -> coordinator.handle -> one transaction -> asyncio futures

Invariants (design §5):

- Effects leave in one order: persist, then acknowledge (receipts), then send (answers, published rounds).
- All ``Persist`` effects of a gathered batch share one transaction, so many reports share one fsync.
- When a transaction fails, or the coordinator fails in a way that it does not declare, nothing of the batch leaves,
  nothing is retried, and the daemon exits: what is in memory can no longer be trusted, what is on disk can.
- A waiting call holds a future, no thread.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from edgefl.errors import EdgeFLError, LocalProtocolError, UnavailableError
from edgefl.protocol.coordinator import Coordinator
from edgefl.protocol.events import (
    AnswerCheckIn,
    DeviceCheckedIn,
    DeviceGone,
    Effect,
    Event,
    Persist,
    PublishRound,
    ReportReceived,
    SaveCommit,
    SaveTaskStatus,
    SendReceipt,
    TaskStatus,
    Ticked,
)
from edgefl.protocol.messages import (
    CheckIn,
    CheckInAnswer,
    Receipt,
    Report,
    RetryWindow,
)
from edgefl_server.rounds_feed import RoundsFeed, describe
from edgefl_server.store import Store

T = TypeVar("T")
log = logging.getLogger("edgefl_server")

MAX_BATCH = 512
"""Events in one transaction: 16 MB of reports of 31 kB, one checkpoint's worth of log."""

ENOUGH = 32
"""Events that came while the last batch was carried out, from which on waiting for more gains nothing."""

_FINAL = (TaskStatus.COMPLETED, TaskStatus.ENDED)


@dataclass(frozen=True)
class _Job:
    token: int
    event: Event
    content: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class _Question:
    token: int
    ask: Callable[[Coordinator], Any]


@dataclass
class _Batch:
    """What the events of one gathering come to. ``replies`` hold for futures: (token, value or error)."""

    persist: list[Persist] = field(default_factory=list)
    content: list[bytes] = field(default_factory=list)
    receipts: list[SendReceipt] = field(default_factory=list)
    answers: list[AnswerCheckIn] = field(default_factory=list)
    rounds: list[PublishRound] = field(default_factory=list)
    done: list[tuple[int, Any]] = field(default_factory=list)
    questions: list[_Question] = field(default_factory=list)

    def add(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, SendReceipt):
                self.receipts.append(effect)
            elif isinstance(effect, AnswerCheckIn):
                self.answers.append(effect)
            elif isinstance(effect, PublishRound):
                self.rounds.append(effect)
            else:
                self.persist.append(effect)


class Engine:
    """Asyncio's side of the engine thread. Its coroutines and ``feed`` belong to the loop's thread.

    ``gather_window_s``: how long an event waits for others to share its transaction; 0 takes what is queued.
    ``clock``: monotonic seconds, as the coordinator's ``now``.
    ``failed`` is resolved with the error when the engine had to stop by itself.
    """

    def __init__(
        self,
        store: Store,
        coordinator: Coordinator,
        *,
        gather_window_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._coordinator = coordinator
        self._window_s = gather_window_s
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._queue: queue.SimpleQueue[_Job | _Question | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="edgefl-engine", daemon=True)
        self._futures: dict[int, asyncio.Future[Any]] = {}
        self._next_token = 1
        self._last_reports: dict[int, tuple[str, int]] = {}
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
        self._queue.put(_Job(token, DeviceCheckedIn(token, device, check_in)))
        try:
            return await future  # type: ignore[no-any-return]
        except asyncio.CancelledError:
            self._queue.put(_Job(self._new_token(), DeviceGone(token)))
            raise
        finally:
            self._futures.pop(token, None)

    async def report(self, device: str, report: Report) -> tuple[Receipt, RetryWindow]:
        """The receipt, once it is durable."""
        token, future = self._new_call()
        self._queue.put(_Job(token, ReportReceived(token, device, report)))
        try:
            return await future  # type: ignore[no-any-return]
        finally:
            self._futures.pop(token, None)

    async def control(self, event: Event, content: tuple[bytes, ...] = ()) -> None:
        """Hand in an operator's event; returns when it is durable. Raises what the coordinator refuses it with."""
        token, future = self._new_call()
        self._queue.put(_Job(token, event, content))
        try:
            await future
        finally:
            self._futures.pop(token, None)

    async def ask(self, question: Callable[[Coordinator], T]) -> T:
        """What ``question`` reads from the coordinator, on its own thread, after the events before it are durable."""
        token, future = self._new_call()
        self._queue.put(_Question(token, question))
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

    def _deliver(self, done: list[tuple[int, Any]], rounds: list[PublishRound], finished: list[str]) -> None:
        for token, value in done:
            future = self._futures.get(token)
            if future is None or future.done():
                continue  # its caller went away
            if isinstance(value, BaseException):
                future.set_exception(value)
            else:
                future.set_result(value)
        for publication in rounds:
            self.feed.publish(publication.summary)
        for task in finished:
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
            batch = _Batch()
            batch.add(self._coordinator.restore(self._store.load(), self._clock()))
            self._carry_out(batch)
            while self._turn():
                pass
        except EdgeFLError as error:
            self._loop.call_soon_threadsafe(self._stop_after, error)
        except Exception as error:
            log.exception("the engine failed")
            bug = LocalProtocolError(f"the engine failed: {type(error).__name__}: {error}; the log has the traceback")
            self._loop.call_soon_threadsafe(self._stop_after, bug)

    def _turn(self) -> bool:
        """Gather a batch and carry it out; False when it was the last."""
        items = self._gather()
        last = None in items
        now = self._clock()
        batch = _Batch()
        for item in items:
            if isinstance(item, _Question):
                batch.questions.append(item)
            elif item is not None:
                self._handle(item, now, batch)
        deadline = self._coordinator.next_deadline()
        if deadline is not None and deadline <= now:
            batch.add(self._coordinator.handle(Ticked(), now))
        self._carry_out(batch)
        return not last

    def _gather(self) -> list[_Job | _Question | None]:
        deadline = self._coordinator.next_deadline()
        timeout_s = None if deadline is None else max(0.0, deadline - self._clock())
        try:
            items = [self._queue.get(timeout=timeout_s)]
        except queue.Empty:
            return []
        if self._window_s > 0 and isinstance(items[0], _Job) and self._queue.qsize() < ENOUGH:
            time.sleep(self._window_s)  # wakes once a batch, where a wait for each event would wake once an event
        try:
            while len(items) < MAX_BATCH:
                items.append(self._queue.get_nowait())
        except queue.Empty:
            pass
        return items

    def _handle(self, job: _Job, now: float, batch: _Batch) -> None:
        event = job.event
        try:
            effects = self._coordinator.handle(event, now)
        except EdgeFLError as refusal:
            batch.done.append((job.token, refusal))
            return
        if isinstance(event, DeviceCheckedIn):
            if event.check_in.last_task:
                self._last_reports[event.token] = (event.check_in.last_task, event.check_in.last_round)
        elif isinstance(event, DeviceGone):
            self._last_reports.pop(event.token, None)
        elif not isinstance(event, ReportReceived):
            batch.done.append((job.token, None))
        batch.add(effects)
        batch.content.extend(job.content)

    def _carry_out(self, batch: _Batch) -> None:
        self._store.apply(batch.persist, batch.content)
        done: list[tuple[int, Any]] = []
        done.extend((effect.token, (effect.receipt, effect.retry)) for effect in batch.receipts)
        done.extend((effect.token, self._with_fate(effect)) for effect in batch.answers)
        done.extend(batch.done)
        for question in batch.questions:
            try:
                done.append((question.token, question.ask(self._coordinator)))
            except EdgeFLError as error:
                done.append((question.token, error))
        for publication in batch.rounds:
            line = describe(publication.summary)
            if line:
                log.info(line)
        finished = [
            effect.task
            for effect in batch.persist
            if isinstance(effect, (SaveCommit, SaveTaskStatus)) and effect.status in _FINAL
        ]
        if done or batch.rounds or finished:
            self._loop.call_soon_threadsafe(self._deliver, done, batch.rounds, finished)

    def _with_fate(self, effect: AnswerCheckIn) -> CheckInAnswer:
        last = self._last_reports.pop(effect.token, None)
        if last is None:
            return effect.answer
        return dataclasses.replace(effect.answer, last_fate=self._store.fate(*last, effect.device))
