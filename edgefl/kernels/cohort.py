"""Training of a whole cohort in one call: many clients from one model, on several cores, for simulation.

Each result has the bits that ``train_softmax`` gives for that client alone, whatever the number of threads, their
order, and what becomes of the other clients. Python starts the threads; each takes clients from a shared counter in C
without the GIL until none is left. Without NumPy. Source: design §4.1, §11 (simulation).
"""

from __future__ import annotations

import os
import threading
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING

from edgefl.errors import ConfigError, EdgeFLError, KernelError, LocalProtocolError
from edgefl.kernels import _kernels
from edgefl.kernels._grid import check_grid_shift
from edgefl.kernels._kernels import StopFlag
from edgefl.kernels._status import StatusError
from edgefl.kernels.softmax import LabelledInputs, correction_model
from edgefl.kernels.vectors import add_sums
from edgefl.types import KEY_BYTES, Quantization, Standardization, TrainConfig, TrainStats, Weights

if TYPE_CHECKING:
    from typing_extensions import Buffer


@dataclass(frozen=True)
class CohortClient:
    """What one client trains on; ``features``, ``labels`` and the optional four are those of ``train_softmax``.

    ``shuffle_key`` takes the place of the config's, so that clients can share a config; None leaves that one.
    """

    features: Buffer = field(repr=False)
    labels: Buffer = field(repr=False)
    config: TrainConfig
    example_weights: Buffer | None = field(default=None, repr=False)
    standardization: Standardization | None = None
    quantization: Quantization | None = None
    shuffle_key: bytes | None = None
    correction: Weights | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.shuffle_key is not None and len(self.shuffle_key) != KEY_BYTES:
            raise ConfigError(f"shuffle_key has {len(self.shuffle_key)} bytes; expected {KEY_BYTES}")


@dataclass(frozen=True)
class CohortResult:
    """One client's outcome: weights and stats, or the error that ``train_softmax`` would have raised for it alone."""

    weights: Weights | None
    stats: TrainStats | None
    error: EdgeFLError | None = None

    def get(self) -> tuple[Weights, TrainStats]:
        """What ``train_softmax`` returns; raises ``error`` when there is one."""
        if self.error is not None:
            raise self.error
        if self.weights is None or self.stats is None:
            raise LocalProtocolError("a result with neither weights nor an error; expected one that train_cohort made")
        return self.weights, self.stats


@dataclass(frozen=True)
class FoldedCohort:
    """Sums over the deltas of all clients, int64 (kernel, then bias), and what the clients counted together.

    ``loss_sums`` one of each client, in their order.
    """

    sums: array[int] = field(repr=False)
    examples_seen: int
    num_correct: int
    loss_sums: tuple[float, ...] = field(repr=False)


