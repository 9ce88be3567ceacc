"""Every function of ``edgefl.kernels`` with one wrong buffer at a time, by ``python [-O] tests/bad_calls.py``.

A process of its own, because a wrong pointer ends it, and because ``-O`` leaves every ``assert`` out. A call may return
or raise an ``EdgeFLError``; anything else is printed, one line each, and the exit status is then 1. Before a call its
name is written, so that the last line says what ended the process. Without NumPy and pytest: it starts in no time.
"""

from __future__ import annotations

import math
import sys
from array import array
from collections.abc import Callable, Iterator
from typing import Any

from edgefl import kernels
from edgefl.errors import EdgeFLError
from edgefl.kernels import _kernels
from edgefl.types import Quantization, Standardization, TrainConfig, Weights

ROWS, FEATURES, CLASSES, SIZE = 4, 3, 2, 5
KEY = bytes(16)

Call = tuple[Callable[..., object], dict[str, Any]]


def floats(*shape: int) -> memoryview:
    return memoryview(array("f", [1.0]) * math.prod(shape)).cast("B").cast("f", shape)


def train_one(weights: Weights, **client: Any) -> object:
    return kernels.train_cohort(weights, [kernels.CohortClient(**client)])[0].get()


def fold_one(weights: Weights, **client: Any) -> object:
    return kernels.fold_cohort(weights, [kernels.CohortClient(**client)], grid_shift=20, norm_bound=1e6)


def right_calls() -> list[Call]:
    """Each function with arguments that it takes; what is wrong is put in the place of one of the buffers."""
    weights = Weights.zeros(CLASSES, FEATURES)
    labels = {"labels": array("i", [0]) * ROWS}
    stored = {
        "features": memoryview(bytes(ROWS * FEATURES)).cast("B", (ROWS, FEATURES)),
        "quantization": Quantization(),
    }
    training = {
        "features": floats(ROWS, FEATURES),
        **labels,
        "config": TrainConfig(0.5, shuffle_key=KEY),
        "example_weights": floats(ROWS),
        "standardization": Standardization(bytes(4 * FEATURES), floats(FEATURES).tobytes()),
        "correction": weights,
    }
    sums, more_sums = array("q", [1]) * SIZE, array("q", [1]) * SIZE
    doubles, edges = array("d", [1.0]) * SIZE, array("d", [1.0, 2.0])
    model, rates = floats(SIZE), {"learning_rate": 0.1, "epsilon": 0.1, "beta_1": 0.9, "beta_2": 0.9}
    return [
        (kernels.train_softmax, {"weights": weights, **training, "stop": kernels.StopFlag()}),
        (kernels.evaluate_softmax, {"weights": weights, **stored, **labels}),
        (kernels.predict_softmax, {"weights": weights, **stored}),
        (train_one, {"weights": weights, **training}),
        (fold_one, {"weights": weights, **training}),
        (kernels.accumulate, {"sums": sums, "delta": model, "weight": 2, "grid_shift": 20, "factor": 1.0}),
        (kernels.add_sums, {"sums": sums, "other": more_sums}),
        (kernels.finalize_mean, {"sums": sums, "total_weight": 3, "grid_shift": 20}),
        (kernels.squared_norm, {"values": model}),
        (kernels.first_non_finite, {"values": model}),
        (kernels.subtract, {"a": model, "b": model}),
        (kernels.apply_update, {"model": model, "update": doubles, "rate": 1.0}),
        (kernels.adaptive_step, {"rule": "adam", "state": bytes(80), "model": model, "mean_delta": doubles, **rates}),
        (kernels.feature_sums, {**stored, "grid_shift": 20, "bound": 300.0, "center": floats(FEATURES)}),
        (kernels.feature_extremes, stored),
        (kernels.feature_counts, {**stored, "edges": edges}),
    ]


