"""A process and its state in a file: what comes back goes on to the same bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from small_fleet import fleet
from test_learning_processes import Halving
from test_learning_training import run

import edgefl
from edgefl import learning, optimizers
from edgefl.errors import ConfigError, StorageError
from edgefl.learning import TrainingProcess
from edgefl.protocol.process import ProcessState

STANDARDIZATION = learning.build_fed_statistics(5, 8.0)(fleet(3))
MODEL = edgefl.SoftmaxModel(num_features=5, num_classes=3)
STANDARD = edgefl.SoftmaxModel(num_features=5, num_classes=3, standardization=STANDARDIZATION)


@dataclass(frozen=True)
class Case:
    name: str
    process: Any


CASES = [
    Case("fed avg", learning.build_weighted_fed_avg(STANDARD, optimizers.sgd(0.3), seed=7, l2=0.01)),
    Case(
        "yogi",
        learning.build_unweighted_fed_avg(MODEL, optimizers.sgd(0.3), server_optimizer=optimizers.yogi(0.1)),
    ),
    Case("fed sgd", learning.build_fed_sgd(MODEL, optimizers.sgd(0.3, 0.9))),
    Case("scaffold", learning.build_scaffold(STANDARD, optimizers.sgd(0.3), num_clients=9, batch_size=4)),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_training_goes_on_to_the_same_bits(tmp_path: Path, case: Case) -> None:
    state = run(case.process, fleet(3), 2)
    learning.save(tmp_path / "run.edgefl", case.process, state)
    process, again = learning.load(tmp_path / "run.edgefl")
    assert (process, again) == (case.process, state)
    assert isinstance(process, TrainingProcess)
    assert process.next(again, fleet(3)) == case.process.next(state, fleet(3))


def test_statistics_and_evaluations_are_saved_too(tmp_path: Path) -> None:
    statistics = learning.build_fed_statistics(5, 8.0)
    state, _ = statistics.next(statistics.initialize(), fleet(3))
    learning.save(tmp_path / "statistics", statistics, state)
    process, again = learning.load(tmp_path / "statistics")
    assert (process, again) == (statistics, state)
    evaluation = learning.build_fed_eval(STANDARD)
    learning.save(tmp_path / "evaluation", evaluation, evaluation.initialize())
    loaded, _ = learning.load(tmp_path / "evaluation")
    assert loaded == evaluation
    personal = learning.build_personalization_eval(STANDARD, optimizers.sgd(0.5), local_epochs=3)
    learning.save(tmp_path / "personal", personal, personal.initialize())
    assert learning.load(tmp_path / "personal")[0] == personal


def test_parts_of_a_users_own_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    mine = replace(CASES[0].process, finalizer=Halving())
    with pytest.raises(ConfigError, match="process 'weighted_fed_avg' has parts that its definition does not name"):
        learning.save(tmp_path / "mine", mine, mine.initialize())
    assert not list(tmp_path.iterdir())


def test_a_file_that_is_not_whole_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with pytest.raises(StorageError, match="run cannot be read: No such file"):
        learning.load(path)
    learning.save(path, CASES[0].process, run(CASES[0].process, fleet(2), 1))
    raw = path.read_bytes()
    for size in (0, 5, 30, 200, len(raw) - 1):
        path.write_bytes(raw[:size])
        with pytest.raises(StorageError, match=r"is no saved process of EdgeFL|is cut off"):
            learning.load(path)
    for index in range(0, len(raw), 97):
        path.write_bytes(raw[:index] + bytes([raw[index] ^ 1]) + raw[index + 1 :])
        with pytest.raises(StorageError):
            learning.load(path)
    with pytest.raises(StorageError, match="cannot be written"):
        learning.save(path / "below", CASES[0].process, ProcessState(0, b""))
