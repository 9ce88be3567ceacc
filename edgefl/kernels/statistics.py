"""Sums, extremes and counts of features: checked calls into libedgefl. Features are as in ``edgefl.kernels.softmax``.

All three are of the raw features, without a standardization, and raise ``DataError`` naming the row of a bad one.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from edgefl.errors import ConfigError, DataError
from edgefl.kernels import _kernels
from edgefl.kernels._buffers import value_at, vector
from edgefl.kernels._grid import check_grid_shift
from edgefl.kernels._status import Status, StatusError
from edgefl.kernels.softmax import Inputs
from edgefl.types import Quantization

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAX_BINS = _kernels.MAX_BINS
"""Of one feature's histogram."""


def feature_sums(
    features: Buffer,
    *,
    grid_shift: int,
    bound: float,
    center: Buffer | None = None,
    quantization: Quantization | None = None,
) -> bytes:
    """Sums over the rows of each feature, or of squared distances to ``center``, on the grid of 2**-grid_shift.

    ``features``  (n, F) as in ``train_softmax``; no value may exceed ``bound`` in magnitude (finite, above 0).
    ``center``    (F,) float32, finite.

    Returns (F,) int64 as bytes, each within 2**62. Raises ``DataError`` naming the row or the feature.
    """
    inputs = Inputs(features, quantization, None)
    check_grid_shift(grid_shift)
    if not (math.isfinite(bound) and bound > 0):
        raise ConfigError(f"bound is {bound!r}; expected a finite number above 0")
    view = None
    if center is not None:
        view = vector("center", center, "float32", inputs.num_features)
        bad = _kernels.first_non_finite(view)
        if bad >= 0:
            raise DataError(f"center[{bad}] is {value_at(view, bad)!r}; expected a finite number")
    try:
        return _kernels.feature_sums(inputs.features, view, bound, grid_shift)
    except StatusError as error:
        raise inputs.explain(error) from None


def feature_extremes(features: Buffer, *, quantization: Quantization | None = None) -> tuple[bytes, bytes]:
    """The smallest and the largest value of each feature, (F,) float32 as bytes each; a -0 reads as +0."""
    inputs = Inputs(features, quantization, None)
    try:
        return _kernels.feature_extremes(inputs.features)
    except StatusError as error:
        raise inputs.explain(error) from None


def feature_counts(features: Buffer, *, edges: Buffer, quantization: Quantization | None = None) -> bytes:
    """How many rows have each feature in each bin: (F, bins) int64 as bytes, where ``bins`` is one more than the edges.

    ``edges``  (bins - 1,) float64, the same for every feature: finite, none below the one before, fewer than
               ``MAX_BINS``. A value's bin is the number of edges that are not above it.
    """
    inputs = Inputs(features, quantization, None)
    view = vector("edges", edges, "float64")
    if len(view) >= MAX_BINS:
        raise ConfigError(f"{len(view)} edges; expected fewer than {MAX_BINS}")
    try:
        return _kernels.feature_counts(inputs.features, view)
    except StatusError as error:
        if error.status is not Status.BAD_EDGE:
            raise inputs.explain(error) from None
        raise DataError(
            f"edge {error.row} is {value_at(view, error.row)!r}; expected a finite number, not below the edge before it"
        ) from None
