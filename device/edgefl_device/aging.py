"""Which stored examples are too old, by a clock that may be wrong.

Many devices have no clock battery: the clock starts in the past, is set by the network, and may be set wrong. So:

- before ``CLOCK_WAS_SET`` it counts as not set: nothing expires, and examples stamped then get their age from the first
  time that the clock is right;
- when it leaps, by more than ``LEAP_S`` forward or at all backward, nothing expires until it has gone on steadily for
  ``STEADY_S``: a clock that is ten years ahead for an afternoon takes no example with it;
- examples stamped in what is then the future get their age from now.

What the clock said last is kept in the store's table ``meta``, written at most every ``NOTED_EVERY_S``.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass

CLOCK_WAS_SET = 1_704_067_200
"""2024-01-01 UTC. An earlier time means that the clock was not set yet."""

LEAP_S = 30 * 86_400
"""A device that was off for longer waits ``STEADY_S`` too: it cannot tell."""

STEADY_S = 86_400
SLEWED_S = 3_600
"""So far back a clock may be corrected without a leap."""

NOTED_EVERY_S = 6 * 3_600


@dataclass(frozen=True)
class ClockRecord:
    """What the clock said last, and when it last leapt (0: never, or long enough ago). Seconds since 1970."""

    seen: int = 0
    leapt: int = 0

    def look(self, now: int) -> ClockRecord:
        """The record after the clock says ``now``."""
        if now < CLOCK_WAS_SET:
            return self
        leapt = self.leapt
        if self.seen and not self.seen - SLEWED_S <= now <= self.seen + LEAP_S:
            leapt = now
        elif leapt and now - leapt >= STEADY_S:
            leapt = 0
        return ClockRecord(now, leapt)

    def trusts(self, now: int) -> bool:
        """Whether ``now``, which has been looked at, may make an example old."""
        return now >= CLOCK_WAS_SET and not self.leapt


class Aging:
    """The rule for the examples behind ``db``: what is older than ``max_age_days`` goes; 0 keeps everything.

    Its methods are called outside a transaction, except ``drop_expired``.
    """

    def __init__(self, db: sqlite3.Connection, max_age_days: float) -> None:
        self._db = db
        self._max_age_s = round(max_age_days * 86_400)

    def is_due(self, now: int) -> bool:
        """Whether ``drop_expired`` has something to write."""
        if not self._max_age_s:
            return False
        before = self._record()
        after = before.look(now)
        if after.leapt != before.leapt or abs(after.seen - before.seen) >= NOTED_EVERY_S:
            return True
        return after.trusts(now) and any(
            low is not None and (low < max(CLOCK_WAS_SET, now - self._max_age_s) or high > now + SLEWED_S)
            for low, high in self._ranges()
        )

    def trusts(self, now: int) -> bool:
        """Whether files next to the store may be judged by their age, too."""
        return bool(self._max_age_s) and self._record().look(now).trusts(now)

    def drop_expired(self, now: int) -> int:
        """Note the time and drop what is too old; returns how many. Inside a transaction."""
        if not self._max_age_s:
            return 0
        record = self._record().look(now)
        self._db.executemany(
            "INSERT OR REPLACE INTO meta VALUES (?, ?)",
            [("clock_seen", str(record.seen)), ("clock_leapt", str(record.leapt))],
        )
        if not record.trusts(now):
            return 0
        self._db.execute(
            "UPDATE examples SET added = ?1 WHERE added < ?2 OR added > ?1 + ?3", (now, CLOCK_WAS_SET, SLEWED_S)
        )
        return self._db.execute("DELETE FROM examples WHERE added < ?", (now - self._max_age_s,)).rowcount

    def _record(self) -> ClockRecord:
        rows = self._db.execute("SELECT key, value FROM meta WHERE key IN ('clock_seen', 'clock_leapt')")
        found = {key: int(value) for key, value in rows}
        return ClockRecord(found.get("clock_seen", 0), found.get("clock_leapt", 0))

    def _ranges(self) -> list[tuple[int | None, int]]:
        """(oldest, newest) of each split: two looks into the index for each."""
        of_split = "(SELECT {}(added) FROM examples WHERE split = ?1)"
        find = f"SELECT {of_split.format('min')}, {of_split.format('max')}"
        return [self._db.execute(find, (split,)).fetchone() for split in (0, 1)]
