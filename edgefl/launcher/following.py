"""Following tasks while they run: one thread per task reads the server's stream, and opens it again when it breaks.

A killed server is part of what the demo shows, so a broken stream is not an error until the server stays away.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from edgefl.errors import BusyError, EdgeFLError, UnavailableError
from edgefl.operator.connection import Connection, Target
from edgefl.operator.rounds import summaries
from edgefl.protocol.events import OVER, Phase, RoundSummary

PATIENCE_S = 60.0
"""How long a stream may stay broken."""

PAUSE_S = 0.1
"""Between two tries to open a broken stream."""


class Follower:
    """The rounds of one task. ``error`` is set when the stream could not be opened again.

    ``ended`` has the committed and the abandoned ones by number, in order; ``committed`` the former by model version;
    ``latest`` is the newest word of the server, also about a round that runs. ``told`` is called with each word, in
    the follower's own thread.
    """

    def __init__(
        self, target: Target, task: str, wanted: int, told: Callable[[RoundSummary], None] = lambda _summary: None
    ) -> None:
        self.task = task
        self.wanted = wanted
        self.latest: RoundSummary | None = None
        self.ended: dict[int, RoundSummary] = {}
        self.committed: dict[int, RoundSummary] = {}
        self.error: EdgeFLError | None = None
        self._target = target
        self._told = told
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"follow {task}", daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return len(self.committed) >= self.wanted

    def in_order(self) -> list[RoundSummary]:
        """The committed rounds by model version."""
        return [self.committed[version] for version in sorted(self.committed)]

    def stop(self) -> None:
        self._stop.set()

    def _run(self) -> None:
        last_word = time.monotonic()
        while not self._stop.is_set() and not self.done:
            try:
                with Connection(self._target) as server:
                    for summary in summaries(server, self.task, follow=True):
                        last_word = time.monotonic()
                        if summary.phase in OVER:
                            self.ended[summary.round_num] = summary
                        if summary.phase is Phase.COMMITTED:
                            self.committed[summary.version] = summary
                        self.latest = summary
                        self._told(summary)
                        if self._stop.is_set():
                            return
            except (UnavailableError, BusyError) as error:  # busy: this thread read too slowly
                if time.monotonic() - last_word > PATIENCE_S:
                    self.error = error
                    return
            except EdgeFLError as error:
                self.error = error
                return
            self._stop.wait(PAUSE_S)
