"""What a status of libedgefl means to a caller: which error it becomes, and how that reads.

The numbers are those of ``edgefl_status`` in ``csrc/include/edgefl.h``; a test compares their count.
"""

from __future__ import annotations

import enum
from collections.abc import Callable

from edgefl.errors import DataError, EdgeFLError, KernelError


class Status(enum.IntEnum):
    OK = 0
    BAD_ARGUMENT = 1
    SCRATCH_TOO_SMALL = 2
    BAD_FEATURE = 3
    BAD_STANDARDIZED = 4
    BAD_LABEL = 5
    BAD_EXAMPLE_WEIGHT = 6
    BAD_START_WEIGHT = 7
    NON_FINITE_LOGIT = 8
    NON_FINITE_WEIGHT = 9
    GRADIENT_EXPLODED = 10
    OUT_OF_RANGE = 11
    OVERFLOW = 12
    NON_FINITE_RESULT = 13
    FEATURE_OUT_OF_BOUNDS = 14
    BAD_CORRECTION = 15
    BAD_EDGE = 16


class StatusError(Exception):
    """A status that is not OK, with its place, on the way from C to the module that can name the fault's value."""

    def __init__(self, status: int, row: int, column: int) -> None:
        super().__init__(f"status {status} at row {row}, column {column}")
        self.status = Status(status)
        self.row = row
        self.column = column


ValueAt = Callable[[int, int], object]
"""The value at (row, column) of what was checked: a message names it."""


def layer_place(row: int, column: int) -> str:
    """Where a weight of a softmax layer is."""
    return f"class {row}, place {column} of its features and bias"


def softmax_error(
    error: StatusError,
    feature: ValueAt,
    label: ValueAt,
    example_weight: ValueAt,
    weight: Callable[[int, int], str] = layer_place,
) -> EdgeFLError:
    """The error of a training, an evaluation, a prediction or a sum of features; ``weight`` names a weight's place."""
    row, column = error.row, error.column
    where = f"row {row}, column {column}"
    match error.status:
        case Status.BAD_FEATURE:
            return DataError(
                f"feature at {where} is {feature(row, column)!r}; expected a finite number, 0 or at least 2**-30 in "
                "magnitude: write smaller values as 0"
            )
        case Status.BAD_STANDARDIZED:
            return DataError(
                f"feature at {where} is {feature(row, column)!r}, which is not finite once it is standardized; "
                "check the feature and the standardization"
            )
        case Status.FEATURE_OUT_OF_BOUNDS:
            return DataError(f"feature at {where} is {feature(row, column)!r}, above the declared bound in magnitude")
        case Status.BAD_LABEL:
            return DataError(f"label of row {row} is {label(row, 0)!r}; expected 0 to the number of classes - 1")
        case Status.BAD_EXAMPLE_WEIGHT:
            return DataError(
                f"example weight of row {row} is {example_weight(row, 0)!r}; expected a finite number, 0 or at least "
                "2**-30"
            )
        case Status.BAD_START_WEIGHT:
            return KernelError(f"the model holds a non-finite weight ({weight(row, column)}); train from another")
        case Status.BAD_CORRECTION:
            return KernelError(
                f"the correction holds a non-finite value ({weight(row, column)}); expected finite numbers: make it "
                "from finite control variates"
            )
        case Status.NON_FINITE_LOGIT:
            return KernelError(
                f"row {row} has a non-finite logit; lower the learning rate, or check that row's features"
            )
        case Status.NON_FINITE_WEIGHT:
            return KernelError(
                f"training ended with a non-finite weight ({weight(row, column)}); lower the learning rate"
            )
        case Status.GRADIENT_EXPLODED:
            return KernelError(
                f"the gradient of the batch that begins with row {row} exceeds clip_norm more than 2**30 times; "
                "check the features, or lower the learning rate"
            )
        case Status.OUT_OF_RANGE:
            return DataError(
                f"the sum of feature {row} does not fit the grid: 2**grid_shift times it exceeds 2**62; lower "
                "grid_shift or the bound"
            )
    return unexpected(error)


def vector_error(error: StatusError, value: ValueAt) -> EdgeFLError:
    """The error of a function on vectors; the place's row is the index."""
    index = error.row
    match error.status:
        case Status.OUT_OF_RANGE:
            return DataError(
                f"value {index} is {value(index, 0)!r}; expected one whose multiple of the grid step is at most 2**30 "
                "in magnitude: check the norm bound and the grid shift"
            )
        case Status.OVERFLOW:
            return KernelError(f"sum {index} leaves 64 bits; the weights exceed what the task allows")
        case Status.NON_FINITE_RESULT:
            return KernelError(f"the updated weight {index} is not finite; lower the server's learning rate")
    return unexpected(error)


def unexpected(error: StatusError) -> EdgeFLError:
    """For a status that the callers' checks should have made impossible."""
    return KernelError(f"libedgefl refused a call that was checked ({error.status.name}); this is a defect of EdgeFL")