def train_cohort(
    weights: Weights,
    clients: Sequence[CohortClient],
    *,
    deltas: bool = False,
    threads: int | None = None,
    stop: StopFlag | None = None,
) -> tuple[CohortResult, ...]:
    """Train every client from ``weights``; the results are in the order of ``clients``.

    ``deltas``   the results hold ``trained - weights``, as ``subtract`` gives it, in place of the trained weights.
    ``threads``  at most this many, the caller's among them; None takes one for each core that this process may use.
    ``stop``     read by every client before each of its batches.

    All results are held at once, ``4 * num_parameters`` bytes a client: give a large cohort in parts. The clients'
    buffers must not be changed meanwhile. A client that fails spoils no other: its result carries the error. Raises
    ``ConfigError`` for ``threads``, ``MemoryError`` when results or scratch do not fit.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}; expected 1 or more, or None for one per core")
    model = _kernels.Model(weights.array("kernel"), weights.array("bias"))
    cohort = _kernels.Cohort(model, weights.num_features, len(clients), deltas, stop)
    refused = _add_all(cohort, weights, clients)
    num_jobs = len(clients) - len(refused)
    if num_jobs:
        _run([partial(cohort.run, cohort.new_scratch()) for _ in range(_num_threads(threads, num_jobs))], cohort.close)
    return _results(cohort, weights, clients, refused)


def fold_cohort(
    weights: Weights,
    clients: Sequence[CohortClient],
    *,
    grid_shift: int,
    norm_bound: float,
    threads: int | None = None,
) -> FoldedCohort | None:
    """Train every client from ``weights`` and add up the deltas, each weighted by its number of rows, where they arise.

    The sums have the bits of ``accumulate`` over the deltas of ``train_cohort``. None when any client cannot be trained
    or has a delta that is not finite, of an L2 norm above ``norm_bound``, or off the grid: the calls for one client say
    which and why. Memory does not grow with the clients. Raises as ``train_cohort``, and ``ConfigError`` for the shift.
    """
    if threads is not None and threads < 1:
        raise ConfigError(f"threads is {threads}; expected 1 or more, or None for one per core")
    check_grid_shift(grid_shift)
    model = _kernels.Model(weights.array("kernel"), weights.array("bias"))
    cohort = _kernels.Cohort(model, weights.num_features, len(clients), True, None, folds=True)
    if _add_all(cohort, weights, clients):
        return None
    size = weights.num_classes * (weights.num_features + 1)
    parts = [array("q", (0,)) * size for _ in range(_num_threads(threads, len(clients)))]
    limit = norm_bound * norm_bound
    _run([partial(cohort.run_and_fold, cohort.new_scratch(), sums, grid_shift, limit) for sums in parts], cohort.close)
    totals = cohort.totals()
    if totals is None:
        return None
    try:
        for other in parts[1:]:
            add_sums(parts[0], other)
    except KernelError:
        return None
    examples_seen, num_correct, loss_sums = totals
    return FoldedCohort(parts[0], examples_seen, num_correct, tuple(loss_sums))


def _add_all(cohort: _kernels.Cohort, weights: Weights, clients: Sequence[CohortClient]) -> dict[int, EdgeFLError]:
    """Adds the clients whose buffers can be used; the others' errors by index."""
    refused: dict[int, EdgeFLError] = {}
    for index, client in enumerate(clients):
        try:
            correction = None if client.correction is None else correction_model(weights, client.correction)
            if cohort.add_plain(
                client.features,
                client.labels,
                client.example_weights,
                client.config,
                client.shuffle_key,
                correction,
                client.standardization,
                client.quantization,
            ):
                continue
            inputs = _inputs(client)
            inputs.model(weights)
            cohort.add_checked(
                inputs.features,
                inputs.labels,
                inputs.example_weights,
                client.config,
                client.shuffle_key,
                correction,
                client.standardization,
            )
        except EdgeFLError as error:
            refused[index] = error
    return refused


def _run(calls: Sequence[Callable[[], None]], close: Callable[[], None]) -> None:
    """Makes the first call on this thread and each other on a new one; all have ended when it returns or raises."""
    started: list[threading.Thread] = []
    try:
        for number, call in enumerate(calls[1:], start=1):
            helper = threading.Thread(target=call, name=f"edgefl-cohort-{number}")
            helper.start()
            started.append(helper)
        calls[0]()
        for helper in started:
            helper.join()
    except BaseException:  # an interrupt, or no thread to be had: the rest is not worth its time
        close()
        raise
    finally:
        for helper in started:
            helper.join()


def _results(
    cohort: _kernels.Cohort, weights: Weights, clients: Sequence[CohortClient], refused: dict[int, EdgeFLError]
) -> tuple[CohortResult, ...]:
    results: list[CohortResult] = []
    job = 0
    for index, client in enumerate(clients):
        if index in refused:
            results.append(CohortResult(None, None, refused[index]))
            continue
        try:
            kernel, bias, counts = cohort.outcome(job)
        except StatusError as error:
            results.append(CohortResult(None, None, _inputs(client).explain(error)))
        else:
            trained = Weights(weights.num_classes, weights.num_features, kernel, bias)
            results.append(CohortResult(trained, TrainStats(*counts)))
        job += 1
    return tuple(results)


def _inputs(client: CohortClient) -> LabelledInputs:
    return LabelledInputs(
        client.features, client.labels, client.example_weights, client.quantization, client.standardization
    )


def _num_threads(most: int | None, num_jobs: int) -> int:
    return max(1, min(len(os.sched_getaffinity(0)) if most is None else most, num_jobs))
