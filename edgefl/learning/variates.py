"""SCAFFOLD on the client: what its control variate does to a training, and what it becomes.

    correction = c - c_i                             joins every gradient (``kernels.train_softmax``)
    c_i+       = c_i - c - delta / (K * rate)        after K steps, option II of the paper: c_i+ is the mean gradient

with ``c`` the server's variate, ``c_i`` the client's, ``delta = y_i - x``. A variate is float32, kernel then bias, like
a delta. It imports no NumPy: this is the way of the device.

Source: Karimireddy et al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", 2020, algorithm 1.
"""

from __future__ import annotations

from array import array

from edgefl import kernels
from edgefl.errors import DataError
from edgefl.models.model import Model
from edgefl.types import Weights, to_float32


def split_content(model: Model, content: bytes) -> tuple[Weights, bytes]:
    """The model and the server's variate from what the device downloaded. Raises ``DataError`` for another size."""
    size = 4 * model.num_parameters
    if len(content) != 2 * size:
        raise DataError(f"{len(content)} bytes for a model and a control variate; expected {2 * size}")
    return model.weights(content[:size]), content[size:]


def own_variate(model: Model, variate: bytes) -> bytes:
    """``variate``, or zeros for a client that has none yet. Raises ``DataError`` for one of another model."""
    size = 4 * model.num_parameters
    if variate and len(variate) != size:
        raise DataError(f"this device's control variate has {len(variate)} bytes; the model's has {size}")
    return variate or bytes(size)


def correction(model: Model, server: bytes, own: bytes) -> Weights:
    """What joins every gradient."""
    return model.weights(kernels.subtract(server, own))


def next_variate(server: bytes, own: bytes, delta: bytes, num_steps: int, learning_rate: float) -> bytes:
    """The client's variate after ``num_steps`` (above 0) steps at ``learning_rate`` that moved the model by ``delta``.

    Raises ``KernelError`` when it is not finite.
    """
    wide = array("d", memoryview(delta).cast("f"))
    return kernels.apply_update(kernels.subtract(own, server), wide, -step_factor(num_steps, learning_rate))


def step_factor(num_steps: int, learning_rate: float) -> float:
    """``1 / (K * rate)`` with the rate as the kernel has it; the server computes the same number."""
    return 1.0 / (num_steps * to_float32(learning_rate))
