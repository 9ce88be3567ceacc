"""What each algorithm reaches on Fashion-MNIST that is dealt unevenly to 100 clients: a part of ``bench/learning.py``.

The runs of a seed are paired: every algorithm gets the same clients, and the same ten of them in each round. An
algorithm is one entry of ``ALGORITHMS``. Its options were chosen by ``--tune``: on a part of the training examples that
is kept for it, with seeds of its own, so that neither the test set nor the seeds of the figures had a say.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean

import edgefl
from edgefl import datasets, learning, optimizers
from edgefl.datasets import CentralDataset
from edgefl.kernels import permutation
from edgefl.learning import TrainingProcess
from edgefl.models.kinds.mlp import MlpModel
from edgefl.randomness import COHORT, derive_key
from edgefl.types import ClientDataset, DType, Examples, Quantization

NUM_CLIENTS, COHORT_SIZE, ALPHA = 100, 10, 0.3
BATCH = 20
TARGET, WINDOW, LAST = 0.80, 10, 20
"""``rounds_to_target``: the first round at which the mean of the last ``WINDOW`` test accuracies is ``TARGET``.
``last``: the mean of the last ``LAST`` test accuracies."""

SEEDS = (1, 2, 3)
TUNING_SEEDS = (101, 102, 103)
TUNING_EXAMPLES = 10_000
"""Training examples that ``--tune`` keeps to itself for the choice."""

MODEL = edgefl.SoftmaxModel(784, 10, dtype=DType.UINT8, quantization=Quantization(1 / 255))

MLP = MlpModel(784, 10, dtype=DType.UINT8, quantization=Quantization(1 / 255), hidden=128)
"""The same data with a hidden layer: what ``--mlp`` trains."""

Options = Mapping[str, float]


@dataclass(frozen=True)
class Algorithm:
    """``build(seed, **options)`` makes its process; ``grid`` is what ``--tune`` tries, ``chosen`` what it chose."""

    name: str
    build: Callable[..., TrainingProcess]
    grid: Mapping[str, tuple[float, ...]]
    chosen: Options

    def candidates(self) -> Iterator[Options]:
        for values in itertools.product(*self.grid.values()):
            yield dict(zip(self.grid, values, strict=True))


def _fed_avg(seed: int, rate: float) -> TrainingProcess:
    return learning.build_weighted_fed_avg(MODEL, optimizers.sgd(rate), batch_size=BATCH, seed=seed)


def _fed_avg_mlp(seed: int, rate: float) -> TrainingProcess:
    return learning.build_weighted_fed_avg(MLP, optimizers.sgd(rate), batch_size=BATCH, seed=seed)


def _fed_prox(seed: int, rate: float, strength: float) -> TrainingProcess:
    return learning.build_weighted_fed_prox(
        MODEL, optimizers.sgd(rate), proximal_strength=strength, batch_size=BATCH, seed=seed
    )


def _scaffold(seed: int, rate: float) -> TrainingProcess:
    return learning.build_scaffold(MODEL, optimizers.sgd(rate), num_clients=NUM_CLIENTS, batch_size=BATCH, seed=seed)


def _fed_adam(seed: int, rate: float, server_rate: float, epsilon: float) -> TrainingProcess:
    server = optimizers.adam(server_rate, epsilon=epsilon)
    return learning.build_weighted_fed_avg(
        MODEL, optimizers.sgd(rate), server_optimizer=server, batch_size=BATCH, seed=seed
    )


def _fed_yogi(seed: int, rate: float, server_rate: float, epsilon: float) -> TrainingProcess:
    server = optimizers.yogi(server_rate, epsilon=epsilon)
    return learning.build_weighted_fed_avg(
        MODEL, optimizers.sgd(rate), server_optimizer=server, batch_size=BATCH, seed=seed
    )


RATES = (0.03, 0.1, 0.3, 1.0)
ADAPTIVE = {"rate": (0.03, 0.1, 0.3), "server_rate": (0.01, 0.03), "epsilon": (1e-3, 1e-2)}

ALGORITHMS = (
    Algorithm("FedAvg", _fed_avg, {"rate": RATES}, {"rate": 0.1}),
    Algorithm("FedProx", _fed_prox, {"rate": RATES, "strength": (0.01, 0.1, 1.0)}, {"rate": 0.1, "strength": 0.1}),
    Algorithm("Scaffold", _scaffold, {"rate": RATES}, {"rate": 0.1}),
    Algorithm("FedAdam", _fed_adam, ADAPTIVE, {"rate": 0.3, "server_rate": 0.01, "epsilon": 1e-3}),
    Algorithm("FedYogi", _fed_yogi, ADAPTIVE, {"rate": 0.3, "server_rate": 0.01, "epsilon": 1e-3}),
)

MLP_ALGORITHMS = (
    ALGORITHMS[0],
    Algorithm("FedAvg, mlp", _fed_avg_mlp, {"rate": RATES[:3]}, {"rate": 0.3}),
)
"""What ``--mlp`` compares; the first is the softmax layer's."""


