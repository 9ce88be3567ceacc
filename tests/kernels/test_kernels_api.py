"""The edge between Python and libedgefl: buffers without NumPy, the choice of a variant, threads, messages."""

from __future__ import annotations

import math
import os
import re
import subprocess
import threading
from array import array
from collections.abc import Callable
from typing import Any

import pytest
from places import ROOT
from script_kit import SCRIPT

from edgefl import kernels
from edgefl.errors import ConfigError, DataError, KernelError
from edgefl.kernels import _kernels
from edgefl.kernels._status import Status
from edgefl.types import Quantization, Standardization, TrainConfig, Weights

HEADER = ROOT / "csrc" / "include" / "edgefl.h"
ZEROS = Weights.zeros(2, 3)
CONFIG = TrainConfig(0.5)
ROWS = [1.0, 2.0, 0.0, -0.5, 0.25, 4.0]
LABELS = array("i", [0, 1])


def matrix(values: list[float], columns: int = 3, kind: str = "f") -> Any:
    """Rows as a writable memoryview of shape (n, columns)."""
    flat: Any = memoryview(array(kind, values if kind == "f" else [int(v) for v in values])).cast("B")
    return flat.cast(kind, shape=[len(values) // columns, columns])


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*SCRIPT, code],
        env={**os.environ, "PYTHONPATH": str(HEADER.parents[2]), **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_statuses_are_those_of_the_header() -> None:
    listed = re.search(r"typedef enum edgefl_status \{(.*?)\} edgefl_status;", HEADER.read_text(), re.DOTALL)
    assert listed is not None
    found = {name: int(number) for name, number in re.findall(r"EDGEFL_(\w+) = (\d+),", listed[1])}
    assert found == {status.name: int(status) for status in Status}
    assert len(Status) == _kernels.NUM_STATUSES


def test_the_train_path_imports_no_numpy() -> None:
    code = """
import sys
from array import array
from edgefl import kernels
from edgefl.types import TrainConfig, Weights
features = memoryview(array("f", [1, 2, 3, 4])).cast("B").cast("f", shape=[2, 2])
weights, stats = kernels.train_softmax(Weights.zeros(2, 2), features, array("i", [0, 1]), TrainConfig(0.5))
kernels.evaluate_softmax(weights, features, array("i", [0, 1]))
kernels.squared_norm(kernels.subtract(weights.kernel, bytes(16)))
assert stats.num_steps == 1
assert "numpy" not in sys.modules
"""
    done = run_python(code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", kernels.available_variants())
def test_each_available_variant_can_be_forced(name: str) -> None:
    done = run_python("from edgefl import kernels; print(kernels.active_variant())", EDGEFL_KERNEL=name)
    assert (done.returncode, done.stdout.strip()) == (0, name), done.stderr


@pytest.mark.parametrize("name", ["avx1024", "Scalar", "scalar,scalar", " scalar"])
def test_an_unknown_variant_is_refused_with_the_names_that_exist(name: str) -> None:
    code = (
        "from edgefl import kernels, errors\n"
        "from edgefl.types import Weights\n"
        "from array import array\n"
        "x = memoryview(array('f', [1.0])).cast('B').cast('f', shape=[1, 1])\n"
        "predict = lambda: kernels.predict_softmax(Weights.zeros(1, 1), x)\n"
        "fold = lambda: kernels.accumulate(bytearray(8), bytes(4), 1, 0)\n"
        "for call in (predict, predict, fold):\n"
        "    try:\n"
        "        call()\n"
        "    except errors.ConfigError as error:\n"
        "        print(error)\n"
    )
    done = run_python(code, EDGEFL_KERNEL=name)
    lines = done.stdout.splitlines()
    assert len(lines) == 3, done.stderr
    assert all(repr(name) in line and ", ".join(kernels.available_variants()) in line for line in lines)


def test_a_variant_can_be_selected_and_a_wrong_one_leaves_it() -> None:
    before = kernels.active_variant()
    try:
        kernels.select_variant("scalar")
        with pytest.raises(ConfigError, match="'none'"):
            kernels.select_variant("none")
        with pytest.raises(ConfigError):
            kernels.select_variant("scalar\0x")
        assert kernels.active_variant() == "scalar"
        assert kernels.available_variants()[0] == "scalar"
    finally:
        kernels.select_variant(before)


def test_a_thread_can_stop_a_training() -> None:
    """The thread needs the GIL for longer than the switch interval, so it sets the flag while C runs, or never."""
    stop = kernels.StopFlag()
    started = threading.Event()

    def set_it() -> None:
        started.wait()
        sum(range(1_000_000))
        stop.set()

    features = matrix(ROWS * 20_000)
    labels = array("i", [0, 1] * 20_000)
    thread = threading.Thread(target=set_it)
    thread.start()
    started.set()
    weights, stats = kernels.train_softmax(
        ZEROS, features, labels, TrainConfig(0.01, batch_size=1, local_epochs=2_000), stop=stop
    )
    thread.join()
    assert stats.stopped
    assert stop.is_set()
    assert 0 < stats.examples_seen == stats.num_steps < 2_000 * 40_000
    # What is returned is the model after exactly the steps that were counted.
    epochs, rest = divmod(stats.num_steps, 40_000)
    again = TrainConfig(0.01, batch_size=1, local_epochs=epochs)
    expected, _ = kernels.train_softmax(ZEROS, features, labels, again)
    if rest:
        once = TrainConfig(0.01, batch_size=1)
        expected, _ = kernels.train_softmax(expected, features[:rest], labels[:rest], once)
    assert weights == expected


@pytest.mark.parametrize("kind", ["f", "B", "b"])
def test_read_only_and_writable_buffers_give_the_same(kind: str) -> None:
    writable = matrix([1, 2, 3, 4, 5, 6], kind=kind)
    read_only = memoryview(writable).toreadonly()
    assert read_only.readonly
    labels = memoryview(LABELS.tobytes()).cast("i")
    first = kernels.train_softmax(ZEROS, writable, LABELS, CONFIG)
    assert kernels.train_softmax(ZEROS, read_only, labels, CONFIG) == first
    assert writable.tobytes() == read_only.tobytes()


class NoBuffer:
    pass


WRONG_FEATURES: dict[str, Callable[[], object]] = {
    "a list": lambda: ROWS,
    "None": lambda: None,
    "an object": NoBuffer,
    "bytes have no rows": lambda: bytes(24),
    "one dimension": lambda: array("f", ROWS),
    "three dimensions": lambda: memoryview(bytes(24)).cast("f", shape=[1, 2, 3]),
    "float64": lambda: memoryview(bytes(48)).cast("d", shape=[2, 3]),
    "int32": lambda: memoryview(bytes(24)).cast("i", shape=[2, 3]),
    "bool": lambda: memoryview(bytes(6)).cast("?", shape=[2, 3]),
    "too few columns": lambda: memoryview(bytes(16)).cast("f", shape=[2, 2]),
    "misaligned": lambda: memoryview(bytes(28))[1:25].cast("f", shape=[2, 3]),
}


@pytest.mark.parametrize("case", WRONG_FEATURES)
def test_features_of_another_kind_are_refused(case: str) -> None:
    with pytest.raises(DataError, match=r"features|buffer|columns"):
        kernels.predict_softmax(ZEROS, WRONG_FEATURES[case]())  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "labels",
    [
        array("i", [0]),
        array("i", [0, 1, 0]),
        array("q", [0, 1]),
        array("I", [0, 1]),
        array("f", [0, 1]),
        array("i"),
        bytes(8),
        [0, 1],
        memoryview(bytes(16)).cast("i")[::2],
        memoryview(bytes(8)).cast("i", shape=[2, 1]),
    ],
)
def test_labels_of_another_kind_are_refused(labels: object) -> None:
    with pytest.raises(DataError, match="labels"):
        kernels.evaluate_softmax(ZEROS, matrix(ROWS), labels)  # type: ignore[arg-type]


@pytest.mark.parametrize("weights", [array("f", [1]), array("d", [1, 1]), [1, 1], bytes(7)])
def test_example_weights_of_another_kind_are_refused(weights: object) -> None:
    with pytest.raises(DataError, match="example_weights"):
        kernels.train_softmax(ZEROS, matrix(ROWS), LABELS, CONFIG, example_weights=weights)  # type: ignore[arg-type]


def test_a_fault_is_named_with_its_place_and_value() -> None:
    with pytest.raises(DataError, match=r"row 1, column 2 is nan"):
        kernels.predict_softmax(ZEROS, matrix([*ROWS[:5], math.nan]))
    with pytest.raises(DataError, match=r"row 0, column 1 is 4\.65\d*e-10"):
        kernels.train_softmax(ZEROS, matrix([1.0, 2.0**-31, *ROWS[2:]]), LABELS, CONFIG)
    with pytest.raises(DataError, match=r"label of row 1 is 2"):
        kernels.evaluate_softmax(ZEROS, matrix(ROWS), array("i", [0, 2]))
    with pytest.raises(DataError, match=r"example weight of row 1 is -1\.0"):
        kernels.train_softmax(ZEROS, matrix(ROWS), LABELS, CONFIG, example_weights=array("f", [1, -1]))
    huge = Weights(1, 1, array("f", [3e38]).tobytes(), bytes(4))
    with pytest.raises(KernelError, match=r"row 1 has a non-finite logit"):
        kernels.predict_softmax(huge, matrix([1.0, 2.0], columns=1))
    with pytest.raises(KernelError, match=r"class 0, place 1"):
        kernels.predict_softmax(Weights(1, 1, bytes(4), array("f", [math.inf]).tobytes()), matrix([1.0], columns=1))
    with pytest.raises(DataError, match=r"value 1 is 2\.0"):
        kernels.accumulate(array("q", [0, 0]), array("f", [1, 2]), 1, 30)
    with pytest.raises(KernelError, match=r"weight 1 is not finite"):
        kernels.apply_update(array("f", [1, 2]), array("d", [0, 1e300]), 1e300)


def test_options_that_float32_cannot_hold_are_refused() -> None:
    with pytest.raises(ConfigError, match="learning_rate"):
        kernels.train_softmax(ZEROS, matrix(ROWS), LABELS, TrainConfig(1e39))
    with pytest.raises(ConfigError, match="scale"):
        kernels.predict_softmax(ZEROS, matrix([1] * 6, kind="B"), quantization=Quantization(1e38))


def test_a_quantization_is_for_eight_bits_alone() -> None:
    assert kernels.predict_softmax(ZEROS, matrix(ROWS), quantization=Quantization()) == array("f", [0.5] * 4).tobytes()
    with pytest.raises(DataError, match="quantization"):
        kernels.predict_softmax(ZEROS, matrix(ROWS), quantization=Quantization(0.5))


def test_a_standardization_must_fit() -> None:
    ones = array("f", [1, 1]).tobytes()
    with pytest.raises(DataError, match="standardization of 2"):
        kernels.predict_softmax(ZEROS, matrix(ROWS), standardization=Standardization(ones, ones))
    large = array("f", [2.0**127] * 3).tobytes()
    with pytest.raises(DataError, match=r"row 0, column 0 is 1\.0.*standardized"):
        kernels.predict_softmax(ZEROS, matrix(ROWS), standardization=Standardization(large, large))


def test_vectors_may_be_raw_bytes() -> None:
    values = array("f", [3, 4])
    assert kernels.squared_norm(values) == kernels.squared_norm(values.tobytes()) == 25.0
    sums = bytearray(16)
    kernels.accumulate(sums, values.tobytes(), 2, 1)
    assert memoryview(sums).cast("q").tolist() == [12, 16]
    kernels.add_sums(sums, array("q", [1, 1]))
    assert array("d", kernels.finalize_mean(sums, 2, 1)).tolist() == [13 / 4, 17 / 4]
    assert kernels.squared_norm(b"") == 0.0
    assert kernels.first_non_finite(b"") == -1


def test_misaligned_vectors_are_refused() -> None:
    for call in (
        lambda: kernels.squared_norm(memoryview(bytes(9))[1:]),
        lambda: kernels.add_sums(bytearray(8), memoryview(bytes(12))[4:]),
        lambda: kernels.apply_update(bytes(4), memoryview(bytes(12))[4:], 1.0),
        lambda: kernels.evaluate_softmax(ZEROS, matrix(ROWS), memoryview(bytes(9))[1:].cast("i")),
    ):
        with pytest.raises(DataError, match="copy it first"):
            call()


def test_sums_must_be_writable() -> None:
    with pytest.raises(DataError, match="read-only"):
        kernels.accumulate(bytes(16), array("f", [3, 4]), 2, 1)
    with pytest.raises(DataError, match="read-only"):
        kernels.add_sums(bytes(16), bytes(16))


@pytest.mark.parametrize(
    "call",
    [
        lambda: kernels.random_words(b"short", 0, 1),
        lambda: kernels.random_words(bytearray(16), 0, 1),  # type: ignore[arg-type]
        lambda: kernels.random_words(bytes(16), -1, 1),
        lambda: kernels.random_words(bytes(16), 2**32, 1),
        lambda: kernels.random_words(bytes(16), 0, -1),
        lambda: kernels.permutation(bytes(16), 0, 2**31),
        lambda: kernels.finalize_mean(bytes(8), 0, 0),
        lambda: kernels.finalize_mean(bytes(8), 2**63, 0),
        lambda: kernels.finalize_mean(bytes(8), 1, 129),
        lambda: kernels.accumulate(bytearray(8), bytes(4), 1, -129),
        lambda: kernels.accumulate(bytearray(8), bytes(4), 1, 0, math.nan),
        lambda: kernels.apply_update(bytes(4), bytes(8), math.inf),
        lambda: kernels.feature_sums(matrix(ROWS), grid_shift=0, bound=math.inf),
        lambda: kernels.feature_sums(matrix(ROWS), grid_shift=500, bound=1.0),
    ],
)
def test_arguments_out_of_range_are_refused(call: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match="expected"):
        call()


def test_byte_orders_are_told_apart() -> None:
    import numpy

    little = numpy.array(ROWS, dtype="<f4").reshape(2, 3)
    assert kernels.predict_softmax(ZEROS, little) == kernels.predict_softmax(ZEROS, matrix(ROWS))
    with pytest.raises(DataError, match=">f"):
        kernels.predict_softmax(ZEROS, little.astype(">f4"))
    with pytest.raises(DataError, match="C order"):
        kernels.predict_softmax(ZEROS, numpy.asfortranarray(little))
