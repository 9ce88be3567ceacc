"""What Adam, Yogi and Adagrad share: their options, and a step that is scaled by a second moment ``v``.

    model = float32(model + learning_rate * (m / (sqrt(v) + epsilon)))

``v`` starts at ``epsilon**2``, the least that the paper's analysis allows (``v >= tau**2``), so that the first step of
a coordinate that hardly moves is not larger than ``learning_rate * |m| / (2 epsilon)``. There is no bias correction:
algorithm 2 of the paper has none.

The state is the first moments, where there are any, then the second, as float64. ``kernels.adaptive_step`` moves them
in C, in binary64 with one rounding an operation: the same bits on every machine, and no NumPy in the server.

Source: Reddi et al., "Adaptive Federated Optimization", 2021, algorithm 2; its tau is ``epsilon`` here.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import ClassVar, Literal

from edgefl import kernels
from edgefl.errors import ConfigError
from edgefl.types import STORED_MIN_MAGNITUDE, check_multiplier

MIN_SECOND_MOMENT = STORED_MIN_MAGNITUDE * STORED_MIN_MAGNITUDE
"""A second moment below this becomes 0, as its root would: one that decays for ever would become subnormal."""


def check_options(learning_rate: float, epsilon: float, **betas: float) -> None:
    """Raises ``ConfigError`` for a rate or an epsilon that is not above 0, or a beta outside ``[0, 1)``."""
    for name, value in {"learning_rate": learning_rate, "epsilon": epsilon}.items():
        check_multiplier(name, value)
        if value <= 0:
            raise ConfigError(f"{name} is {value!r}; expected more than 0")
    for name, value in betas.items():
        check_multiplier(name, value)
        if not 0 <= value < 1:
            raise ConfigError(f"{name} is {value!r}; expected 0 to below 1")


def initial_second(num_values: int, epsilon: float) -> bytes:
    square = epsilon * epsilon
    return array("d", [square if square >= MIN_SECOND_MOMENT else 0.0]).tobytes() * num_values


@dataclass(frozen=True)
class TwoMoments:
    """What Adam and Yogi are, but for how the second moments move: their ``name``. The state is ``m``, then ``v``."""

    name: ClassVar[Literal["adam", "yogi"]]

    learning_rate: float
    beta_1: float = 0.9
    beta_2: float = 0.99
    epsilon: float = 1e-3

    def __post_init__(self) -> None:
        check_options(self.learning_rate, self.epsilon, beta_1=self.beta_1, beta_2=self.beta_2)

    def init(self, num_values: int) -> bytes:
        return bytes(8 * num_values) + initial_second(num_values, self.epsilon)

    def apply(self, state: bytes, model: bytes, mean_delta: bytes) -> tuple[bytes, bytes]:
        """Raises ``KernelError`` when the new model would not be finite, ``LocalProtocolError`` for a foreign state."""
        return kernels.adaptive_step(
            self.name,
            state,
            model,
            mean_delta,
            learning_rate=self.learning_rate,
            beta_1=self.beta_1,
            beta_2=self.beta_2,
            epsilon=self.epsilon,
        )