@dataclass(frozen=True)
class Federation:
    """The clients of one seed, and what their model is tested on."""

    seed: int
    clients: tuple[ClientDataset, ...]
    test: Examples

    def cohort(self, round_num: int) -> list[ClientDataset]:
        """Drawn uniformly, without the algorithm's knowledge."""
        order = permutation(derive_key(self.seed, round_num, "", COHORT), 0, len(self.clients))
        return [self.clients[index] for index in order[:COHORT_SIZE]]


def federation(data: CentralDataset, seed: int) -> Federation:
    assert data.test is not None
    dealt = datasets.partition(replace(data, test=None), datasets.dirichlet(NUM_CLIENTS, ALPHA), seed=seed)
    return Federation(seed, dealt.clients, data.test)


def first_examples(data: CentralDataset, count: int, kept: int = 0) -> CentralDataset:
    """``count`` of the training examples, drawn once for all; with ``kept`` others as the test part, if any are asked.

    Raises ``SystemExit`` when there are not as many.
    """
    if count + kept > len(data.train):
        raise SystemExit(f"{count} + {kept} training examples asked; {data.name} has {len(data.train)}")
    order = permutation(derive_key(0, 0, "bench-learning", "subset"), 0, len(data.train))
    test = _take(data.train, order[len(order) - kept :]) if kept else data.test
    return replace(data, train=_take(data.train, order[:count]), test=test)


def _take(examples: Examples, rows: Sequence[int]) -> Examples:
    features, labels = examples.features_view, examples.labels_view
    width = examples.num_features * examples.dtype.size_bytes
    raw = memoryview(features).cast("B")
    return replace(
        examples,
        features=b"".join(raw[row * width : (row + 1) * width] for row in rows),
        labels=b"".join(labels[row : row + 1].tobytes() for row in rows),
    )


def run(
    algorithm: Algorithm, options: Options, where: Federation, rounds: int, tick: Callable[[], object]
) -> list[float]:
    """The accuracy on ``where.test`` after each round; ``tick`` is called after each."""
    process = algorithm.build(where.seed, **options)
    state = process.initialize()
    accuracies = []
    for round_num in range(1, rounds + 1):
        state, _metrics = process.next(state, where.cohort(round_num))
        weights = process.get_model(state)
        found = process.model.evaluate(weights, where.test)
        accuracies.append(found.accuracy)
        tick()
    return accuracies


def rounds_to_target(accuracies: Sequence[float], target: float = TARGET) -> int | None:
    """None when it is never reached."""
    for end in range(WINDOW, len(accuracies) + 1):
        if mean(accuracies[end - WINDOW : end]) >= target:
            return end
    return None


def last(accuracies: Sequence[float]) -> float:
    return mean(accuracies[-LAST:])
