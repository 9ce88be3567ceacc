"""Training of a whole cohort in one call: many clients from one model, on several cores, for simulation.

Each result has the bits that ``train_softmax`` gives for that client alone, whatever the number of threads, their
order, and what becomes of the other clients. Python starts the threads; each takes clients from a shared counter in C
without the GIL until none is left. Without NumPy. Source: design §4.1, §11 (simulation).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from edgefl.errors import ConfigError, EdgeFLError
from edgefl.kernels import _kernels
from edgefl.kernels._kernels import StopFlag
from edgefl.kernels._status import StatusError
from edgefl.kernels.softmax import Inputs, correction_model
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
        assert self.weights is not None
        assert self.stats is not None
        return self.weights, self.stats


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
        raise ConfigError(f"threads is {threads}; expected 1 or more, or None for one a core")
    model = _kernels.Model(memoryview(weights.kernel).cast("f"), memoryview(weights.bias).cast("f"))
    cohort = _kernels.Cohort(model, weights.num_features, len(clients), deltas, stop)
    refused = _add_all(cohort, weights, clients)
    num_jobs = len(clients) - len(refused)
    if num_jobs:
        _run(cohort, min(_num_cores() if threads is None else threads, num_jobs))
    return _results(cohort, weights, clients, refused)


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
            assert inputs.labels is not None
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


def _run(cohort: _kernels.Cohort, num_threads: int) -> None:
    """Runs the jobs on this thread and on as many new ones as that leaves; all have ended when it returns or raises."""
    scratch = [cohort.new_scratch() for _ in range(num_threads)]
    started: list[threading.Thread] = []
    try:
        for number, memory in enumerate(scratch[1:], start=1):
            helper = threading.Thread(target=cohort.run, args=(memory,), name=f"edgefl-cohort-{number}")
            helper.start()
            started.append(helper)
        cohort.run(scratch[0])
        for helper in started:
            helper.join()
    except BaseException:  # an interrupt, or no thread to be had: the rest is not worth its time
        cohort.close()
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


def _inputs(client: CohortClient) -> Inputs:
    return Inputs(client.features, client.labels, client.example_weights, client.quantization, client.standardization)


def _num_cores() -> int:
    return len(os.sched_getaffinity(0))
