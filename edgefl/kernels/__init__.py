"""The compiled kernels: softmax and mlp training, exact aggregation, statistics, and our generator. Without NumPy.

``EDGEFL_KERNEL=NAME`` in the environment forces a variant of ``available_variants()``, read at the first call;
an unknown or unsupported name is a ``ConfigError`` then. All variants give the same bits.
"""

from __future__ import annotations

from edgefl.kernels._kernels import StopFlag, active_variant, available_variants, select_variant
from edgefl.kernels.adaptive import adaptive_step
from edgefl.kernels.cohort import CohortClient, CohortResult, FoldedCohort, fold_cohort, train_cohort
from edgefl.kernels.mlp import MAX_HIDDEN, MlpWeights, evaluate_mlp, predict_mlp, train_mlp
from edgefl.kernels.randomness import permutation, random_words
from edgefl.kernels.softmax import evaluate_softmax, predict_softmax, train_softmax
from edgefl.kernels.statistics import MAX_BINS, feature_counts, feature_extremes, feature_sums
from edgefl.kernels.vectors import (
    accumulate,
    add_sums,
    apply_update,
    finalize_mean,
    first_non_finite,
    squared_norm,
    subtract,
)

__all__ = [
    "MAX_BINS",
    "MAX_HIDDEN",
    "CohortClient",
    "CohortResult",
    "FoldedCohort",
    "MlpWeights",
    "StopFlag",
    "accumulate",
    "active_variant",
    "adaptive_step",
    "add_sums",
    "apply_update",
    "available_variants",
    "evaluate_mlp",
    "evaluate_softmax",
    "feature_counts",
    "feature_extremes",
    "feature_sums",
    "finalize_mean",
    "first_non_finite",
    "fold_cohort",
    "permutation",
    "predict_mlp",
    "predict_softmax",
    "random_words",
    "select_variant",
    "squared_norm",
    "subtract",
    "train_cohort",
    "train_mlp",
    "train_softmax",
]
