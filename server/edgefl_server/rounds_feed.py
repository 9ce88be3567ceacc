"""Rounds as they change, for those who watch: from the engine to any number of streams, all on the loop's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from edgefl.errors import BusyError, UnavailableError
from edgefl.protocol.events import Phase, RoundSummary

MAX_UNREAD = 1024
"""Changes kept for one watcher. One that reads more slowly than rounds change is sent away, and can come back."""


class Subscription:
    """One watcher's queue."""

    def __init__(self, task: str) -> None:
        self.task = task
        self._unread: asyncio.Queue[RoundSummary | None] = asyncio.Queue(MAX_UNREAD + 1)
        self._error: BusyError | UnavailableError | None = None
        self._over = False

    async def next(self) -> RoundSummary | None:
        """The next change; None when the task has ended. Raises what ended the subscription."""
        if self._over and self._unread.empty():
            return None
        summary = await self._unread.get()
        if summary is None and self._error is not None:
            raise self._error
        return summary

    def put(self, summary: RoundSummary) -> None:
        if self._over:
            return
        if self._unread.qsize() >= MAX_UNREAD:
            self.end(BusyError(f"{MAX_UNREAD} changes of task {self.task!r} unread; watch again, from a later round"))
        else:
            self._unread.put_nowait(summary)

    def end(self, error: BusyError | UnavailableError | None = None) -> None:
        if not self._over:
            self._over = True
            self._error = error
            self._unread.put_nowait(None)


class RoundsFeed:
    """Who watches what."""

    def __init__(self) -> None:
        self._subscriptions: set[Subscription] = set()
        self._closed = False

    @contextmanager
    def subscribe(self, task: str) -> Iterator[Subscription]:
        if self._closed:
            raise UnavailableError("the server is stopping; watch again later")
        subscription = Subscription(task)
        self._subscriptions.add(subscription)
        try:
            yield subscription
        finally:
            self._subscriptions.discard(subscription)

    def publish(self, summary: RoundSummary) -> None:
        for subscription in self._subscriptions:
            if subscription.task == summary.task:
                subscription.put(summary)

    def finish(self, task: str) -> None:
        """The task has ended: its watchers see what is unread, then the end."""
        for subscription in self._subscriptions:
            if subscription.task == task:
                subscription.end()

    def close(self) -> None:
        """The server is stopping: every watcher is told so."""
        self._closed = True
        for subscription in self._subscriptions:
            subscription.end(UnavailableError("the server is stopping; watch again later"))


def describe(summary: RoundSummary) -> str:
    """The log's line for a round that ended; '' for other changes."""
    head = f"task {summary.task} round {summary.round_num}"
    if summary.phase is Phase.ABANDONED:
        return f"{head} abandoned: {summary.reason} ({summary.accepted} reports of {summary.cohort} devices)"
    if summary.phase is not Phase.COMMITTED or summary.metrics is None:
        return ""
    metrics = summary.metrics
    line = f"{head} committed: version {summary.version}, {metrics.num_reports} reports of {summary.cohort} devices"
    if metrics.num_examples and (metrics.num_correct or metrics.loss_sum):
        line += f", accuracy {metrics.accuracy:.4f}, loss {metrics.mean_loss:.4f}"
    if metrics.gains is not None:
        line += f", before fine-tuning {metrics.accuracy_before:.4f}"
    if metrics.accuracies is not None:
        line += f", by device {metrics.accuracies}"
    return line
