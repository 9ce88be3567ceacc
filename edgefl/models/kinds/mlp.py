"""One hidden layer of rectified linear units, then a softmax layer.

The loss is not convex, so a training begins at random: the hidden kernel is drawn uniformly within
``sqrt(6 / num_features)`` (He et al., "Delving deep into rectifiers", 2015, section 2.2), from the task's seed alone.
The draw is an integer, scaled once in binary64 and rounded once to float32; ``sqrt`` is exact in IEEE 754, so the bits
are those of every machine. The output kernel and both biases begin at zero: at first every class is as likely as any
other, and the first steps of all clients move the same features.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgefl import kernels
from edgefl.errors import ConfigError, DataError
from edgefl.models.model import Model
from edgefl.randomness import INITIAL, derive_key
from edgefl.types import (
    EvalStats,
    Examples,
    Shapes,
    TrainConfig,
    TrainStats,
    Weights,
    check_whole,
    hidden_layer_shapes,
)

if TYPE_CHECKING:
    from typing_extensions import Buffer

_STEPS = 2**24
"""A draw is one of so many odd multiples of bound / 2**24: symmetric, never 0, and exact in binary64."""


@dataclass(frozen=True)
class MlpModel(Model):
    """``hidden`` units, 1 to 512; the other fields are those of ``Model``."""

    kind: ClassVar[str] = "mlp"
    version: ClassVar[int] = 1

    hidden: int = 128

    def __post_init__(self) -> None:
        super().__post_init__()
        check_whole("hidden", self.hidden)
        if not 1 <= self.hidden <= kernels.MAX_HIDDEN:
            raise ConfigError(f"hidden is {self.hidden}; expected 1 to {kernels.MAX_HIDDEN} hidden units")

    @property
    def shapes(self) -> Shapes:
        return hidden_layer_shapes(self.num_classes, self.hidden, self.num_features)

    def initial_weights(self, seed: int = 0) -> Weights:
        """He's uniform draw for the hidden kernel; zeros for all else."""
        bound = math.sqrt(6 / self.num_features)
        words = kernels.random_words(derive_key(seed, 0, "", INITIAL), 0, self.hidden * self.num_features)
        drawn = array("f", ((2 * (word >> 8) + 1 - _STEPS) / _STEPS * bound for word in words))
        rest = self.num_parameters - len(drawn)
        return self.weights(drawn.tobytes() + bytes(4 * rest))

    def train(
        self,
        start: Weights,
        examples: Examples,
        config: TrainConfig,
        *,
        correction: Weights | None = None,
        stop: kernels.StopFlag | None = None,
    ) -> tuple[Weights, TrainStats]:
        trained, stats = kernels.train_mlp(
            self._vector(start),
            examples.features_view,
            examples.labels_view,
            config,
            standardization=self.standardization,
            quantization=examples.meaning,
            correction=None if correction is None else self._vector(correction),
            stop=stop,
        )
        return self.weights(trained.parameters), stats

    def evaluate(self, weights: Weights, examples: Examples) -> EvalStats:
        return kernels.evaluate_mlp(
            self._vector(weights),
            examples.features_view,
            examples.labels_view,
            standardization=self.standardization,
            quantization=examples.meaning,
        )

    def predict(self, weights: Weights, features: Buffer) -> bytes:
        return kernels.predict_mlp(self._vector(weights), features, standardization=self.standardization)

    def _vector(self, weights: Weights) -> kernels.MlpWeights:
        if weights.shapes != self.shapes:
            raise DataError(f"{weights} for a model of {self.hidden} hidden units; expected {self.shapes}")
        return kernels.MlpWeights(self.num_features, self.hidden, self.num_classes, weights.values)


MODEL = MlpModel
