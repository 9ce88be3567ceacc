"""What a device's session is told (``SessionConfig``) and what it knows (``SessionState``): values, checked, frozen.

Source: design §5 (the device machine), §9 (eligibility).
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from edgefl.errors import ConfigError
from edgefl.protocol.messages import KINDS, Assignment, Fate, Receipt, ReleaseInfo, Report, RetryWindow, RoundKey
from edgefl.protocol.session_events import SessionEffect, StartTimer

Uniform = Callable[[float, float], float]
"""Draws from ``[low, high]``: ``random.uniform`` of the operating system's generator in the field, seeded in tests."""


class SessionPhase(enum.Enum):
    NEW = "new"
    IDLE = "idle"
    CHECKED_IN = "checked_in"
    ASSIGNED = "assigned"
    TRAINING = "training"
    SAVING = "saving"
    REPORTING = "reporting"
    HALTED = "halted"


@dataclass(frozen=True)
class SessionConfig:
    """What an agent can do, and how patient it is. Seconds.

    ``kinds``, ``encodings``: the work and the codecs it knows; an assignment of another is refused by a report.
    ``check_in_timeout_s``: longer than any server's long poll. ``report_timeout_s``: one report, upload included.
    ``backoff_base_s``, ``backoff_cap_s``: bounds of the first and of every later delay after a transient failure.
    ``not_eligible_s``: after that time at the latest the device looks at its own conditions again.
    """

    kinds: tuple[str, ...] = tuple(KINDS.values())
    encodings: tuple[str, ...] = ("float32",)
    check_in_timeout_s: float = 90.0
    report_timeout_s: float = 60.0
    backoff_base_s: float = 1.0
    backoff_cap_s: float = 300.0
    not_eligible_s: float = 60.0

    def __post_init__(self) -> None:
        for name in ("check_in_timeout_s", "report_timeout_s", "backoff_base_s", "not_eligible_s"):
            if not 0 < getattr(self, name) <= 86400:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; expected more than 0 and at most 86400 seconds")
        if not self.backoff_base_s <= self.backoff_cap_s <= 86400:
            raise ConfigError(f"backoff_cap_s is {self.backoff_cap_s!r}; expected backoff_base_s to 86400 seconds")


@dataclass(frozen=True)
class SessionState:
    """All that the session knows. ``timer_at``: when the running timer is due (monotonic seconds), None without one.

    ``failures`` counts transient failures in a row; ``last_error`` and ``last_receipt`` are for people.
    ``releases`` holds the highest version seen of each name, ``fetching`` the releases on their way.
    ``proposals``: rounds that accepted an update with device memory, until their fate is known.
    """

    phase: SessionPhase = SessionPhase.NEW
    assignment: Assignment | None = None
    deadline_at: float = 0.0
    report: Report | None = None
    failures: int = 0
    timer_at: float | None = None
    stopping: bool = False
    last_task: str = ""
    last_round: int = 0
    last_fate: Fate = Fate.OPEN
    last_receipt: Receipt | None = None
    last_error: str = ""
    releases: tuple[ReleaseInfo, ...] = ()
    fetching: tuple[ReleaseInfo, ...] = ()
    proposals: tuple[RoundKey, ...] = ()

    @property
    def asked(self) -> RoundKey:
        """The round whose fate a check-in asks for; of task '' for none."""
        return self.proposals[0] if self.proposals else RoundKey(self.last_task, self.last_round)

    def unseen(self, releases: tuple[ReleaseInfo, ...]) -> tuple[ReleaseInfo, ...]:
        """Those of ``releases`` that are above every version seen or on its way (I7)."""
        highest: dict[str, int] = {}
        for info in (*self.releases, *self.fetching):
            highest[info.name] = max(info.version, highest.get(info.name, 0))
        return tuple(info for info in releases if info.version > highest.get(info.name, 0))

    def with_seen(self, info: ReleaseInfo) -> SessionState:
        """``info`` is not on its way any more, and is seen if it is above what was."""
        others = tuple(known for known in self.releases if known.name != info.name)
        same = [known for known in self.releases if known.name == info.name]
        newest = max((*same, info), key=lambda known: known.version)
        fetching = tuple(known for known in self.fetching if known != info)
        return replace(self, releases=(*others, newest), fetching=fetching)


MAX_DOUBLINGS = 30
"""The exponent of the backoff stops here: the cap has long been reached, and 2**n must not overflow a float."""

Result = tuple[SessionState, tuple[SessionEffect, ...]]


@dataclass(frozen=True)
class Context:
    """What a step needs beside state and event: the options, the chance, the time (monotonic seconds)."""

    config: SessionConfig
    uniform: Uniform
    now: float

    def draw(self, window: RetryWindow) -> float:
        return self.uniform(window.min_s, window.max_s)

    def backoff(self, failures: int, retry: RetryWindow | None) -> float:
        if retry is not None:
            return self.draw(retry)
        bound = self.config.backoff_base_s * 2.0 ** min(failures, MAX_DOUBLINGS)
        return self.uniform(0.0, min(self.config.backoff_cap_s, bound))

    def refused(self, retry: RetryWindow | None) -> float:
        """The delay after a refusal for good: a person has to act first, so do not hurry."""
        cap = self.config.backoff_cap_s
        return self.uniform(cap / 2, cap) if retry is None else self.draw(retry)

    def wait(self, state: SessionState, delay_s: float, *effects: SessionEffect, **changes: Any) -> Result:
        """Take ``changes``, then wait ``delay_s``: the timer starts last."""
        return replace(state, timer_at=self.now + delay_s, **changes), (*effects, StartTimer(delay_s))
