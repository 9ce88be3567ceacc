"""``weighted_mean``: the mean of the deltas, each weighted by its integer example weight, exact on a fixed grid.

    norm bound rounded up to 2**e,  step 2**-s with s = 30 - e
    q_i = round_half_even(2**s * delta_i * clip factor)            an integer of at most 2**30
    mean = double(sum of weight_i * q_i) / double(sum of weight_i) * 2**-s

Source: McMahan et al., "Communication-Efficient Learning of Deep Networks from Decentralized Data", 2017, algorithm 1;
the arithmetic is design §4.4.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from edgefl import kernels
from edgefl.errors import LocalProtocolError
from edgefl.sums.grid import GRID_BITS, MAX_TOTAL_WEIGHT, ceil_log2
from edgefl.sums.running import Contribution, Sums, check_norm, check_total, check_weight


@dataclass(frozen=True)
class WeightedMean:
    """Deltas of ``num_values`` float32 each.

    ``norm_bound``  a delta of a larger L2 norm, measured after decoding, is refused.
    ``clip_norm``   a delta of a larger L2 norm is scaled down to it; 0 never scales.
    ``max_weight``  the largest example weight that a client may claim.
    """

    num_values: int
    norm_bound: float
    clip_norm: float
    max_weight: int

    @property
    def grid_shift(self) -> int:
        """``s``: the grid step is ``2**-s``."""
        return GRID_BITS - ceil_log2(self.norm_bound)

    def new(self) -> Sums:
        return Sums.zeros(self.num_values)

    def check(self, contribution: Contribution) -> None:
        """Raises ``InvalidUpdateError``: WEIGHT, NORM."""
        check_weight(contribution.weight, self.max_weight)
        check_norm(contribution.values, self.norm_bound)

    def fold(self, sums: Sums, contribution: Contribution) -> None:
        check_total(sums.total_weight, contribution.weight, MAX_TOTAL_WEIGHT)
        kernels.accumulate(
            sums.values, contribution.values, contribution.weight, self.grid_shift, self._clip_factor(contribution)
        )
        sums.add_counts(contribution)

    def merge(self, sums: Sums, other: Sums) -> None:
        sums.merge(other, MAX_TOTAL_WEIGHT)

    def finalize(self, sums: Sums) -> bytes:
        """The mean delta, ``num_values`` float64. Raises ``LocalProtocolError`` when nothing was folded."""
        if sums.total_weight == 0:
            raise LocalProtocolError("the round has no updates to average; expected at least one")
        return kernels.finalize_mean(sums.values, sums.total_weight, self.grid_shift)

    def _clip_factor(self, contribution: Contribution) -> float:
        if self.clip_norm == 0:
            return 1.0
        norm = math.sqrt(kernels.squared_norm(contribution.values))
        return self.clip_norm / norm if norm > self.clip_norm else 1.0


AGGREGATOR = WeightedMean
