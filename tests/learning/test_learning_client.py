"""The client's work: what it computes, when it fails, when it stops, and what it must not import."""

from __future__ import annotations

import subprocess
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from places import ROOT
from script_kit import SCRIPT
from small_fleet import client, features_of, fleet, labels_of

import edgefl
from edgefl import kernels, learning, optimizers
from edgefl.errors import KernelError
from edgefl.learning.loss_grid import LOSS_GRID_MAX, loss_to_grid
from edgefl.protocol.messages import Assignment, ClientUpdate, Plan, WorkFailure
from edgefl.randomness import SHUFFLE, derive_key
from edgefl.types import ClientDataset, Examples, Quantization, TrainConfig, Weights

MODEL = edgefl.SoftmaxModel(num_features=5, num_classes=3)
START = Weights.from_bytes(np.linspace(-1, 1, 18).astype(np.float32).tobytes(), 3, 5)


def assignment(plan: Plan | None = None, **changes: Any) -> Assignment:
    if plan is None:
        process = learning.build_weighted_fed_avg(
            MODEL, optimizers.sgd(0.1, momentum=0.5), batch_size=4, local_epochs=2, l2=0.01, max_weight=50
        )
        plan = process.plan(process.initialize())
    whole = Assignment("gestures", 7, 42, plan, START.digest, 72, 60.0)
    return replace(whole, **changes)


def work(
    task: Assignment, dataset: ClientDataset, model: bytes | None = None, device: str = "client-0", **options: Any
) -> ClientUpdate | WorkFailure | None:
    raw = START.to_bytes() if model is None else model
    return learning.run_plan(task, raw, dataset.examples, dataset.examples, device, **options)


def failure(*arguments: Any, **options: Any) -> WorkFailure:
    report = work(*arguments, **options)
    assert isinstance(report, WorkFailure)
    assert (report.task, report.round_num) == ("gestures", 7)
    return report


def test_the_update_is_what_the_kernel_computes() -> None:
    one = fleet(1)[0]
    update = work(assignment(), one)
    assert isinstance(update, ClientUpdate)
    key = derive_key(42, 7, "client-0", SHUFFLE)
    config = TrainConfig(0.1, batch_size=4, local_epochs=2, l2=0.01, momentum=0.5, shuffle_key=key)
    end, stats = kernels.train_softmax(START, one.examples.features_view, one.examples.labels_view, config)
    delta = np.frombuffer(end.to_bytes(), np.float32) - np.frombuffer(START.to_bytes(), np.float32)
    assert update.payload == delta.tobytes()
    assert (update.task, update.round_num, update.base_model_digest) == ("gestures", 7, START.digest)
    assert (update.encoding, update.weight, update.attempt) == ("float32", 8, 1)
    assert (update.num_examples, update.num_correct) == (16, stats.num_correct)
    assert abs(update.loss_grid - stats.loss_sum * 2**20) <= 0.5


def test_the_same_work_gives_the_same_bytes_and_another_device_others() -> None:
    one, task = fleet(1)[0], assignment()
    assert work(task, one) == work(task, one)
    for other in (assignment(round_num=8), assignment(task_seed=43)):
        changed, first = work(other, one), work(task, one)
        assert isinstance(changed, ClientUpdate)
        assert isinstance(first, ClientUpdate)
        assert changed.payload != first.payload
    assert work(task, one, device="client-1") != work(task, one)


@pytest.mark.parametrize(
    ("loss_sum", "grid"), [(0.0, 0), (0.5 / 2**20, 0), (1.5 / 2**20, 2), (2.5 / 2**20, 2), (1.0, 2**20)]
)
def test_losses_are_rounded_half_to_even_on_their_grid(loss_sum: float, grid: int) -> None:
    assert loss_to_grid(loss_sum) == grid


def test_a_loss_sum_beyond_the_grid_is_a_kernel_error() -> None:
    assert loss_to_grid(2.0**42) == LOSS_GRID_MAX
    for loss_sum in (2.0**42 + 1, -1.0, float("inf"), float("nan")):
        with pytest.raises(KernelError, match="lower the learning rate"):
            loss_to_grid(loss_sum)


def test_an_empty_set_is_a_failure() -> None:
    empty = client("empty", np.empty((0, 5), np.float32), np.empty(0, np.int32))
    report = failure(assignment(), empty)
    assert (report.kind, report.message) == ("DataError", "this device has no training examples; expected at least one")
    evaluation = learning.build_fed_eval(MODEL)
    report = failure(assignment(evaluation.plan(evaluation.initialize())), empty)
    assert report.message == "this device has no held-out examples; expected at least one"


def test_training_reads_the_training_examples_and_evaluation_those_held_out() -> None:
    few, many = fleet(2)
    empty = client("empty", np.empty((0, 5), np.float32), np.empty(0, np.int32)).examples
    evaluation = learning.build_fed_eval(MODEL)
    statistics = learning.build_fed_statistics(5, 8.0)
    plans = [assignment().plan, *(p.plan(p.initialize()) for p in (evaluation, statistics))]
    weights, failures = [], []
    for plan in plans:
        update = learning.run_plan(assignment(plan), START.to_bytes(), few.examples, many.examples, "a")
        assert isinstance(update, ClientUpdate)
        weights.append(update.weight)
        for train, kept in ((empty, many.examples), (many.examples, empty)):
            report = learning.run_plan(assignment(plan), START.to_bytes(), train, kept, "a")
            failures.append(isinstance(report, WorkFailure))
    assert weights == [len(few), len(many), len(few)]
    assert failures == [True, False, False, True, True, False]


