"""The check-ins that wait for a round, and the devices that were sent away and are expected back.

At most one check-in of a device waits: a newer one supersedes the older (its link may be half open). A device is
*parked* when it was sent away because no place was free while a round wants more devices than may wait: such a round
counts it as a candidate, and it gets its assignment when it comes back.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from edgefl.protocol.messages import CheckIn

PARK_GRACE_S = 5.0
"""A parked device may come that much after its window before it is forgotten: connecting takes time on a Pi."""

MAX_PARKED = 100_000
"""Bound of the parked devices (about 300 bytes each); beyond it the oldest are forgotten."""


@dataclass(frozen=True)
class Waiting:
    token: int
    device: str
    check_in: CheckIn
    since: float


@dataclass(frozen=True)
class Parked:
    check_in: CheckIn
    until: float


class WaitingRoom:
    """Who waits and who is parked, by device, in the order of arrival."""

    def __init__(self) -> None:
        self._waiting: dict[str, Waiting] = {}
        self._device_of: dict[int, str] = {}
        self._parked: dict[str, Parked] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Waiting]:
        """Those who wait, the first to come first."""
        return iter(tuple(self._waiting.values()))

    def enter(self, waiting: Waiting) -> None:
        self._waiting[waiting.device] = waiting
        self._device_of[waiting.token] = waiting.device

    def leave(self, device: str) -> Waiting | None:
        """The check-in of ``device``, which waits no more; None if none waited."""
        waiting = self._waiting.pop(device, None)
        if waiting is not None:
            del self._device_of[waiting.token]
        return waiting

    def waits(self, device: str) -> bool:
        return device in self._waiting

    def device_of(self, token: int) -> str | None:
        return self._device_of.get(token)

    def oldest(self) -> Waiting | None:
        return next(iter(self._waiting.values()), None)

    def park(self, device: str, check_in: CheckIn, until: float) -> str | None:
        """Expect ``device`` back at ``until`` at the latest. Returns the device forgotten for it, if any."""
        self._parked.pop(device, None)
        self._parked[device] = Parked(check_in, until + PARK_GRACE_S)
        if len(self._parked) <= MAX_PARKED:
            return None
        oldest = next(iter(self._parked))
        del self._parked[oldest]
        return oldest

    def unpark(self, device: str) -> None:
        self._parked.pop(device, None)

    def expired(self, device: str, now: float) -> bool:
        """Whether ``device`` was parked and did not come back in time."""
        parked = self._parked.get(device)
        return parked is not None and now > parked.until

    def num_examples(self, device: str) -> int:
        """The training examples of one that waits or is parked, as it said when it came."""
        found = self._waiting.get(device) or self._parked[device]
        return found.check_in.num_train

    def present(self) -> Iterator[tuple[str, CheckIn, bool]]:
        """Every device that waits (False) or is parked (True), with its check-in."""
        for waiting in self._waiting.values():
            yield waiting.device, waiting.check_in, False
        for device, parked in self._parked.items():
            yield device, parked.check_in, True
