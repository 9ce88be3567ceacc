"""Clients with held-out examples alone: read from files, made of any data set, and evaluated."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import edgefl
from edgefl import datasets, learning, optimizers, simulation
from edgefl.datasets import FederatedDataset
from edgefl.errors import ConfigError, DataError
from edgefl.protocol.task import parse_task
from edgefl.types import ClientDataset, Examples

EVALUATION = """
name = "seen-and-unseen"
kind = "evaluation"
population = "people"
evaluates = "training"
round = { goal = 6, minimum = 6 }
"""
TRAINING = """
name = "training"
kind = "training"
population = "people"
round = { goal = 4, minimum = 4 }
model = { num_features = 1, num_classes = 2 }
client = { learning_rate = 0.5 }
"""


def people(*, tests: bool) -> FederatedDataset:
    """Six clients: client ``n`` has n + 1 training examples, with ``tests`` also one of n + 0.5 held out."""

    def part(name: str, values: list[float]) -> ClientDataset:
        labels = [int(value > 2) for value in values]
        return ClientDataset(
            name, Examples(1, np.array(values, np.float32).tobytes(), np.array(labels, "<i4").tobytes())
        )

    train = tuple(part(f"p{n}", [float(n)] * (n + 1)) for n in range(6))
    kept = tuple(part(f"p{n}", [n + 0.5]) for n in range(6)) if tests else ()
    return FederatedDataset("people", 1, 2, train, kept, ("low", "high"))


def values(part: ClientDataset) -> list[float]:
    return memoryview(part.examples.features).cast("f").tolist()


@pytest.mark.parametrize("tests", [True, False])
def test_a_client_that_is_held_out_keeps_every_example_for_evaluation(tests: bool) -> None:
    data = people(tests=tests)
    dealt = datasets.hold_out_clients(data, 2, seed=3)
    unseen = {part.client_id: values(part) for part in dealt.unseen}
    assert len(unseen) == 2
    for before, train, kept in zip(data.clients, dealt.clients, dealt.held_out, strict=True):
        own = [int(before.client_id[1:]) + 0.5] if tests else []
        if before.client_id in unseen:
            assert values(train) == []
            assert unseen[before.client_id] == values(kept) == values(before) + own
        else:
            assert (values(train), values(kept)) == (values(before), own)


def test_who_is_held_out_depends_on_ids_and_seed_alone() -> None:
    data = people(tests=True)
    turned = FederatedDataset("people", 1, 2, data.clients[::-1], data.held_out[::-1], ("low", "high"))
    drawn = [frozenset(part.client_id for part in datasets.hold_out_clients(data, 3, seed=s).unseen) for s in range(9)]
    assert drawn[0] == {part.client_id for part in datasets.hold_out_clients(turned, 3).unseen}
    assert drawn[0] == {"p2", "p3", "p5"}  # a golden value: the draw is the same on every machine
    assert len(set(drawn)) > 3


@pytest.mark.parametrize(("share", "count"), [(0.2, 1), (0.25, 2), (0.5, 3), (0.01, 1), (0.75, 5)])
def test_a_fraction_is_rounded_to_whole_clients(share: float, count: int) -> None:
    assert len(datasets.hold_out_clients(people(tests=False), share).unseen) == count


def test_numbers_that_leave_nothing_are_refused() -> None:
    data = people(tests=False)
    with pytest.raises(DataError, match="6 clients to hold out, and people has 6 with training examples"):
        datasets.hold_out_clients(data, 6)
    again = datasets.hold_out_clients(data, 5)
    with pytest.raises(DataError, match="1 clients to hold out, and people has 1 with"):
        datasets.hold_out_clients(again, 1)
    for wrong in (0, -1, 1.0, 0.0, float("nan"), True, "3"):
        with pytest.raises(ConfigError, match="num_clients is"):
            datasets.hold_out_clients(data, wrong)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="seed is -1"):
        datasets.hold_out_clients(data, 1, seed=-1)


def test_a_csv_file_with_a_client_that_has_held_out_rows_alone(tmp_path: Path) -> None:
    file = tmp_path / "mine.csv"
    file.write_text(
        "client,split,label,f\nnew,held_out,1,7\na,train,0,1\na,held_out,1,2\nb,train,1,3\nnew,held_out,0,8\n"
    )
    mine = datasets.load(str(file))
    assert isinstance(mine, FederatedDataset)
    assert [(one.client_id, len(one)) for one in mine.clients] == [("a", 1), ("b", 1), ("new", 0)]
    assert [len(one) for one in mine.held_out] == [1, 0, 2]
    assert [values(part) for part in mine.unseen] == [[7.0, 8.0]]


def test_unseen_people_are_evaluated_and_not_trained_on() -> None:
    data = datasets.hold_out_clients(people(tests=True), 2)
    train = learning.build_weighted_fed_avg(edgefl.SoftmaxModel(1, 2), optimizers.sgd(0.5))
    state, trained = train.next(train.initialize(), data.clients)
    weights = train.get_model(state)
    evaluate = learning.build_fed_eval(train.model)
    unseen, everyone = evaluate(weights, data.unseen), evaluate(weights, data.held_out)
    assert (trained.num_reports, unseen.num_reports, everyone.num_reports) == (4, 2, 6)
    assert unseen.num_examples == sum(len(part) for part in data.unseen)

    tasks = [(parse_task(text, "t"), text) for text in (TRAINING, EVALUATION)]
    for given in ([c for c in data.clients if len(c)], data.clients):  # without an empty part, or with one
        result = simulation.simulate(tasks, given, data.held_out)
        assert result.task("training").state.model == state.model
        assert result.task("seen-and-unseen").rounds[-1].metrics == everyone
