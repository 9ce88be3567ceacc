"""One gathered batch of events: through the coordinator, into one transaction, and out to those who wait.

The part of the engine that has no thread, no queue and no clock: ``edgefl_server.engine`` runs it, and a simulation of
faults runs the same code.

Invariants (design §5):

- Effects leave in one order: persist, then acknowledge (receipts), then send (answers, published rounds).
- All ``Persist`` effects of a batch share one transaction, so many reports share one fsync.
- When a transaction fails, or the coordinator fails in a way that it does not declare, the error passes through:
  nothing of the batch leaves, and the batcher is not used again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgefl.errors import ConfigError, ConflictError, EdgeFLError, NotFoundError
from edgefl.protocol.coordinator import CONTROL, Coordinator
from edgefl.protocol.events import (
    FINAL,
    AnswerCheckIn,
    DeviceCheckedIn,
    DeviceGone,
    Effect,
    Event,
    Notice,
    Persist,
    PublishRound,
    ReportReceived,
    SaveCommit,
    SaveTaskStatus,
    SendReceipt,
    Ticked,
)
from edgefl.protocol.messages import CheckInAnswer
from edgefl_server.store import Store


@dataclass(frozen=True)
class Job:
    """An event; its answer goes to ``token``. ``content``: the bytes that a release refers to."""

    token: int
    event: Event
    content: tuple[bytes, ...] = ()


@dataclass(frozen=True)
class Question:
    """Something to read from the coordinator once the events before it are durable."""

    token: int
    ask: Callable[[Coordinator], Any]


@dataclass(frozen=True)
class Delivery:
    """What leaves after a batch is durable.

    ``done``: (token, value or error), receipts first. ``finished``: tasks that came to their end. ``notices``: for the
    log.
    """

    done: tuple[tuple[int, Any], ...]
    rounds: tuple[PublishRound, ...]
    finished: tuple[str, ...]
    notices: tuple[str, ...] = ()


@dataclass
class _Batch:
    persist: list[Persist] = field(default_factory=list)
    content: list[bytes] = field(default_factory=list)
    receipts: list[SendReceipt] = field(default_factory=list)
    answers: list[AnswerCheckIn] = field(default_factory=list)
    rounds: list[PublishRound] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    done: list[tuple[int, Any]] = field(default_factory=list)
    questions: list[Question] = field(default_factory=list)

    def add(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, SendReceipt):
                self.receipts.append(effect)
            elif isinstance(effect, AnswerCheckIn):
                self.answers.append(effect)
            elif isinstance(effect, PublishRound):
                self.rounds.append(effect)
            elif isinstance(effect, Notice):
                self.notices.append(effect.text)
            else:
                self.persist.append(effect)


class Batcher:
    """Owns ``store`` and ``coordinator``; ``deliver`` is called once a batch, after it is durable, if anything leaves.

    ``recover`` and ``turn`` raise what the store or the coordinator raises; after that the batcher is not used again.
    """

    def __init__(self, store: Store, coordinator: Coordinator, deliver: Callable[[Delivery], None]) -> None:
        self._store = store
        self._coordinator = coordinator
        self._send = deliver
        self._last_reports: dict[int, tuple[str, int]] = {}

    def recover(self, now: float) -> None:
        """Take up where the store left off. Once, before the first ``turn``."""
        batch = _Batch()
        batch.add(self._coordinator.restore(self._store.load(), now))
        self._carry_out(batch)

    def turn(self, items: Iterable[Job | Question], now: float) -> None:
        """Carry out one batch at monotonic ``now``; with none, let time pass."""
        batch = _Batch()
        for item in items:
            if isinstance(item, Question):
                batch.questions.append(item)
            else:
                self._handle(item, now, batch)
        deadline = self._coordinator.next_deadline()
        if batch.questions or (deadline is not None and deadline <= now):  # what is asked is answered as of now
            batch.add(self._coordinator.handle(Ticked(), now))
        self._carry_out(batch)

    def _handle(self, job: Job, now: float, batch: _Batch) -> None:
        event = job.event
        try:
            effects = self._coordinator.handle(event, now)
        except (ConfigError, ConflictError, NotFoundError) as refusal:
            if not isinstance(event, CONTROL):
                raise
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
        self._persist(batch)
        self._deliver(batch)

    def _persist(self, batch: _Batch) -> None:
        self._store.apply(batch.persist, batch.content)

    def _deliver(self, batch: _Batch) -> None:
        done: list[tuple[int, Any]] = []
        done.extend((effect.token, (effect.receipt, effect.retry)) for effect in batch.receipts)
        done.extend((effect.token, self._with_fate(effect)) for effect in batch.answers)
        done.extend(batch.done)
        for question in batch.questions:
            try:
                done.append((question.token, question.ask(self._coordinator)))
            except EdgeFLError as error:
                done.append((question.token, error))
        finished = tuple(
            effect.task
            for effect in batch.persist
            if isinstance(effect, (SaveCommit, SaveTaskStatus)) and effect.status in FINAL
        )
        if done or batch.rounds or finished or batch.notices:
            self._send(Delivery(tuple(done), tuple(batch.rounds), finished, tuple(batch.notices)))

    def _with_fate(self, effect: AnswerCheckIn) -> CheckInAnswer:
        last = self._last_reports.pop(effect.token, None)
        if last is None:
            return effect.answer
        return dataclasses.replace(effect.answer, last_fate=self._store.fate(*last, effect.device))
