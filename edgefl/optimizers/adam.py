"""``adam``: steps along a running mean of the deltas, each coordinate scaled by a running mean of its squares.

    m = beta_1 * m + (1 - beta_1) * delta
    v = beta_2 * v + (1 - beta_2) * (delta * delta)
    model = float32(model + learning_rate * (m / (sqrt(v) + epsilon)))

Source: Reddi et al., "Adaptive Federated Optimization", 2021, algorithm 2 (FedAdam).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from edgefl.optimizers._adaptive import TwoMoments


@dataclass(frozen=True)
class Adam(TwoMoments):
    """See ``edgefl.optimizers.adam``."""

    name: ClassVar[Literal["adam"]] = "adam"


OPTIMIZER = Adam
