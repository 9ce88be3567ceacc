"""``yogi``: as ``adam``, but the second moment moves by at most a share of the new square, so it falls slowly.

    m = beta_1 * m + (1 - beta_1) * delta
    v = v - (1 - beta_2) * (delta * delta) * sign(v - delta * delta)          sign(0) = 0
    model = float32(model + learning_rate * (m / (sqrt(v) + epsilon)))

Source: Reddi et al., "Adaptive Federated Optimization", 2021, algorithm 2 (FedYogi).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import ClassVar

from edgefl.optimizers._adaptive import TwoMoments


@dataclass(frozen=True)
class Yogi(TwoMoments):
    """See ``edgefl.optimizers.yogi``."""

    name: ClassVar[str] = "yogi"

    def moved(self, second: Iterable[float], delta: Iterable[float]) -> Iterator[float]:
        fresh = 1.0 - self.beta_2
        for old, d in zip(second, delta, strict=True):
            square = d * d
            if old > square:
                yield old - fresh * square
            elif old < square:
                yield old + fresh * square
            else:
                yield old


OPTIMIZER = Yogi
