"""The grid on which losses are summed: integers, so that the sum over clients does not depend on their order (§4.6)."""

from __future__ import annotations

from edgefl.errors import KernelError

LOSS_GRID_SHIFT = 20
"""A step of about a millionth of a nat: far below what a mean loss is read to."""

LOSS_GRID_MAX = 2**62
"""A device's largest loss sum on the grid: it fits an int64; a larger one belongs to a training that blew up."""


def loss_to_grid(loss_sum: float) -> int:
    """The sum of losses in grid steps, rounded half to even. Raises ``KernelError`` when it is beyond any sane loss."""
    scaled = loss_sum * 2.0**LOSS_GRID_SHIFT
    if not 0 <= scaled <= LOSS_GRID_MAX:
        raise KernelError(f"the losses add up to {loss_sum}; expected less than 2**42: lower the learning rate")
    return round(scaled)
