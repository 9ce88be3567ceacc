"""The steps of the server's adaptive optimizers in C, with the bits of the same operations in Python. Checked calls.

Source: Reddi et al., "Adaptive Federated Optimization", 2021, algorithm 2; ``edgefl_adaptive_step`` in
``csrc/include/edgefl.h`` states each operation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from edgefl.errors import LocalProtocolError
from edgefl.kernels import _kernels
from edgefl.kernels._buffers import value_at, vector
from edgefl.kernels._status import StatusError, vector_error

if TYPE_CHECKING:
    from typing_extensions import Buffer


def adaptive_step(
    rule: Literal["adam", "yogi", "adagrad"],
    state: bytes,
    model: Buffer,
    mean_delta: Buffer,
    *,
    learning_rate: float,
    epsilon: float,
    beta_1: float = 0.0,
    beta_2: float = 0.0,
) -> tuple[bytes, bytes]:
    """The new state, float64, and the new model, float32.

    ``state``       the first moments, then the second; ``adagrad``: the second moments alone.
    ``model``       float32.
    ``mean_delta``  float64, of the model's length.

    The options are checked by the optimizer that has them. Raises ``KernelError`` when the new model or a second
    moment would not be finite, ``LocalProtocolError`` for a state of another length.
    """
    values = vector("model", model, "float32")
    delta = vector("mean_delta", mean_delta, "float64", len(values))
    expected = (1 if rule == "adagrad" else 2) * 8 * len(delta)
    if len(state) != expected:
        raise LocalProtocolError(f"an optimizer state of {len(state)} bytes; {rule} has {expected} for this delta")
    number = _kernels.ADAPTIVE_RULES[rule]
    try:
        return _kernels.adaptive_step(number, state, values, delta, learning_rate, beta_1, beta_2, epsilon)
    except StatusError as error:
        raise vector_error(error, lambda index, _: value_at(delta, index)) from None
