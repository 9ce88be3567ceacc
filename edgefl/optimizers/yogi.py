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

from edgefl.optimizers._adaptive import check_options, first_moments, initial_second, parts_of, second_moments, step


@dataclass(frozen=True)
class Yogi:
    """See ``edgefl.optimizers.yogi``."""

    name: ClassVar[str] = "yogi"

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
        first, second = parts_of(state, mean_delta, 2)
        delta = memoryview(mean_delta).cast("d")
        m = first_moments(first, delta, self.beta_1)
        v = second_moments(self._moved(second, delta))
        return m.tobytes() + v.tobytes(), step(model, m, v, self.learning_rate, self.epsilon)

    def _moved(self, second: Iterable[float], delta: Iterable[float]) -> Iterator[float]:
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
