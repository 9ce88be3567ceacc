"""The processes by name, and the four parts of a training that a user may replace."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from small_fleet import fleet
from test_learning_training import run

import edgefl
from edgefl import kernels, learning, optimizers
from edgefl.aggregators import Contribution, Sums
from edgefl.aggregators.weighted_mean import WeightedMean
from edgefl.errors import ConfigError, DataError
from edgefl.learning import processes
from edgefl.models.kinds.softmax import SoftmaxModel
from edgefl.protocol.messages import LocalWork, TrainingWork, Work
from edgefl.protocol.process import ProcessState
from edgefl.protocol.task import (
    USUAL_PROCESS,
    AggregatorSpec,
    ClientSpec,
    ModelSpec,
    RoundSpec,
    TaskKind,
    TaskSpec,
    parse_task,
)
from edgefl.types import Examples, TrainConfig, TrainStats, Weights
from edgefl.wire.plan import plan_to_proto

MODEL = edgefl.SoftmaxModel(num_features=5, num_classes=3)
SPEC = TaskSpec("t", TaskKind.TRAINING, "p", RoundSpec(3, 1), model=ModelSpec(5, 3), client=ClientSpec(0.3))


# ------------------------------------------------------------------------------------------------ by name


def test_every_process_has_a_function_that_builds_it_and_a_kind() -> None:
    assert set(USUAL_PROCESS.values()) <= set(processes.names())
    assert set(USUAL_PROCESS) == set(TaskKind)
    for name in processes.names():
        assert callable(getattr(learning, f"build_{name}"))
    with pytest.raises(AttributeError):
        _ = learning.build_nothing  # type: ignore[attr-defined]


def test_a_definition_without_a_name_has_the_usual_process() -> None:
    named = learning.build_process(replace(SPEC, process="weighted_fed_avg"), None, None)
    assert isinstance(named, learning.TrainingProcess)
    assert dataclasses.replace(named, spec=SPEC) == learning.build_process(SPEC, None, None)


def test_an_unknown_process_and_one_of_another_kind_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"process is 'fed_avg'; expected one of .*weighted_fed_avg"):
        learning.build_process(replace(SPEC, process="fed_avg"), None, None)
    with pytest.raises(ConfigError, match="process 'fed_eval' is for tasks of kind 'evaluation'; this one is 'train"):
        learning.build_process(replace(SPEC, process="fed_eval"), None, None)
    with pytest.raises(ConfigError, match="process is '_averaging'"):
        learning.build_process(replace(SPEC, process="_averaging"), None, None)


def test_a_task_file_names_the_process_that_python_builds() -> None:
    text = """
        name = "training"
        kind = "training"
        population = "in-process"
        process = "fed_sgd"
        round = {goal = 1, minimum = 1}
        model = {num_features = 5, num_classes = 3}
        server_optimizer = {learning_rate = 0.7}
    """
    from_file = learning.build_process(parse_task(text, "t.toml"), None, None)
    from_python = learning.build_fed_sgd(MODEL, optimizers.sgd(0.7))
    assert isinstance(from_file, learning.TrainingProcess)
    assert run(from_file, fleet(3), 2) == run(from_python, fleet(3), 2)
    assert from_file.plan(from_file.initialize()) == from_python.plan(from_python.initialize())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"process": "weighted_fed_avg", "client": None}, "process 'weighted_fed_avg' needs a table"),
        ({"process": "weighted_fed_prox"}, "proximal is 0; process 'weighted_fed_prox' needs one above 0"),
        ({"process": "fed_sgd"}, "process 'fed_sgd' takes one step at rate 1"),
        ({"process": "fed_sgd", "client": ClientSpec(1.0, momentum=0.5)}, "process 'fed_sgd' takes one step at rate 1"),
        (
            {"process": "unweighted_fed_avg", "aggregator": AggregatorSpec("weighted_mean")},
            "aggregator is 'weighted_mean'; process 'unweighted_fed_avg' works with 'unweighted_mean'",
        ),
        ({"encoding": "int64"}, "encoding is 'int64', which carries integers"),
    ],
)
def test_options_that_a_process_does_not_take_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        learning.build_process(replace(SPEC, **changes), None, None)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ parts


def test_a_process_composed_of_the_usual_parts_is_the_usual_process() -> None:
    usual = learning.build_weighted_fed_avg(MODEL, optimizers.sgd(0.3), batch_size=4, seed=9)
    composed = learning.compose(
        MODEL, client_work=usual.client_work, aggregator=usual.aggregator, finalizer=usual.finalizer, seed=9
    )
    assert run(composed, fleet(3), 3) == run(usual, fleet(3), 3)


@dataclass(frozen=True)
class Largest:
    """An aggregator of a user's own: the delta of the client with the most examples, by the exact mean's sums."""

    mean: WeightedMean

    def new(self) -> Sums:
        return self.mean.new()

    def check(self, contribution: Contribution) -> None:
        self.mean.check(contribution)

    def fold(self, sums: Sums, contribution: Contribution) -> None:
        if contribution.weight > sums.total_weight:
            alone = self.mean.new()
            self.mean.fold(alone, contribution)
            sums.values, sums.total_weight = alone.values, contribution.weight

    def merge(self, sums: Sums, other: Sums) -> None:
        if other.total_weight > sums.total_weight:
            sums.values, sums.total_weight = other.values, other.total_weight

    def finalize(self, sums: Sums) -> bytes:
        return self.mean.finalize(sums)


def test_an_aggregator_can_be_replaced() -> None:
    usual = learning.build_weighted_fed_avg(MODEL, optimizers.sgd(0.3))
    assert isinstance(usual.aggregator, WeightedMean)
    mine = replace(usual, aggregator=Largest(usual.aggregator))
    clients = fleet(3)
    largest = max(clients, key=len)
    assert mine.next(mine.initialize(), clients)[0] == usual.next(usual.initialize(), [largest])[0]


@dataclass(frozen=True)
class Halving:
    """A finalizer with state of its own: the rate halves after each round."""

    def init(self, num_values: int) -> bytes:  # noqa: ARG002
        return np.float64(1.0).tobytes()

    def apply(self, extra: bytes, model: bytes, aggregate: bytes, closing: learning.Closing) -> tuple[bytes, bytes]:
        assert closing.num_reports == 3
        rate = np.frombuffer(extra)[0]
        return np.float64(rate / 2).tobytes(), kernels.apply_update(model, aggregate, float(rate))


@dataclass
class Deltas(Sums):
    """What a user's own aggregator keeps besides integer sums."""

    most: int = 0
    kept: bytes = b""


