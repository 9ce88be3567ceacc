"""What the federation is held against: each person training alone, and all data pooled.

Same kernel, rate, batch, number of passes and standardization as the federation. Someone alone would not know the
fleet's mean and spread; giving them that makes the comparison harder for the federation, not easier.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from edgefl.errors import ConfigError
from edgefl.kernels import evaluate_softmax, train_softmax
from edgefl.protocol.task import TaskSpec
from edgefl.randomness import SHUFFLE, derive_key
from edgefl.types import ClientDataset, EvalStats, Examples, Standardization, TrainConfig, Weights


@dataclass(frozen=True)
class Model:
    """Weights with the standardization that belongs to them."""

    weights: Weights
    standardization: Standardization

    def evaluate(self, examples: Examples) -> EvalStats:
        return evaluate_softmax(
            self.weights, examples.features_view, examples.labels_view, standardization=self.standardization
        )


def accuracy(model: Model, clients: Sequence[ClientDataset]) -> float:
    """Right answers over all examples of ``clients`` taken together."""
    stats = [model.evaluate(client.examples) for client in clients]
    return sum(s.num_correct for s in stats) / sum(s.num_examples for s in stats)


def train_centrally(spec: TaskSpec, examples: Examples, name: str, standardization: Standardization) -> Model:
    """Train on ``examples`` as often as the federation passes over its data: rounds x local epochs."""
    if spec.model is None or spec.client is None:
        raise ConfigError(f"task {spec.name!r} is of kind {spec.kind.value}; expected a training task")
    client = spec.client
    config = TrainConfig(
        learning_rate=client.learning_rate,
        batch_size=client.batch_size,
        num_epochs=spec.rounds * client.local_epochs,
        l2=client.l2,
        momentum=client.momentum,
        proximal=client.proximal,
        clip_norm=client.clip_norm,
        shuffle_key=derive_key(spec.seed, 0, name, SHUFFLE) if client.shuffle else None,
    )
    start = Weights.zeros(spec.model.num_classes, spec.model.num_features)
    weights, _ = train_softmax(
        start, examples.features_view, examples.labels_view, config, standardization=standardization
    )
    return Model(weights, standardization)
