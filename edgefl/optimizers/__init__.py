"""Optimizers: what the client does with a gradient, and what the server does with the aggregated delta.

A server optimizer is a pair of pure functions, ``init`` and ``apply``; what a checkpoint must hold is in the state
that ``apply`` returns. Its arithmetic is binary64, element by element, and rounds the model to float32 once
(design §4.4, §4.6). ``delta = client_model - server_model``: the server *adds* it.

Each is one file of this package that defines ``OPTIMIZER``, a frozen dataclass whose fields are its options. The name
of the file is the name in task definitions (``edgefl.registry``).

Source: Reddi et al., "Adaptive Federated Optimization", 2021, algorithm 1 (ServerOpt).
"""

from __future__ import annotations

from typing import Any, ClassVar, Protocol, cast

# The modules come before the functions of the same names below, which take their places in this package.
from edgefl.optimizers.adagrad import Adagrad
from edgefl.optimizers.adam import Adam
from edgefl.optimizers.sgd import Sgd
from edgefl.optimizers.yogi import Yogi
from edgefl.registry import Registry

__all__ = [
    "OPTIMIZERS",
    "Adagrad",
    "Adam",
    "ServerOptimizer",
    "Sgd",
    "Yogi",
    "adagrad",
    "adam",
    "server_optimizer",
    "sgd",
    "yogi",
]

OPTIMIZERS = Registry("server optimizer", __name__, "OPTIMIZER", group=__name__)


class ServerOptimizer(Protocol):
    """Applies an aggregated delta to the global model. A frozen dataclass: its fields are its options."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def name(self) -> str: ...

    def init(self, num_values: int) -> bytes:
        """The state before the first round, for a model of ``num_values`` parameters."""
        ...

    def apply(self, state: bytes, model: bytes, mean_delta: bytes) -> tuple[bytes, bytes]:
        """``model`` float32, ``mean_delta`` float64, both as bytes: the new state and the new model (float32 bytes)."""
        ...


def server_optimizer(name: str, options: dict[str, float]) -> ServerOptimizer:
    """Build the optimizer that a task definition names.

    Raises ``ConfigError`` when there is none of that name, and for an option that it does not have, lacks, or refuses.
    """
    return cast(ServerOptimizer, OPTIMIZERS.build(name, options))


def sgd(learning_rate: float, momentum: float = 0.0) -> Sgd:
    """Stochastic gradient descent, for the client (steps on batches) or the server (a step on the mean delta).

    Raises ``ConfigError`` for a rate that is not above 0 or a momentum outside ``[0, 1)``.
    """
    return Sgd(learning_rate, momentum)


def adam(learning_rate: float, beta_1: float = 0.9, beta_2: float = 0.99, epsilon: float = 1e-3) -> Adam:
    """FedAdam, for the server: see ``edgefl/optimizers/adam.py`` for its arithmetic.

    Raises ``ConfigError`` for a rate or an epsilon that is not above 0, or a beta outside ``[0, 1)``.
    """
    return Adam(learning_rate, beta_1, beta_2, epsilon)


def yogi(learning_rate: float, beta_1: float = 0.9, beta_2: float = 0.99, epsilon: float = 1e-3) -> Yogi:
    """FedYogi, for the server: see ``edgefl/optimizers/yogi.py`` for its arithmetic. Raises as ``adam``."""
    return Yogi(learning_rate, beta_1, beta_2, epsilon)


def adagrad(learning_rate: float, epsilon: float = 1e-3) -> Adagrad:
    """FedAdagrad, for the server: see ``edgefl/optimizers/adagrad.py`` for its arithmetic. Raises as ``adam``."""
    return Adagrad(learning_rate, epsilon)