@dataclass(frozen=True)
class Loudest(WeightedMean):
    """The delta of the client with the most examples."""

    def new(self) -> Deltas:
        return Deltas.zeros(self.num_values)

    def fold(self, sums: Sums, contribution: Contribution) -> None:
        assert isinstance(sums, Deltas)
        if contribution.weight > sums.most:
            sums.most, sums.kept = contribution.weight, contribution.values
        sums.add_counts(contribution)

    def finalize(self, sums: Sums) -> bytes:
        assert isinstance(sums, Deltas)
        return np.frombuffer(sums.kept, np.float32).astype(np.float64).tobytes()


@dataclass(frozen=True)
class Loose(WeightedMean):
    def new(self) -> Any:
        return []


def test_an_aggregator_keeps_what_it_likes_in_a_class_derived_from_sums() -> None:
    usual = learning.build_weighted_fed_avg(MODEL, optimizers.sgd(0.3))
    mine = replace(usual, aggregator=Loudest(MODEL.num_parameters, 64.0, 0.0, 1000))
    clients = fleet(3)
    largest = max(clients, key=len)
    assert [len(one) for one in clients].count(len(largest)) == 1
    state, metrics = mine.next(mine.initialize(), clients)
    alone, _ = usual.next(usual.initialize(), [largest])
    found, wanted = (np.frombuffer(one.model, np.float32) for one in (state, alone))
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2**-23)  # the mean is on a grid, and this delta is not
    assert (metrics.num_reports, metrics.num_examples) == (3, sum(map(len, clients)))


