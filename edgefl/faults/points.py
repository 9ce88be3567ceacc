"""The points at which a fault strikes: before every write, sync, delivery and effect, something may raise.

A timed fault is *armed* when its time comes, and strikes at one of the points that follow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import apsw

from edgefl.faults.card import card_error
from edgefl.faults.disk import Crash
from edgefl.faults.scenario import Kind

_CARD = {Kind.CARD_FULL: "write", Kind.CARD_ERROR: "sync"}
_DISK = {Kind.WRITE_ERROR: "write", Kind.SYNC_ERROR: "sync"}
"""Where these faults of a card or of the server's disk strike."""

_POWER = (Kind.SERVER_POWER, Kind.DEVICE_POWER)


@dataclass
class _Armed:
    kind: Kind
    left: int
    device: str


class Points:
    """``strikes`` is told of each fault at its point, before it raises."""

    def __init__(self, strikes: Callable[[Kind, str], None]) -> None:
        self._strikes = strikes
        self._armed: list[_Armed] = []
        self._full_until = -1.0

    def arm(self, kind: Kind, after: int, device: str = "") -> None:
        """``kind`` strikes when ``after`` points of its sort have passed: the server's, or those of ``device``."""
        self._armed.append(_Armed(kind, after, device))

    def fill_disk(self, until: float) -> None:
        self._full_until = until

    def disarm(self) -> None:
        self._armed = []
        self._full_until = -1.0

    def server(self, where: str, now: float) -> None:
        """Raises ``Crash``, and what SQLite's file layer raises for a disk that is full or fails."""
        if where.startswith("write") and now < self._full_until:
            self._strikes(Kind.DISK_FULL, where)
            raise apsw.FullError("database or disk is full")
        struck = self._strike("", where, _DISK)
        if struck in _DISK:
            raise apsw.IOError("disk I/O error")
        if struck is not None:
            raise Crash(where, struck in _POWER)

    def device(self, who: str, where: str) -> None:
        """Raises ``Crash``, and the ``OSError`` of a card that is full or fails."""
        struck = self._strike(who, where, _CARD)
        if struck in _CARD:
            raise card_error(full=struck is Kind.CARD_FULL)
        if struck is not None:
            raise Crash(where, struck in _POWER)

    def _strike(self, device: str, where: str, sorts: dict[Kind, str]) -> Kind | None:
        for armed in self._armed:
            if armed.device != device or not where.startswith(sorts.get(armed.kind, "")):
                continue
            armed.left -= 1
            if armed.left < 0:
                self._armed.remove(armed)
                self._strikes(armed.kind, where)
                return armed.kind
        return None