def wrong_buffers() -> dict[str, object]:
    return {
        "None": None,
        "a text": "text",
        "no bytes": b"",
        "three bytes": b"\0\0\0",
        "no floats": array("f"),
        "read-only sums": memoryview(bytes(8 * SIZE)).cast("q"),
        "16-bit numbers": array("H", [1]) * ROWS,
        "NaN": array("d", [math.nan]) * SIZE,
        "every second value": memoryview(array("f", [1.0]) * 2 * SIZE)[::2],
        "an odd address": memoryview(bytes(4 * SIZE + 1))[1:].cast("f"),
        "one value": floats(1, 1),
        "no rows": memoryview(b"").cast("B"),
        "a row more": floats(ROWS + 1, FEATURES),
        "a value more": floats(SIZE + 1),
    }


def is_buffer(value: object) -> bool:
    return isinstance(value, memoryview | array)


def wrong_calls() -> Iterator[tuple[str, Callable[[], object]]]:
    for function, right in right_calls():
        function(**right)
        for name in [name for name, value in right.items() if is_buffer(value)]:
            for what, wrong in wrong_buffers().items():
                yield f"{function.__name__}: {name} is {what}", lambda: function(**{**right, name: wrong})  # noqa: B023


def calls_without_checks() -> list[Callable[[], object]]:
    """The extension module itself, whose callers check: None in the place of a buffer, which it would dereference."""
    model = _kernels.Model(floats(FEATURES), floats(1))
    features = _kernels.Features(floats(1, FEATURES), "f", 1.0, 0, None, None)
    one = floats(1)
    cohort = _kernels.Cohort(model, FEATURES, 1, True, None, folds=True)
    none: Any = None
    return [
        lambda: _kernels.train(features, none, None, model, TrainConfig(0.1), None, None),
        lambda: _kernels.evaluate(features, none, model),
        lambda: _kernels.Model(none, one),
        lambda: _kernels.Model(one, none),
        lambda: _kernels.Features(none, "f", 1.0, 0, None, None),
        lambda: _kernels.accumulate(none, one, 1, 20, 1.0),
        lambda: _kernels.accumulate(array("q", [0]), none, 1, 20, 1.0),
        lambda: _kernels.add_sums(none, array("q", [0])),
        lambda: _kernels.add_sums(array("q", [0]), none),
        lambda: _kernels.finalize_mean(none, 1, 20),
        lambda: _kernels.squared_norm(none),
        lambda: _kernels.first_non_finite(none),
        lambda: _kernels.subtract(none, one),
        lambda: _kernels.subtract(one, none),
        lambda: _kernels.apply_update(none, array("d", [0.0]), 1.0),
        lambda: _kernels.apply_update(one, none, 1.0),
        lambda: _kernels.adaptive_step(0, bytes(16), none, array("d", [0.0]), 0.1, 0.9, 0.9, 0.1),
        lambda: _kernels.adaptive_step(0, bytes(16), one, none, 0.1, 0.9, 0.9, 0.1),
        lambda: _kernels.feature_counts(features, none),
        lambda: cohort.add_checked(features, none, None, TrainConfig(0.5), None, None, None),
        lambda: cohort.run_and_fold(cohort.new_scratch(), none, 20, 1.0),
    ]


def outcome(call: Callable[[], object]) -> BaseException | None:
    try:
        call()
    except BaseException as error:
        return error
    return None


def main() -> int:
    faults, count = [], 0
    for name, call in wrong_calls():
        print(name, file=sys.stderr, flush=True)
        error = outcome(call)
        count += 1
        if error is not None and not isinstance(error, EdgeFLError):
            faults.append(f"{name}: {error!r}")
    for index, call in enumerate(calls_without_checks()):
        print(f"extension module, call {index}", file=sys.stderr, flush=True)
        error = outcome(call)
        count += 1
        if not isinstance(error, TypeError):
            faults.append(f"extension module, call {index}: {error!r}; expected a TypeError")
    print(*faults, f"{count} calls", sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
