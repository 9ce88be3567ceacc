"""``sgd``: a step along the delta, with optional momentum.

    v = momentum * v + delta
    model = float32(model + learning_rate * v)

The state is ``v`` as float64, or nothing when the momentum is 0. Its elements are computed by Python floats: IEEE
binary64, one rounding an operation, the same on every machine, and no NumPy in the server. Momentum takes some
30 ms per round for a model of 1 MiB; ``edgefl.protocol.messages.MAX_UPLOAD_BYTES`` bounds models.

Source: Hsu et al., "Measuring the Effects of Non-Identical Data Distribution", 2019 (FedAvgM).
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from typing import ClassVar

from edgefl import kernels
from edgefl.errors import ConfigError, LocalProtocolError
from edgefl.types import STORED_MIN_MAGNITUDE, check_multiplier


@dataclass(frozen=True)
class Sgd:
    """See ``edgefl.optimizers.sgd``."""

    name: ClassVar[str] = "sgd"

    learning_rate: float = 1.0
    momentum: float = 0.0

    def __post_init__(self) -> None:
        check_multiplier("learning_rate", self.learning_rate)
        check_multiplier("momentum", self.momentum)
        if self.learning_rate <= 0:
            raise ConfigError(f"learning_rate is {self.learning_rate!r}; expected more than 0")
        if not 0 <= self.momentum < 1:
            raise ConfigError(f"momentum is {self.momentum!r}; expected 0 to below 1")

    def init(self, num_values: int) -> bytes:
        return bytes(8 * num_values) if self.momentum else b""

    def apply(self, state: bytes, model: bytes, mean_delta: bytes) -> tuple[bytes, bytes]:
        """Raises ``KernelError`` when the new model would not be finite, ``LocalProtocolError`` for a foreign state."""
        if not self.momentum:
            return b"", kernels.apply_update(model, mean_delta, self.learning_rate)
        if len(state) != len(mean_delta):
            raise LocalProtocolError(f"a momentum of {len(state)} bytes; expected {len(mean_delta)}, as the delta")
        pairs = zip(memoryview(state).cast("d"), memoryview(mean_delta).cast("d"), strict=True)
        moved = (self.momentum * velocity + delta for velocity, delta in pairs)
        # A velocity that decays for ever would become subnormal.
        velocity = array("d", [v if abs(v) >= STORED_MIN_MAGNITUDE else 0.0 for v in moved]).tobytes()
        return velocity, kernels.apply_update(model, velocity, self.learning_rate)


OPTIMIZER = Sgd
