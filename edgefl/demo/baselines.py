"""What the federation is held against: each person training alone, all data pooled, and a run in which nothing dies.

The first two have the kernel, rate, batch, number of passes and standardization of the federation. Someone alone would
not know the fleet's mean and spread; giving them that makes the comparison harder for the federation, not easier. The
third is the simulation of the same definitions in this process: it must make the same model, bit for bit (design §4.7).
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path

from edgefl.datasets import FederatedDataset, pool
from edgefl.errors import ConfigError
from edgefl.kernels import evaluate_softmax, train_softmax
from edgefl.learning import StatisticsProcess, build_process
from edgefl.protocol.task import TaskSpec
from edgefl.randomness import SHUFFLE, derive_key
from edgefl.types import ClientDataset, EvalStats, Examples, Standardization, Weights


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
    key = derive_key(spec.seed, 0, name, SHUFFLE) if client.shuffle else None
    config = replace(client.sgd, local_epochs=spec.rounds * client.local_epochs).keyed(key)
    start = Weights.zeros(spec.model.num_classes, spec.model.num_features)
    weights, _ = train_softmax(
        start, examples.features_view, examples.labels_view, config, standardization=standardization
    )
    return Model(weights, standardization)


@dataclass(frozen=True)
class Baselines:
    """Models of people alone, in the order of the clients, and of the pooled data."""

    standardization: Standardization
    alone: tuple[Model, ...]
    pooled: Model


def train_baselines(spec: TaskSpec, statistics: TaskSpec, data: FederatedDataset) -> Baselines:
    process = build_process(statistics, None, None)
    assert isinstance(process, StatisticsProcess)
    found = process(data.clients)
    alone = tuple(train_centrally(spec, client.examples, client.client_id, found) for client in data.clients)
    return Baselines(found, alone, train_centrally(spec, pool(data.clients), "pooled", found))


def on_others(models: Sequence[Model], held_out: Sequence[ClientDataset]) -> list[float]:
    """The accuracy of the model of each person on the windows of all other people taken together."""
    return [accuracy(model, [*held_out[:place], *held_out[place + 1 :]]) for place, model in enumerate(models)]


def undisturbed(tasks: Mapping[str, tuple[TaskSpec, Path]], data: FederatedDataset) -> Future[str]:
    """The SHA-256 of the ``.tflite`` file that a run makes in which nothing dies; computed in a thread, in a second."""
    result: Future[str] = Future()

    def run() -> None:
        try:
            from edgefl.models.tflite_writer import write_tflite  # slow to import: the live view comes first
            from edgefl.simulation import release_inputs, simulate

            definitions = [(spec, path.read_text()) for spec, path in tasks.values()]
            ended = simulate(definitions, data.clients, data.held_out)
            result.set_result(
                hashlib.sha256(write_tflite(*release_inputs(ended, tasks["training"][0].name))).hexdigest()
            )
        except BaseException as error:
            result.set_exception(error)

    threading.Thread(target=run, name="undisturbed run", daemon=True).start()  # Ctrl-C does not wait for it
    return result
