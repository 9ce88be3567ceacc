"""``adagrad``: steps along the delta, each coordinate scaled by the sum of all its squares so far.

    v = v + delta * delta
    model = float32(model + learning_rate * (delta / (sqrt(v) + epsilon)))

It has no first moment: the paper runs FedAdagrad with beta_1 = 0. The state is ``v`` alone.

Source: Reddi et al., "Adaptive Federated Optimization", 2021, algorithm 2 (FedAdagrad).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from edgefl import kernels
from edgefl.optimizers._adaptive import check_options, initial_second


@dataclass(frozen=True)
class Adagrad:
    """See ``edgefl.optimizers.adagrad``."""

    name: ClassVar[Literal["adagrad"]] = "adagrad"

    learning_rate: float
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        check_options(self.learning_rate, self.epsilon)

    def init(self, num_values: int) -> bytes:
        return initial_second(num_values, self.epsilon)

    def apply(self, state: bytes, model: bytes, mean_delta: bytes) -> tuple[bytes, bytes]:
        """Raises ``KernelError`` when the new model would not be finite, ``LocalProtocolError`` for a foreign state."""
        return kernels.adaptive_step(
            self.name, state, model, mean_delta, learning_rate=self.learning_rate, epsilon=self.epsilon
        )


OPTIMIZER = Adagrad
