"""A process and its state in a file: what comes back goes on to the same bits."""

from __future__ import annotations

import enum
import importlib
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from script_kit import SCRIPT
from small_fleet import fleet
from test_learning_processes import Halving
from test_learning_training import run

import edgefl
from edgefl import kernels, learning, optimizers
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


class Speed(enum.Enum):
    SLOW = 0.25


@dataclass(frozen=True)
class Pace:
    factors: tuple[float, ...]
    speed: Any


@dataclass(frozen=True)
class Paced:
    """A finalizer with fields of every kind that a file can hold."""

    pace: Pace
    start: bytes
    names: dict[str, int]
    note: str | None = None

    def init(self, num_values: int) -> bytes:  # noqa: ARG002
        return self.start

    def apply(self, extra: bytes, model: bytes, aggregate: bytes, closing: learning.Closing) -> tuple[bytes, bytes]:
        rate = self.pace.factors[closing.num_reports % len(self.pace.factors)] * self.pace.speed.value
        return extra + b"+", kernels.apply_update(model, aggregate, rate)


@dataclass(frozen=True)
class Steps:
    """Client work around another's."""

    inner: Any

    @property
    def local_epochs(self) -> int:
        return int(self.inner.local_epochs)

    def work(self, version: int) -> Any:
        return self.inner.work(version)


@dataclass(frozen=True, eq=False)
class Unequal:
    init = Halving.init
    apply = Halving.apply


def test_parts_of_a_users_own_are_saved_by_name_and_value(tmp_path: Path) -> None:
    usual = CASES[0].process
    mine = replace(usual, finalizer=Paced(Pace((0.5, 1.0), Speed.SLOW), b"\0\1", {"a": 1}))
    mine = replace(mine, client_work=Steps(usual.client_work))
    state = run(mine, fleet(3), 2)
    learning.save(tmp_path / "mine", mine, state)
    process, again = learning.load(tmp_path / "mine")
    assert (process, again) == (mine, state)
    assert isinstance(process, TrainingProcess)
    assert process.next(again, fleet(3)) == mine.next(state, fleet(3))


SAVE_MINE = """
import sys; sys.path.insert(0, {folder!r})
from dataclasses import replace
import edgefl, mine_alone
from edgefl import learning
from edgefl import optimizers
train = learning.build_weighted_fed_avg(edgefl.SoftmaxModel(5, 3), optimizers.sgd(0.3))
train = replace(train, finalizer=mine_alone.Mine(optimizers.adam(0.5)))
learning.save({folder!r} + "/run", train, train.initialize())
"""


def test_a_file_imports_nothing_and_names_what_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine_alone.py").write_text(
        "from dataclasses import dataclass\nfrom edgefl.learning import ServerStep\n"
        "@dataclass(frozen=True)\nclass Mine(ServerStep):\n    pass\n"
    )
    subprocess.run([*SCRIPT, SAVE_MINE.format(folder=str(tmp_path))], check=True)
    monkeypatch.syspath_prepend(str(tmp_path))
    expected = "part 'finalizer' is a mine_alone:Mine, which this program does not have; import mine_alone first"
    with pytest.raises(ConfigError, match=expected):
        learning.load(tmp_path / "run")
    assert "mine_alone" not in sys.modules
    module = importlib.import_module("mine_alone")
    monkeypatch.delitem(sys.modules, "mine_alone")
    monkeypatch.setitem(sys.modules, "mine_alone", module)
    process, _ = learning.load(tmp_path / "run")
    assert isinstance(process, TrainingProcess)
    assert process.finalizer == module.Mine(optimizers.adam(0.5))


def test_parts_that_a_file_cannot_describe_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Local(Halving):
        pass

    for part, message in (
        (Local(), "part 'finalizer' is a .*Local, which a file cannot name; expected a dataclass at the top of a mod"),
        (Paced(Pace((), object()), b"", {}), "part 'finalizer'.pace.speed is a builtins:object, which a file cannot"),
        (Unequal(), "does not come back equal from its definition and the fields of its parts; expected parts that"),
    ):
        mine = replace(CASES[0].process, finalizer=part)
        with pytest.raises(ConfigError, match=message):
            learning.save(tmp_path / "mine", mine, ProcessState(0, b""))
    assert not list(tmp_path.iterdir())


def test_a_process_without_own_parts_is_written_as_older_versions_read_it(tmp_path: Path) -> None:
    learning.save(tmp_path / "run", CASES[0].process, CASES[0].process.initialize())
    assert (tmp_path / "run").read_bytes()[8:12] == (1).to_bytes(4, "little")


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
