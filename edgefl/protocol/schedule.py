"""How the clients' learning rate changes from round to round: a pure function of the committed version.

It is evaluated where a round is planned, rounded to float32 once, and recorded in the round: devices get the value. So
it must be the same on every machine, and is made of additions, multiplications and divisions of binary64, each
rounded: a library's ``pow`` and ``cos`` differ between machines.

Source: design §4.6; the cosine: Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017,
without restarts.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from edgefl.errors import ConfigError
from edgefl.types import MIN_MAGNITUDE, to_float32

MAX_ROUNDS = 1_000_000
"""As many as a task may have."""

HALF_PI = 1.5707963267948966
COSINE_TERMS = 12
"""Of the Taylor series: up to half pi the first one left out is below 2**-60."""


class ScheduleKind(enum.Enum):
    CONSTANT = "constant"
    STEP = "step"
    COSINE = "cosine"


@dataclass(frozen=True)
class Schedule:
    """What the rate of ``[client]`` is multiplied by; round ``r`` follows version ``r - 1``.

    ``warmup_rounds``  the first rounds: in the k-th of n the rate is k / n of itself. The kind begins after them.
    ``kind``           ``step``: times ``factor`` after every ``rounds`` rounds (1: exponential decay).
                       ``cosine``: along half a cosine wave to ``factor`` times itself within ``rounds`` rounds, where
                       it stays.
    """

    kind: ScheduleKind = ScheduleKind.CONSTANT
    factor: float = 1.0
    rounds: int = 0
    warmup_rounds: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.warmup_rounds <= MAX_ROUNDS:
            raise ConfigError(f"warmup_rounds is {self.warmup_rounds}; expected 0 to {MAX_ROUNDS}")
        if self.kind is ScheduleKind.CONSTANT:
            if self.factor != 1.0 or self.rounds != 0:
                raise ConfigError("factor and rounds are of the kinds 'step' and 'cosine'; leave them out, or set kind")
            return
        if not 0 <= self.factor < 1:
            raise ConfigError(f"factor is {self.factor!r}; expected 0 to below 1")
        if not 1 <= self.rounds <= MAX_ROUNDS:
            raise ConfigError(f"rounds is {self.rounds}; expected 1 to {MAX_ROUNDS}")

    def rate(self, initial: float, version: int) -> float:
        """The rate in the round after ``version``: ``initial`` itself where nothing changes it, else a float32."""
        rate = self._exact(initial, version)
        return initial if rate == initial else to_float32(rate)

    def check(self, initial: float, rounds: int) -> None:
        """Raises ``ConfigError`` when one of the first ``rounds`` rounds has a rate that a training cannot have."""
        for version in (0, rounds - 1):  # rates rise, then fall: the least is the first or the last
            rate = self.rate(initial, version)
            if initial > 0 and rate < MIN_MAGNITUDE:
                raise ConfigError(
                    f"the schedule brings learning_rate {initial!r} to {rate!r} in round {version + 1}; expected at "
                    "least 2**-30: raise factor, or have fewer rounds"
                )

    def _exact(self, initial: float, version: int) -> float:
        if version < self.warmup_rounds:
            return initial * (version + 1) / self.warmup_rounds
        version -= self.warmup_rounds
        if self.kind is ScheduleKind.STEP:
            return _decayed(initial, self.factor, version // self.rounds)
        if self.kind is ScheduleKind.COSINE:
            wave = half_wave(min(version, self.rounds) / self.rounds)
            return initial * (self.factor + (1.0 - self.factor) * wave)
        return initial


CONSTANT = Schedule()


def _decayed(rate: float, factor: float, times: int) -> float:
    for _ in range(times):
        if rate < MIN_MAGNITUDE:  # no training has it, however small
            break
        rate *= factor
    return rate


def half_wave(part: float) -> float:
    """``(1 + cos(pi * part)) / 2`` for a part of 0 to 1: exactly 1 and 0 at its ends."""
    if part > 0.5:
        return 1.0 - half_wave(1.0 - part)
    angle = 2.0 * HALF_PI * part
    square = angle * angle
    cosine = 1.0
    for term in range(COSINE_TERMS, 0, -1):
        cosine = 1.0 - square / ((2 * term - 1) * (2 * term)) * cosine
    return (1.0 + cosine) / 2.0
