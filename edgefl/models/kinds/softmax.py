"""A softmax layer over raw features or an embedding. Source: design §4.1."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from edgefl import kernels
from edgefl.models.model import Model
from edgefl.types import EvalStats, Examples, Shapes, TrainConfig, TrainStats, Weights, layer_shapes

if TYPE_CHECKING:
    from typing_extensions import Buffer


@dataclass(frozen=True)
class SoftmaxModel(Model):
    """A softmax layer of ``num_classes`` over ``num_features``: the other fields are those of ``Model``."""

    kind: ClassVar[str] = "softmax"
    version: ClassVar[int] = 1
    trains_cohorts: ClassVar[bool] = True

    @property
    def shapes(self) -> Shapes:
        return layer_shapes(self.num_classes, self.num_features)

    def initial_weights(self, seed: int = 0) -> Weights:  # noqa: ARG002
        """Zeros, whatever the seed: the loss is convex, so nothing is gained by a random start."""
        return Weights.zeros(self.num_classes, self.num_features)

    def train(
        self,
        start: Weights,
        examples: Examples,
        config: TrainConfig,
        *,
        correction: Weights | None = None,
        stop: kernels.StopFlag | None = None,
    ) -> tuple[Weights, TrainStats]:
        return kernels.train_softmax(
            start,
            examples.features_view,
            examples.labels_view,
            config,
            standardization=self.standardization,
            quantization=examples.meaning,
            correction=correction,
            stop=stop,
        )

    def evaluate(self, weights: Weights, examples: Examples) -> EvalStats:
        return kernels.evaluate_softmax(
            weights,
            examples.features_view,
            examples.labels_view,
            standardization=self.standardization,
            quantization=examples.meaning,
        )

    def predict(self, weights: Weights, features: Buffer) -> bytes:
        return kernels.predict_softmax(weights, features, standardization=self.standardization)


MODEL = SoftmaxModel
