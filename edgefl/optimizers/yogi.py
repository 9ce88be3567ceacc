"""``yogi``: as ``adam``, but the second moment moves by at most a share of the new square, so it falls slowly.

    m = beta_1 * m + (1 - beta_1) * delta
    v = v - (1 - beta_2) * (delta * delta) * sign(v - delta * delta)          sign(0) = 0
    model = float32(model + learning_rate * (m / (sqrt(v) + epsilon)))

Source: Reddi et al., "Adaptive Federated Optimization", 2021, algorithm 2 (FedYogi).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from edgefl.optimizers._adaptive import TwoMoments


@dataclass(frozen=True)
class Yogi(TwoMoments):
    """See ``edgefl.optimizers.yogi``."""

    name: ClassVar[Literal["yogi"]] = "yogi"


OPTIMIZER = Yogi
