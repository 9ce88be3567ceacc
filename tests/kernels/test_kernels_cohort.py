"""Training a cohort in one call: the bits of each client alone, errors that stay with their client, real threads."""

from __future__ import annotations

import ctypes
import sys
import threading
from array import array
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from kernel_cases import DTYPES, KEY, make_case, make_correction

from edgefl import kernels
from edgefl.errors import ConfigError, DataError, KernelError, LocalProtocolError
from edgefl.kernels import CohortClient, CohortResult, _kernels, fold_cohort, train_cohort, train_softmax
from edgefl.types import Quantization, Standardization, TrainConfig, Weights

CONFIG = TrainConfig(0.25, batch_size=8, local_epochs=2)
PATHS = [CONFIG, replace(CONFIG, momentum=0.5, l2=0.01, proximal=0.1, clip_norm=0.5, shuffle_key=KEY)]
START = make_case(19, 4).weights


def clients(count: int, dtype: str = "float32", config: TrainConfig = CONFIG, **how: Any) -> list[CohortClient]:
    """Clients of different sizes, each with its own key."""
    made = []
    for index in range(count):
        case = make_case(19, 4, dtype, count=1 + 7 * index, seed=index, **how)
        key = bytes([index]) * 16
        made.append(
            CohortClient(
                case.features,
                case.labels,
                config,
                standardization=case.standardization,
                quantization=case.quantization,
                shuffle_key=key,
            )
        )
    return made


def filled_cohort(folds: bool) -> Any:
    """A cohort of the extension module with one client, as ``train_cohort`` makes it before it starts threads."""
    model = _kernels.Model(memoryview(START.kernel).cast("f"), memoryview(START.bias).cast("f"))
    cohort = _kernels.Cohort(model, START.num_features, 1, False, None, folds)
    (client,) = clients(1)
    assert cohort.add_plain(client.features, client.labels, None, CONFIG, None, None, None, None)
    return cohort


def test_a_client_that_was_not_trained_has_no_outcome() -> None:
    """What its job will hold is memory that nobody has written yet: read, it passed for a status."""
    cohort, folding = filled_cohort(folds=False), filled_cohort(folds=True)
    for read in (lambda: cohort.outcome(0), cohort.totals, folding.totals):
        with pytest.raises(LocalProtocolError, match="client 0 of the cohort was not trained; call run first"):
            read()
    with pytest.raises(ValueError, match="this cohort folds"):
        folding.outcome(0)
    cohort.close()  # by an interrupt before the first thread: still nothing was trained
    cohort.run(cohort.new_scratch())
    with pytest.raises(LocalProtocolError, match="was not trained"):
        cohort.outcome(0)
    again = filled_cohort(folds=False)
    again.run(again.new_scratch())
    assert again.outcome(0)[0] == train_softmax(START, clients(1)[0].features, clients(1)[0].labels, CONFIG)[0].kernel


def alone(client: CohortClient, start: Weights = START) -> Any:
    """What ``train_softmax`` returns for this client, or the error that it raises."""
    key = client.shuffle_key if client.shuffle_key is not None else client.config.shuffle_key
    try:
        return train_softmax(
            start,
            client.features,
            client.labels,
            replace(client.config, shuffle_key=key),
            example_weights=client.example_weights,
            standardization=client.standardization,
            quantization=client.quantization,
            correction=client.correction,
        )
    except (DataError, KernelError) as error:
        return type(error), str(error)


