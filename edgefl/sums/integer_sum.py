"""``IntegerSum``: plain sums of int64 vectors, for the counts of an evaluation and the grid sums of statistics.

The bounds that ``check`` is given make an overflow impossible: every value of one contribution stays within
``weight * unit``, the weights add up to at most ``max_total_weight``, and their product stays within 2**62. Beside the
sums each client's accuracy is kept, which an evaluation tells; deltas have none of it.
"""

from __future__ import annotations

from dataclasses import dataclass

from edgefl import kernels
from edgefl.errors import ConfigError, InvalidUpdateError, LocalProtocolError, UpdateRefusal
from edgefl.sums.grid import SUM_BITS
from edgefl.sums.running import Contribution, Sums, check_total, check_weight


@dataclass(frozen=True)
class IntegerSum:
    """Vectors of ``num_values`` int64, each the sum over ``weight`` examples of values in ``[minimum, maximum]``.

    ``minimum`` and ``maximum`` bound what *one example* adds to one value: 0 and 1 for counts. ``max_total_weight``
    bounds the examples of all contributions. Raises ``ConfigError`` when these bounds would let a sum pass 2**62.
    """

    num_values: int
    minimum: int
    maximum: int
    max_weight: int
    max_total_weight: int

    def __post_init__(self) -> None:
        unit = max(abs(self.minimum), abs(self.maximum))
        if unit * self.max_total_weight > 1 << SUM_BITS:
            raise ConfigError(
                f"{self.max_total_weight} examples of up to {unit}; expected a product of at most 2**{SUM_BITS}"
            )

    def new(self) -> Sums:
        return Sums.zeros(self.num_values)

    def check(self, contribution: Contribution) -> None:
        """Raises ``InvalidUpdateError``: WEIGHT; NORM when a value is out of reach of so many examples."""
        check_weight(contribution.weight, self.max_weight)
        values = memoryview(contribution.values).cast("q")
        low, high = self.minimum * contribution.weight, self.maximum * contribution.weight
        if min(values) < low or max(values) > high:
            raise InvalidUpdateError(
                UpdateRefusal.NORM,
                f"sums of {min(values)} to {max(values)} over {contribution.weight} examples; expected {low} to {high}",
            )

    def fold(self, sums: Sums, contribution: Contribution) -> None:
        check_total(sums.total_weight, contribution.weight, self.max_total_weight)
        kernels.add_sums(sums.values, memoryview(contribution.values).cast("q"))
        sums.add_counts(contribution)
        sums.add_accuracy(contribution)

    def merge(self, sums: Sums, other: Sums) -> None:
        sums.merge(other, self.max_total_weight)

    def finalize(self, sums: Sums) -> tuple[int, ...]:
        """The sums. Raises ``LocalProtocolError`` when nothing was folded."""
        if sums.num_reports == 0:
            raise LocalProtocolError("the round has no updates to add; expected at least one")
        return tuple(sums.values)
