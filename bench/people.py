"""The watch data, one person left out: a part of ``bench/learning.py``. Ten folds, a person each.

federated     federated averaging over the nine others, standardized by federated statistics of those nine
alone         each of the nine trains on their own data; the mean of their accuracies on the tenth person
pooled        one training on the data of the nine together
personalized  the federated model, fine-tuned on the tenth person's training part: accuracy on their held-out part,
              before and after

Nobody sees the tenth person before the evaluation: the rate is chosen in each fold by leaving out each of the nine in
turn. "Alone" is given the mean and spread of the nine, which helps it. Passes over the data are equal for all three.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import mean

import edgefl
from edgefl import learning, optimizers
from edgefl.datasets import FederatedDataset, pool
from edgefl.demo.baselines import Model, accuracy, train_centrally
from edgefl.types import ClientDataset, Standardization

BATCH = 10
RATES = (0.01, 0.03, 0.1, 0.3)
PERSONAL_EPOCHS = 5
FEATURE_BOUND = 32.0
"""That of the demo's statistics task: log energies are the largest features."""


@dataclass(frozen=True)
class Fold:
    """Accuracies on the person who was left out; the last two on that person's held-out part."""

    person: str
    rate: float
    federated: float
    alone: float
    pooled: float
    before: float
    personalized: float


@dataclass(frozen=True)
class Settings:
    rounds: int
    seed: int = 1


def whole(people: FederatedDataset) -> list[ClientDataset]:
    """Each person with all their windows, training and held-out."""
    return [
        ClientDataset(train.client_id, pool([train, kept]))
        for train, kept in zip(people.clients, people.held_out, strict=True)
    ]


def _process(others: Sequence[ClientDataset], num_classes: int, rate: float, seed: int) -> learning.TrainingProcess:
    num_features = others[0].examples.num_features
    standardization = learning.build_fed_statistics(num_features, FEATURE_BOUND)(others)
    model = edgefl.SoftmaxModel(num_features, num_classes, standardization=standardization)
    return learning.build_weighted_fed_avg(model, optimizers.sgd(rate), batch_size=BATCH, seed=seed)


def _federated(process: learning.TrainingProcess, others: Sequence[ClientDataset], rounds: int) -> Model:
    state = process.initialize()
    for _ in range(rounds):
        state, _metrics = process.next(state, others)
    return Model(process.get_model(state), _standardization(process))


def _standardization(process: learning.TrainingProcess) -> Standardization:
    found = process.model.standardization
    assert found is not None
    return found


def choose_rate(others: Sequence[ClientDataset], num_classes: int, settings: Settings) -> float:
    """The best for federated averaging when each of ``others`` is left out in turn; of equals the smallest."""

    def score(rate: float) -> float:
        found = []
        for person in others:
            rest = [other for other in others if other is not person]
            process = _process(rest, num_classes, rate, settings.seed)
            found.append(accuracy(_federated(process, rest, settings.rounds), [person]))
        return mean(found)

    return max(RATES, key=score)


def fold(people: FederatedDataset, index: int, settings: Settings) -> Fold:
    everyone = whole(people)
    person, others = everyone[index], [one for position, one in enumerate(everyone) if position != index]
    rate = choose_rate(others, people.num_classes, settings)
    process = _process(others, people.num_classes, rate, settings.seed)
    federated = _federated(process, others, settings.rounds)
    spec, standardization = replace(process.spec, rounds=settings.rounds), _standardization(process)
    alone = [train_centrally(spec, one.examples, one.client_id, standardization) for one in others]
    pooled = train_centrally(spec, pool(others), "pooled", standardization)
    personalize = learning.build_personalization_eval(
        process.model, optimizers.sgd(rate), batch_size=BATCH, local_epochs=PERSONAL_EPOCHS, seed=settings.seed
    )
    tuned = personalize(federated.weights, [people.clients[index]], [people.held_out[index]])
    return Fold(
        person=person.client_id,
        rate=rate,
        federated=accuracy(federated, [person]),
        alone=mean(accuracy(model, [person]) for model in alone),
        pooled=accuracy(pooled, [person]),
        before=tuned.accuracy_before,
        personalized=tuned.accuracy,
    )


def folds(people: FederatedDataset, settings: Settings, count: int, tick: Callable[[], object]) -> list[Fold]:
    """The first ``count`` folds; ``tick`` is called after each."""
    found = []
    for index in range(count):
        found.append(fold(people, index, settings))
        tick()
    return found
