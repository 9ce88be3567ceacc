"""A thread that runs jobs one after another and hands each outcome to a queue."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from edgefl.protocol.session_events import SessionEvent

Job = Callable[[], SessionEvent]


@dataclass(frozen=True)
class Crash:
    """A job left by an exception that no session knows: a bug."""

    error: BaseException


class Worker:
    """Runs jobs in the order of ``submit``; the thread starts with the first, and dies with the process."""

    def __init__(self, name: str, outcomes: queue.SimpleQueue[SessionEvent | Crash]) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._outcomes = outcomes
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def submit(self, job: Job) -> None:
        if not self._thread.ident:
            self._thread.start()
        self._jobs.put(job)

    def join(self, timeout_s: float) -> bool:
        """Let the job at hand end, at most ``timeout_s``; False when it did not."""
        if self._thread.ident:
            self._jobs.put(None)
            self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                self._outcomes.put(job())
            except BaseException as error:
                self._outcomes.put(Crash(error))
