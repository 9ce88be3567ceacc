"""What aggregators add up: one client's contribution, and the running integer sums.

All sums are integers, so neither the order of folding nor that of merging can change a bit (design §4.4). What sums of
counts keep of each client is its accuracy on a grid, four bytes, among those of all clients in rising order.
"""

from __future__ import annotations

import bisect
import math
from array import array
from dataclasses import dataclass, field
from typing import Self

from edgefl import kernels
from edgefl.errors import InvalidUpdateError, LocalProtocolError, UpdateRefusal
from edgefl.sums.grid import share_on_grid
from edgefl.types import RoundKey

NO_ROUND = RoundKey(0, 0)
"""Of a contribution that was made by hand, for an aggregator alone."""


@dataclass(frozen=True)
class Contribution:
    """One client's decoded update: ``values`` is float32 or int64 bytes, by the aggregator.

    ``loss_grid`` is the sum of losses in steps of 2**-20. ``device``: whose it is. ``key``: of which round.
    """

    values: bytes
    weight: int
    num_examples: int = 0
    num_correct: int = 0
    loss_grid: int = 0
    device: str = ""
    key: RoundKey = NO_ROUND


@dataclass
class Sums:
    """Running sums over contributions; only an aggregator changes them. ``values`` are int64, one a coordinate.

    ``accuracies``: uint32, rising: ``share_on_grid`` of the right answers of each client; only of sums of counts.
    """

    values: array[int]
    total_weight: int = 0
    num_reports: int = 0
    num_examples: int = 0
    num_correct: int = 0
    loss_grid: int = 0
    accuracies: array[int] = field(default_factory=lambda: array("I"))

    @classmethod
    def zeros(cls, num_values: int) -> Self:
        return cls(array("q", bytes(8 * num_values)))

    def add_counts(self, contribution: Contribution) -> None:
        """Everything but ``values`` and ``accuracies``."""
        self.total_weight += contribution.weight
        self.num_reports += 1
        self.num_examples += contribution.num_examples
        self.num_correct += contribution.num_correct
        self.loss_grid += contribution.loss_grid

    def add_accuracy(self, contribution: Contribution) -> None:
        """The share of right answers, of a client that counted examples."""
        if contribution.num_examples:
            bisect.insort(self.accuracies, share_on_grid(contribution.num_correct, contribution.num_examples))

    def merge(self, other: Sums, max_total_weight: int) -> None:
        """Add ``other``, unless the total weight would pass its bound (``LocalProtocolError``)."""
        check_total(self.total_weight, other.total_weight, max_total_weight)
        kernels.add_sums(self.values, other.values)
        self.total_weight += other.total_weight
        self.num_reports += other.num_reports
        self.num_examples += other.num_examples
        self.num_correct += other.num_correct
        self.loss_grid += other.loss_grid
        self.accuracies = array("I", sorted(self.accuracies + other.accuracies))


def check_weight(weight: int, max_weight: int) -> None:
    """The gate's check of an example weight. Raises ``InvalidUpdateError`` with reason WEIGHT."""
    if type(weight) is not int or not 1 <= weight <= max_weight:
        raise InvalidUpdateError(
            UpdateRefusal.WEIGHT, f"example weight is {weight!r}; expected a whole number from 1 to {max_weight}"
        )


def check_norm(values: bytes, norm_bound: float) -> None:
    """The gate's check of a float32 delta. Raises ``InvalidUpdateError`` with reason NORM."""
    squared, limit = kernels.squared_norm(values), norm_bound * norm_bound
    if not squared <= limit:  # so that a norm that is not a number is refused
        raise InvalidUpdateError(
            UpdateRefusal.NORM,
            f"the L2 norm is {math.sqrt(squared)!r} (squared: {squared!r}); expected at most {norm_bound!r} "
            f"(squared: {limit!r})",
        )


def check_total(total: int, more: int, max_total: int) -> None:
    """Refuse to fold past the bound that keeps the sums within an int64. The task's limits should have done it."""
    if total + more > max_total:
        raise LocalProtocolError(
            f"a total weight of {total} and {more} more; expected at most {max_total} in one round: "
            "lower the goal count or max_weight"
        )