def test_more_examples_than_the_largest_weight_is_a_failure_that_says_so() -> None:
    report = failure(assignment(), fleet(1, smallest=51)[0])
    assert report.message == "this device has 51 training examples; the task's max_weight is 50: raise it"
    assert isinstance(work(assignment(), fleet(1, smallest=50)[0]), ClientUpdate)


def test_examples_of_another_kind_are_a_failure_that_says_which() -> None:
    report = failure(assignment(), fleet(1, num_features=6)[0])
    assert report.message == "the examples have 6 float32 features; the model reads 5 float32"
    stored = client("a", np.ones((2, 5), np.uint8), np.zeros(2), Quantization(0.5))
    assert failure(assignment(), stored).message == "the examples have 5 uint8 features; the model reads 5 float32"
    model = edgefl.SoftmaxModel(5, 3, edgefl.DType.UINT8, Quantization(0.25))
    process = learning.build_weighted_fed_avg(model, optimizers.sgd(0.1))
    report = failure(assignment(process.plan(process.initialize())), stored)
    assert "scale=0.5" in report.message
    assert "scale=0.25" in report.message


@pytest.mark.parametrize("value", [np.nan, np.inf, 2.0**-31])
def test_a_value_that_the_kernels_refuse_is_a_failure_that_names_its_row(value: float) -> None:
    features = features_of(fleet(1)[0]).copy()
    features[6, 1] = value
    report = failure(assignment(), client("a", features, labels_of(fleet(1)[0])))
    assert report.kind == "DataError"
    assert "6" in report.message
    assert "\n" not in report.message


def test_a_label_out_of_range_is_a_failure() -> None:
    labels = labels_of(fleet(1)[0]).copy()
    labels[2] = 3
    assert failure(assignment(), client("a", features_of(fleet(1)[0]), labels)).kind == "DataError"


def test_a_model_or_an_encoding_that_does_not_fit_is_a_failure() -> None:
    assert failure(assignment(), fleet(1)[0], START.to_bytes()[:-4]).kind == "DataError"
    plan = assignment().plan
    assert failure(assignment(replace(plan, encoding="int8")), fleet(1)[0]).kind == "ConfigError"
    assert "does not fit TrainingWork" in failure(assignment(replace(plan, encoding="int64")), fleet(1)[0]).message


def test_a_set_stop_flag_gives_no_report() -> None:
    stop = kernels.StopFlag()
    assert isinstance(work(assignment(), fleet(1)[0], stop=stop), ClientUpdate)
    stop.set()
    evaluation = learning.build_fed_eval(MODEL)
    for plan in (assignment().plan, evaluation.plan(evaluation.initialize())):
        assert work(assignment(plan), fleet(1)[0], stop=stop) is None


class StopsWhenRead(Examples):
    """Sets the flag when the work takes its features: after the first look at the flag, before the first batch."""

    flag: ClassVar[kernels.StopFlag]

    @property
    def features_view(self) -> memoryview[Any]:
        self.flag.set()
        return super().features_view


def test_a_training_that_was_stopped_between_batches_gives_no_report() -> None:
    whole = fleet(1)[0].examples
    examples = StopsWhenRead(whole.num_features, whole.features, whole.labels)
    StopsWhenRead.flag = kernels.StopFlag()
    assert work(assignment(), ClientDataset("a", examples), stop=StopsWhenRead.flag) is None


PROGRAM = """
import sys
sys.path.insert(0, {root!r})
import edgefl
assert [m for m in sys.modules if m.startswith("edgefl.")] == ["edgefl._version"], sorted(sys.modules)
from array import array
from edgefl.learning.client import run_plan
from edgefl.models.kinds.softmax import SoftmaxModel
from edgefl.protocol.messages import Assignment, ClientUpdate, EvaluationWork, Plan, StatisticsWork, TrainingWork
from edgefl.types import Examples, SgdOptions
examples = Examples(2, array("f", [1, 2, 3, 4]).tobytes(), array("i", [0, 1]).tobytes())
works = [
    (TrainingWork(SgdOptions(0.1, 1, 1, 0.0, 0.0, 0.0, 0.0), True, 10), "float32"),
    (EvaluationWork(10), "int64"),
    (StatisticsWork(4.0, 20, 10), "int64"),
]
for work, encoding in works:
    assignment = Assignment("t", 1, 0, Plan(SoftmaxModel(2, 2), work, encoding), "", 24, 1.0)
    update = run_plan(assignment, bytes(24), examples, examples, "d")
    assert isinstance(update, ClientUpdate), update
heavy = {{"numpy", "grpc", "google", "tflite", "flatbuffers", "asyncio", "tomllib", "edgefl.learning.training"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""


def test_the_clients_work_imports_no_numpy() -> None:
    root = str(ROOT)
    done = subprocess.run([*SCRIPT, PROGRAM.format(root=root)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_every_public_name_of_the_package_is_there() -> None:
    for module in (edgefl, learning, edgefl.models):
        for name in module.__all__:
            assert getattr(module, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'sotfmax'"):
        edgefl.sotfmax  # noqa: B018