def test_sums_of_another_kind_are_refused_before_the_first_round_and_say_what_to_do() -> None:
    usual = learning.build_weighted_fed_avg(MODEL, optimizers.sgd(0.3))
    mine = replace(usual, aggregator=Loose(MODEL.num_parameters, 64.0, 0.0, 1000))
    told = (
        r"Loose.new\(\) makes a list; expected a subclass of edgefl.aggregators.Sums: derive it from Sums, and let fold"
    )
    for use in (mine.initialize, lambda: mine.next(usual.initialize(), fleet(3))):
        with pytest.raises(ConfigError, match=told):
            use()


def test_a_finalizer_can_be_replaced_and_its_state_is_the_processes() -> None:
    usual = learning.build_weighted_fed_avg(MODEL, optimizers.sgd(0.3))
    mine = replace(usual, finalizer=Halving())
    state = run(mine, fleet(3), 2)
    assert np.frombuffer(state.extra)[0] == 0.25
    expected = run(usual, fleet(3), 1)
    half = learning.build_weighted_fed_avg(MODEL, optimizers.sgd(0.3), server_optimizer=optimizers.sgd(0.5))
    assert half.next(ProcessState(1, expected.model, half.initialize().extra), fleet(3))[0].model == state.model


@dataclass(frozen=True)
class TwoRates(LocalWork):
    """Client work of a user's own: one epoch at a high rate, one at a low."""

    max_weight: int = 100_000
    local_epochs: int = 2

    def run(self, model: SoftmaxModel, start: Weights, examples: Examples, key: bytes) -> tuple[Weights, TrainStats]:
        assert model == MODEL
        middle, first = self._epoch(start, examples, 0.5, key)
        end, second = self._epoch(middle, examples, 0.1, key)
        seen = first.examples_seen + second.examples_seen
        return end, TrainStats(seen, 2, first.loss_sum + second.loss_sum, first.num_correct, stopped=False)

    def _epoch(self, start: Weights, examples: Examples, rate: float, key: bytes) -> tuple[Weights, TrainStats]:
        config = TrainConfig(rate, shuffle_key=key)
        return kernels.train_softmax(start, examples.features_view, examples.labels_view, config)


@dataclass(frozen=True)
class Mine:
    """The part that gives it out."""

    local_epochs: int = 2

    def work(self, version: int) -> Work:  # noqa: ARG002
        return TwoRates()


def test_client_work_can_be_replaced_in_one_python_process() -> None:
    usual = learning.build_weighted_fed_avg(MODEL, optimizers.sgd(0.5))
    mine = replace(usual, client_work=Mine())
    state, metrics = mine.next(mine.initialize(), fleet(3))
    assert metrics.num_examples == 2 * metrics.total_weight
    first = usual.next(usual.initialize(), fleet(3))[0]
    assert state.model not in (first.model, usual.initialize().model)
    assert mine.next(mine.initialize(), fleet(3))[0] == state
    with pytest.raises(ConfigError, match="TwoRates is work for processes in one Python process; it cannot be sent"):
        plan_to_proto(mine.plan(state))


def test_an_error_of_client_work_names_the_client() -> None:
    class Failing(TwoRates):
        def run(self, *_: object) -> tuple[Weights, TrainStats]:
            raise DataError("nothing will do")

    class Part(Mine):
        def work(self, version: int) -> Work:  # noqa: ARG002
            return Failing()

    mine = replace(learning.build_weighted_fed_avg(MODEL, optimizers.sgd(0.5)), client_work=Part())
    with pytest.raises(DataError, match=r"client '.*': nothing will do"):
        mine.next(mine.initialize(), fleet(1))


@dataclass(frozen=True)
class Announcing:
    """A distributor of a user's own: the version follows the model."""

    def content(self, state: ProcessState) -> bytes:
        return state.model + state.version.to_bytes(4, "little")


def test_a_distributor_decides_what_devices_download() -> None:
    usual = learning.build_weighted_fed_avg(MODEL, optimizers.sgd(0.5))
    mine = replace(usual, distributor=Announcing())
    assert mine.content(mine.initialize()) == MODEL.initial_weights().to_bytes() + bytes(4)
    with pytest.raises(DataError, match="a model of 76 bytes; expected 72"):  # plain SGD does not know what follows
        mine.next(mine.initialize(), fleet(1))
    plan = usual.plan(usual.initialize())
    assert isinstance(plan.work, TrainingWork)