def outcome(result: CohortResult) -> Any:
    if result.error is not None:
        assert (result.weights, result.stats) == (None, None)
        return type(result.error), str(result.error)
    return result.get()


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("config", PATHS, ids=["direct", "gradient"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("standardized", [False, True])
def test_each_result_has_the_bits_of_the_client_alone(
    dtype: str, config: TrainConfig, threads: int, *, standardized: bool
) -> None:
    cohort = clients(9, dtype, config, standardized=standardized)
    results = train_cohort(START, cohort, threads=threads)
    assert [outcome(result) for result in results] == [alone(client) for client in cohort]


def test_a_key_of_the_config_is_used_unless_the_client_has_its_own() -> None:
    shuffled = replace(CONFIG, shuffle_key=KEY)
    case = make_case(19, 4)
    keyed, own, plain = (
        CohortClient(case.features, case.labels, shuffled),
        CohortClient(case.features, case.labels, shuffled, shuffle_key=bytes(16)),
        CohortClient(case.features, case.labels, CONFIG),
    )
    results = train_cohort(START, [keyed, own, plain])
    assert [outcome(result) for result in results] == [alone(keyed), alone(own), alone(plain)]
    assert len({result.get()[0].digest for result in results}) == 3


def test_example_weights_and_a_standardization_belong_to_their_client() -> None:
    case = make_case(19, 4, standardized=True)
    other = make_case(19, 4, standardized=True, seed=5).standardization
    weights: Any = np.arange(len(case.labels), dtype=np.float32)
    base = CohortClient(case.features, case.labels, CONFIG)
    cohort = [
        base,
        replace(base, example_weights=weights),
        replace(base, standardization=case.standardization),
        replace(base, standardization=other),
        replace(base, standardization=case.standardization, example_weights=weights),
        base,
        replace(base, standardization=other),
        replace(base, standardization=other),
    ]
    results = [outcome(result) for result in train_cohort(START, cohort)]
    assert results == [alone(client) for client in cohort]
    assert len({weights.digest for weights, _ in results}) == 5


@pytest.mark.parametrize("config", PATHS, ids=["direct", "gradient"])
def test_a_correction_belongs_to_its_client(config: TrainConfig) -> None:
    """Also where the buffers must be checked: raw bytes as example weights are not read straight."""
    case = make_case(19, 4)
    base = CohortClient(case.features, case.labels, config)
    checked = replace(base, example_weights=np.ones(len(case.labels), np.float32).tobytes())
    corrections = [make_correction(19, 4), Weights.zeros(4, 19), make_case(19, 4, seed=9).weights]
    cohort = [replace(client, correction=c) for client in (base, checked) for c in (None, *corrections, None)]
    results = [outcome(result) for result in train_cohort(START, cohort, threads=2)]
    assert results == [alone(client) for client in cohort]
    digests = [weights.digest for weights, _ in results]
    assert digests[0] == digests[4] != digests[1] != digests[3]
    (delta,) = train_cohort(START, cohort[1:2], deltas=True)
    assert delta.get()[0].to_bytes() == kernels.subtract(results[1][0].to_bytes(), START.to_bytes())


def test_deltas_are_those_of_subtract() -> None:
    cohort = clients(4)
    trained = train_cohort(START, cohort)
    for result, delta in zip(trained, train_cohort(START, cohort, deltas=True), strict=True):
        weights, stats = result.get()
        assert delta.get()[0].to_bytes() == kernels.subtract(weights.to_bytes(), START.to_bytes())
        assert delta.stats == stats


def broken(base: CohortClient) -> list[CohortClient]:
    """One client for each way to be wrong: refused before C sees it, by C, and in the course of the training."""
    features: Any = np.array(base.features)
    labels: Any = np.array(base.labels)
    inf, tiny = features.copy(), features.copy()
    inf[1, 2], tiny[2, 3] = np.inf, 2.0**-31
    huge = features * np.float32(1e30)
    negative: Any = np.full(len(labels), -1, np.float32)
    too_many: Any = np.ones(len(labels) + 1, np.float32)
    unaligned: Any = memoryview(bytes(4 * 19 + 1))[1:].cast("f", shape=[1, 19])
    unaligned_labels: Any = memoryview(bytes(4 * len(labels) + 1))[1:].cast("i")
    return [
        replace(base, features=features.astype(np.float64)),
        replace(base, features=features[:, :18].copy()),
        replace(base, features=features[:, ::2]),
        replace(base, features=features[:0]),
        replace(base, features=features.ravel()),
        replace(base, features=3),  # type: ignore[arg-type]
        replace(base, features=unaligned, labels=labels[:1]),
        replace(base, labels=unaligned_labels),
        replace(base, labels=labels[1:]),
        replace(base, labels=labels.astype(np.int64)),
        replace(base, labels=labels + np.int32(4)),
        replace(base, labels=labels.tobytes()),
        replace(base, features=inf),
        replace(base, features=tiny),
        replace(base, features=huge, config=replace(CONFIG, learning_rate=1e30)),
        replace(base, example_weights=negative),
        replace(base, example_weights=too_many),
        replace(base, quantization=Quantization(0.5, 1)),
        replace(base, standardization=Standardization(bytes(4 * 18), bytes(4 * 18))),
        replace(base, correction=Weights.zeros(4, 18)),
        replace(base, correction=Weights.zeros(3, 19)),
        replace(base, correction=Weights(4, 19, bytes(4 * 75) + np.float32(np.nan).tobytes(), bytes(16))),
    ]


@pytest.mark.parametrize("threads", [1, 3])
def test_a_client_that_fails_keeps_its_error_and_spoils_no_other(threads: int) -> None:
    base = clients(3)[2]
    cohort = [base]
    for client in broken(base):
        cohort += [client, base]
    results = [outcome(result) for result in train_cohort(START, cohort, threads=threads)]
    assert results == [alone(client) for client in cohort]
    assert all(result == results[0] for result in results[::2])
    assert {result[0] for result in results[1::2]} == {DataError, KernelError}


def test_the_error_is_raised_by_get() -> None:
    (result,) = train_cohort(START, [replace(clients(1)[0], labels=array("i", [9]))])
    with pytest.raises(DataError, match="label of row 0 is 9"):
        result.get()


def test_forms_that_train_softmax_takes_are_taken_too() -> None:
    """Raw bytes as example weights, formats with a byte order, 8-bit without a quantization, read-only buffers."""
    case, small = make_case(19, 4), make_case(19, 4, "uint8")
    prefixed = (ctypes.c_float * 19 * len(case.labels)).from_buffer_copy(case.features.tobytes())
    assert memoryview(prefixed).format == "<f"
    cohort = [
        CohortClient(case.features, case.labels, CONFIG, np.ones(len(case.labels), np.float32).tobytes()),
        CohortClient(memoryview(case.features).toreadonly(), memoryview(case.labels).toreadonly(), CONFIG),
        CohortClient(prefixed, case.labels, CONFIG),
        CohortClient(small.features, small.labels, replace(CONFIG, learning_rate=2.0**-20)),
    ]
    assert [outcome(result) for result in train_cohort(START, cohort)] == [alone(client) for client in cohort]


def test_a_stop_ends_every_client_between_batches() -> None:
    stop = kernels.StopFlag()
    stop.set()
    for result in train_cohort(START, clients(4), stop=stop):
        weights, stats = result.get()
        assert weights == START
        assert (stats.stopped, stats.examples_seen) == (True, 0)


def test_a_stop_from_another_thread_is_heard() -> None:
    """The GIL is released: else the flag below could never be set, and this would train for days."""
    stop = kernels.StopFlag()
    endless = replace(CONFIG, local_epochs=10_000)
    case = make_case(500, 50, count=2000)
    cohort = [CohortClient(case.features, case.labels, endless)] * 2
    setter = threading.Thread(target=stop.set)
    old = sys.getswitchinterval()
    sys.setswitchinterval(1000.0)  # the setter runs only while somebody has given the GIL away
    try:
        setter.start()
        results = train_cohort(case.weights, cohort, stop=stop, threads=2)
    finally:
        sys.setswitchinterval(old)
    setter.join()
    assert all(result.get()[1].stopped for result in results)


def test_no_thread_outlives_the_call() -> None:
    before = set(threading.enumerate())
    train_cohort(START, clients(6), threads=4)
    assert set(threading.enumerate()) == before


def test_an_empty_cohort_has_no_results() -> None:
    assert train_cohort(START, []) == ()


def test_a_model_that_is_not_finite_fails_for_every_client() -> None:
    start = Weights(1, 2, array("f", [0.0, float("nan")]).tobytes(), bytes(4))
    case = make_case(2, 1)
    results = train_cohort(start, [CohortClient(case.features, case.labels, CONFIG)] * 3)
    assert [type(result.error) for result in results] == [KernelError] * 3


@pytest.mark.parametrize("threads", [0, -1])
def test_threads_below_one_are_refused(threads: int) -> None:
    with pytest.raises(ConfigError, match=f"threads is {threads}"):
        train_cohort(START, clients(1), threads=threads)


def test_a_key_of_another_length_is_refused() -> None:
    with pytest.raises(ConfigError, match="15 bytes"):
        replace(clients(1)[0], shuffle_key=bytes(15))


def fold_one_by_one(cohort: list[CohortClient]) -> tuple[bytes, int, int, tuple[float, ...]]:
    """Sums, examples, right answers and losses by the calls for one client."""
    sums = array("q", bytes(8 * 4 * 20))
    stats = []
    for client, result in zip(cohort, train_cohort(START, cohort, deltas=True), strict=True):
        delta, counted = result.get()
        kernels.accumulate(sums, delta.to_bytes(), memoryview(client.labels).shape[0], 24)
        stats.append(counted)
    seen, correct = sum(one.examples_seen for one in stats), sum(one.num_correct for one in stats)
    return sums.tobytes(), seen, correct, tuple(one.loss_sum for one in stats)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_folding_where_deltas_arise_gives_the_same_sums(dtype: str, threads: int) -> None:
    cohort = clients(9, dtype, PATHS[1])
    found = fold_cohort(START, cohort, grid_shift=24, norm_bound=64.0, threads=threads)
    assert found is not None
    counted = (found.sums.tobytes(), found.examples_seen, found.num_correct, found.loss_sums)
    assert counted == fold_one_by_one(cohort)
    assert any(found.sums)


def test_nothing_is_folded_when_any_client_is_out_of_order() -> None:
    cohort = clients(4)
    bad_label = replace(cohort[1], labels=array("i", [4] * 8))
    too_long = replace(cohort[1], labels=array("i", [0]))
    diverging = replace(cohort[1], config=TrainConfig(1e30, batch_size=1, local_epochs=5))
    for spoiled in (bad_label, too_long, diverging):
        assert fold_cohort(START, [cohort[0], spoiled, *cohort[2:]], grid_shift=24, norm_bound=64.0) is None
    norms = [kernels.squared_norm(r.get()[0].to_bytes()) ** 0.5 for r in train_cohort(START, cohort, deltas=True)]
    assert fold_cohort(START, cohort, grid_shift=24, norm_bound=max(norms) * 1.001) is not None
    assert fold_cohort(START, cohort, grid_shift=24, norm_bound=max(norms) * 0.999) is None
    assert fold_cohort(START, cohort, grid_shift=60, norm_bound=64.0) is None  # off the grid
    with pytest.raises(ConfigError, match="threads is 0"):
        fold_cohort(START, cohort, grid_shift=24, norm_bound=64.0, threads=0)
