"""Pace steering: the server's limits, and the retry windows by which it shapes arrivals.

A few devices may come at once; a crowd is spread so that it arrives at the rate that the server was measured to take.
Source: design §5 (pace); Bonawitz et al., "Towards Federated Learning at Scale", 2019, §2.3.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgefl.errors import ConfigError
from edgefl.protocol.backoff import MAX_S
from edgefl.protocol.messages import RetryWindow

MAX_WINDOW_S = 3600.0
"""No device is sent away for longer, however large the crowd: it would miss what changed meanwhile."""

SUPERSEDED = RetryWindow(5.0, 10.0)
"""For a check-in whose place a newer one of its name took: the answer reaches a second agent of that name, if any."""


@dataclass(frozen=True)
class CoordinatorConfig:
    """The coordinator's limits. Seconds.

    ``long_poll_s``: how long a check-in may wait for a round before it is answered.
    ``max_waiting``: how many may wait at once (each costs the server about 36 kB); others are sent away at once.
    ``arrivals_per_s``: the rate of arrivals to which a crowd is spread, until the server's capacity is measured.
    ``idle_min_s``, ``idle_max_s``: the window of a device for which there is no work.
    ``drain_min_s``, ``drain_max_s``: the window while the server stops, about the time of a restart.
    ``backoff_max_s``: the longest delay after abandoned rounds (``edgefl.protocol.backoff``); 0: none, also for devices
    that fail.
    """

    long_poll_s: float = 20.0
    max_waiting: int = 128
    arrivals_per_s: float = 200.0
    idle_min_s: float = 1.0
    idle_max_s: float = 3.0
    drain_min_s: float = 2.0
    drain_max_s: float = 10.0
    backoff_max_s: float = MAX_S

    def __post_init__(self) -> None:
        if not 0.1 <= self.long_poll_s <= 300:
            raise ConfigError(f"long_poll_s is {self.long_poll_s!r}; expected 0.1 to 300 seconds")
        if not 1 <= self.max_waiting <= 100_000:
            raise ConfigError(f"max_waiting is {self.max_waiting!r}; expected 1 to 100000")
        if not 0.1 <= self.arrivals_per_s <= 1e6:
            raise ConfigError(f"arrivals_per_s is {self.arrivals_per_s!r}; expected 0.1 to 1000000")
        if not 0 <= self.backoff_max_s <= MAX_WINDOW_S:
            raise ConfigError(f"backoff_max_s is {self.backoff_max_s!r}; expected 0 to {MAX_WINDOW_S:g} seconds")
        for name in ("idle", "drain"):
            low, high = getattr(self, f"{name}_min_s"), getattr(self, f"{name}_max_s")
            if not 0 <= low <= high <= MAX_WINDOW_S:
                raise ConfigError(f"{name} window [{low!r}, {high!r}]; expected 0 <= min <= max <= {MAX_WINDOW_S}")


FAILED_S = (1.0, 2.0)
"""The window after a failure: it may be over soon, and a device that only fails must not do so many times a second."""

SHARE = 0.5
"""Of the measured capacity that a crowd may take: each arrival brings a report and a download after it."""

MEMORY_S = 10.0
"""Seconds of work after which a measurement counts half: capacity changes with the machine's other load."""

ENOUGH_S = 1.0
"""Seconds of work before a measurement counts at all."""

SLOWEST_PER_S = 0.1
FASTEST_PER_S = 1e6


class Pace:
    """The retry windows, for a server of so many known devices (``num_devices``) and the capacity measured so far."""

    def __init__(self, config: CoordinatorConfig) -> None:
        self._config = config
        self._events = 0.0
        self._busy_s = 0.0

    def note_work(self, num_events: int, busy_s: float) -> None:
        """``num_events`` events took the server ``busy_s`` seconds of one processor."""
        forget = 0.5 ** (busy_s / MEMORY_S)
        self._events = self._events * forget + num_events
        self._busy_s = self._busy_s * forget + busy_s

    @property
    def arrivals_per_s(self) -> float:
        """The rate to which a crowd is spread."""
        if self._busy_s < ENOUGH_S:
            return self._config.arrivals_per_s
        return min(max(SHARE * self._events / self._busy_s, SLOWEST_PER_S), FASTEST_PER_S)

    def next_window(self, num_devices: int) -> RetryWindow:
        """After a receipt, or with an assignment or news: the device should come back soon."""
        return RetryWindow(0.0, self._spread_s(num_devices))

    def timeout_window(self, num_devices: int) -> RetryWindow:
        """After a long poll without a round: the device keeps its place, nearly."""
        return RetryWindow(0.0, max(1.0, self._spread_s(num_devices)))

    def idle_window(self, num_devices: int) -> RetryWindow:
        """There is no work for the device."""
        spread = self._spread_s(num_devices)
        return RetryWindow(self._config.idle_min_s + spread, self._config.idle_max_s + 2 * spread)

    def failed_window(self, num_devices: int) -> RetryWindow:
        """The device's work failed, or was refused."""
        low, high = (min(bound, self._config.backoff_max_s) for bound in FAILED_S)
        return RetryWindow(low, high + self._spread_s(num_devices))

    def full_window(self, num_devices: int) -> RetryWindow:
        """No place to wait is free."""
        spread = max(1.0, self._spread_s(num_devices))
        return RetryWindow(spread, 2 * spread)

    def drain_window(self) -> RetryWindow:
        """The server stops."""
        return RetryWindow(self._config.drain_min_s, self._config.drain_max_s)

    def _spread_s(self, num_devices: int) -> float:
        """How long all devices take to arrive once at the wanted rate; 0 for a fleet that may come at once.

        Half of the places for waiting must stay free: a device that retries may find its older call still waiting.
        """
        if 2 * num_devices < self._config.max_waiting:
            return 0.0
        return min(num_devices / self.arrivals_per_s, MAX_WINDOW_S / 2)
