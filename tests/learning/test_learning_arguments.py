"""What a caller hands over by mistake is refused where it is handed over, as one of EdgeFL's own errors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from small_fleet import fleet

import edgefl
from edgefl import learning, optimizers, simulation
from edgefl.errors import ConfigError, EdgeFLError
from edgefl.learning.processes import PROCESSES
from edgefl.types import ClientDataset

MODEL: Any = edgefl.SoftmaxModel(num_features=5, num_classes=3)
SGD: Any = optimizers.sgd(0.1)
TRAIN: Any = learning.build_weighted_fed_avg(MODEL, SGD)
START = TRAIN.initialize()
EVALUATE: Any = learning.build_fed_eval(MODEL)
PERSONALIZE: Any = learning.build_personalization_eval(MODEL, SGD)
STATISTICS: Any = learning.build_fed_statistics(5, 8.0)
PARTS = {"client_work": TRAIN.client_work, "aggregator": TRAIN.aggregator, "finalizer": TRAIN.finalizer}
WEIGHTS = TRAIN.get_model(START)
WRONG: tuple[Any, ...] = (None, "x", -1, 1.5, float("nan"), [1], np.zeros(2), np.float32(2), True)
BUILDERS: dict[str, Any] = {
    "weighted_fed_avg": learning.build_weighted_fed_avg,
    "unweighted_fed_avg": learning.build_unweighted_fed_avg,
    "weighted_fed_prox": lambda *a: learning.build_weighted_fed_prox(*a, proximal_strength=0.1),
    "scaffold": lambda *a: learning.build_scaffold(*a, num_clients=3),
    "fed_sgd": learning.build_fed_sgd,
    "personalization_eval": learning.build_personalization_eval,
}


@dataclass(frozen=True)
class Handed:
    """``use`` is refused for each of ``WRONG`` but for those that are right there."""

    name: str
    use: Callable[[Any], object]
    right: tuple[Any, ...] = ()


HANDED = [
    *(Handed(f"{name}: model", lambda v, b=build: b(v, SGD)) for name, build in BUILDERS.items()),
    *(Handed(f"{name}: optimizer", lambda v, b=build: b(MODEL, v), ()) for name, build in BUILDERS.items()),
    Handed("features of a model", lambda v: edgefl.SoftmaxModel(v, 3)),
    Handed("dtype", lambda v: edgefl.SoftmaxModel(5, 3, dtype=v)),
    Handed("standardization", lambda v: edgefl.SoftmaxModel(5, 3, standardization=v), (None,)),
    Handed("server_optimizer", lambda v: learning.build_weighted_fed_avg(MODEL, SGD, server_optimizer=v), (None,)),
    *(
        Handed(name, lambda v, n=name: learning.build_weighted_fed_avg(MODEL, SGD, **{n: v}))
        for name in ("batch_size", "local_epochs", "seed", "max_weight", "encoding", "schedule")
    ),
    Handed("num_clients", lambda v: learning.build_scaffold(MODEL, SGD, num_clients=v)),
    Handed("fed_eval", learning.build_fed_eval),  # type: ignore[arg-type]
    Handed("bins", lambda v: learning.build_fed_statistics(5, 8.0, bins=v)),
    Handed("clients of next", lambda v: TRAIN.next(START, v)),
    Handed("state of next", lambda v: TRAIN.next(v, fleet(3))),
    Handed("get_model", TRAIN.get_model),
    Handed("weights to evaluate", lambda v: EVALUATE(v, fleet(3))),
    Handed("clients to evaluate", lambda v: EVALUATE(WEIGHTS, v)),
    Handed("clients to personalize", lambda v: PERSONALIZE(WEIGHTS, v, fleet(3))),
    Handed("clients of statistics", STATISTICS),
    *(
        Handed(f"compose: {name}", lambda v, n=name: learning.compose(MODEL, **{**PARTS, n: v}))
        for name in (*PARTS, "seed", "encoding")
    ),
    Handed("compose: distributor", lambda v: learning.compose(MODEL, **PARTS, distributor=v), (None,)),
    Handed("load", learning.load),
    Handed("save: process", lambda v: learning.save("never", v, START)),
    Handed("save: state", lambda v: learning.save("never", TRAIN, v)),
    Handed("simulate: tasks", lambda v: simulation.simulate(v, fleet(3))),
    Handed("checkpoint: path", lambda v: simulation.Checkpoint(v)),
    Handed("checkpoint: every", lambda v: simulation.Checkpoint(Path("never"), every=v)),
    Handed("a client's examples", lambda v: ClientDataset("a", v)),
]


@pytest.mark.parametrize("case", HANDED, ids=lambda case: case.name)
def test_a_wrong_type_is_refused_where_it_is_handed_over(case: Handed) -> None:
    for value in WRONG:
        if any(value is one for one in case.right):
            continue
        with pytest.raises(EdgeFLError):
            case.use(value)


def test_the_pair_of_next_is_no_state() -> None:
    with pytest.raises(ConfigError, match=r"state is \(ProcessState.*; expected a ProcessState: of initialize\(\), or"):
        TRAIN.next(TRAIN.next(START, fleet(3)), fleet(3))


def test_an_optimizer_that_devices_do_not_run_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"client_optimizer is Adam.*; expected an optimizers.sgd\(RATE\)"):
        learning.build_weighted_fed_avg(MODEL, optimizers.adam(0.1))  # type: ignore[arg-type]


def test_a_class_is_no_part() -> None:
    with pytest.raises(ConfigError, match=r"finalizer is <class .*; expected an object with init, apply"):
        learning.compose(MODEL, **{**PARTS, "finalizer": learning.ServerStep})


def test_whole_numbers_of_numpy_are_whole_numbers() -> None:
    assert learning.build_weighted_fed_avg(MODEL, SGD, batch_size=np.int64(7)) == learning.build_weighted_fed_avg(
        MODEL, SGD, batch_size=7
    )
    assert edgefl.SoftmaxModel(np.int32(5), 3) == MODEL


def test_a_state_of_another_shape_is_not_taken() -> None:
    with pytest.raises(EdgeFLError):
        TRAIN.next(replace(START, model=START.model[:-4]), fleet(3))


@pytest.mark.parametrize("name", ["weighted_fed_avg", "unweighted_fed_avg"])
def test_a_definition_without_a_model_builds_no_training(name: str) -> None:
    """``build_process`` compares the kinds first; a process of a user's own may call these parts itself."""
    definition = replace(EVALUATE.spec, name="without")
    with pytest.raises(ConfigError, match=r"task 'without' of kind 'evaluation' has no table \[model\]"):
        PROCESSES.load(name).build(definition, None, None)


def test_a_definition_without_statistics_asks_for_none() -> None:
    with pytest.raises(ConfigError, match=r"has no table \[statistics\]"):
        replace(STATISTICS, spec=TRAIN.spec).plan(START)
