"""Optimizers: what the client does with a gradient, and what the server does with the aggregated delta.

A server optimizer is a pair of pure functions, ``init`` and ``apply``; what a checkpoint must hold is in the state
that ``apply`` returns. Its arithmetic is binary64, element by element, and rounds the model to float32 once
(design §4.4, §4.6). ``delta = client_model - server_model``: the server *adds* it.

Source: Reddi et al., "Adaptive Federated Optimization", 2021, algorithm 1 (ServerOpt).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from edgefl.errors import ConfigError
from edgefl.optimizers.descent import Sgd

__all__ = ["SERVER_OPTIMIZERS", "ServerOptimizer", "Sgd", "server_optimizer", "sgd"]


class ServerOptimizer(Protocol):
    """Applies an aggregated delta to the global model."""

    @property
    def name(self) -> str: ...

    def init(self, num_values: int) -> bytes:
        """The state before the first round, for a model of ``num_values`` parameters."""
        ...

    def apply(self, state: bytes, model: bytes, mean_delta: bytes) -> tuple[bytes, bytes]:
        """``model`` float32, ``mean_delta`` float64, both as bytes: the new state and the new model (float32 bytes)."""
        ...


SERVER_OPTIMIZERS: dict[str, Callable[[float, float], ServerOptimizer]] = {Sgd.name: Sgd}
"""By name: ``(learning_rate, momentum) -> optimizer``."""


def server_optimizer(name: str, *, learning_rate: float, momentum: float) -> ServerOptimizer:
    """Build the optimizer that a task definition names. Raises ``ConfigError`` when there is none of that name."""
    if name not in SERVER_OPTIMIZERS:
        raise ConfigError(f"server optimizer is {name!r}; expected one of {', '.join(sorted(SERVER_OPTIMIZERS))}")
    return SERVER_OPTIMIZERS[name](learning_rate, momentum)


def sgd(learning_rate: float, momentum: float = 0.0) -> Sgd:
    """Stochastic gradient descent, for the client (steps on batches) or the server (a step on the mean delta).

    Raises ``ConfigError`` for a rate that is not above 0 or a momentum outside ``[0, 1)``.
    """
    return Sgd(learning_rate, momentum)
