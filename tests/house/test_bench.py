"""Each bench runs, says what its readers parse, and compares nobody who does other work."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from places import ROOT

from edgefl import datasets, kernels

BENCH = ROOT / "bench"

SHAPE_KEYS = {"features", "classes", "batch", "dtype", "examples", "order", "epochs"}
RATE_KEYS = {"peak_gflops", "ours_gflops", "numpy_gflops"}
SLOW_KEYS = {"torch_gflops", "sklearn_gflops"}
"""None where the peer is not installed."""


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Any]:
    """Imports a module of the bench, which is no package."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module


def check_row(row: dict[str, Any], more: set[str]) -> None:
    assert set(row) == SHAPE_KEYS | RATE_KEYS | {"variants", "avx2_peak_gflops"} | more
    assert (row["avx2_peak_gflops"] is not None) == ("avx512" in kernels.available_variants())
    assert all(row[key] > 0 for key in RATE_KEYS)
    assert tuple(row["variants"]) == kernels.available_variants()
    assert all(rate > 0 for rate in row["variants"].values())
    assert row["ours_gflops"] == row["variants"][kernels.available_variants()[-1]]
    assert all(row[key] is None or row[key] > 0 for key in more)


def test_a_small_run_ends_with_a_line_of_json() -> None:
    found = run_bench("kernel.py", "--shapes", "small", "--repeats", "1")
    assert set(found) == {"peak_gflops", "shapes", "evaluate", "accumulate", "peers"}
    assert found["peak_gflops"] > 0
    assert "numpy" in found["peers"]
    assert [row["dtype"] for row in found["shapes"]] == ["float32", "uint8"]
    for row in found["shapes"]:
        check_row({name: value for name, value in row.items() if name != "one_epoch"}, SLOW_KEYS)
        assert tuple(row["one_epoch"]) == kernels.available_variants()
        assert all(rate > 0 for rate in row["one_epoch"].values())
    for row in found["evaluate"]:
        check_row(row, set())
    [size] = found["accumulate"]["sizes"]
    assert set(size) == {"coordinates", "accumulate_gb_s", "memcpy_gb_s"}
    assert all(value > 0 for value in size.values())


SIMULATED_KEYS = {
    "clients",
    "ours_client_updates_per_s_per_core",
    "ours_shuffled_client_updates_per_s_per_core",
    "kernel_alone",
    "numpy_client_updates_per_s",
    "ours_by_kernel_alone",
    "ours_by_numpy",
    "first_round_error",
}


def run_bench(name: str, *arguments: str) -> dict[str, Any]:
    """The JSON on the last line of its output."""
    done = subprocess.run(
        [sys.executable, BENCH / name, *arguments], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def test_a_report_is_counted_at_each_goal() -> None:
    found = run_bench("rounds.py", "--goals", "10", "40", "--turns", "1")
    assert set(found["us_per_report"]) == {"10", "40"}
    assert all(figure > 0 for figure in found["us_per_report"].values())


def test_simulated_rounds_are_federated_averaging_beside_numpy_and_the_kernel_alone() -> None:
    found = run_bench("simulation.py", "--quick")
    assert set(found) == SIMULATED_KEYS | {"cores", "variant", "large"}
    assert (found["cores"], found["variant"]) == (1, kernels.active_variant())
    assert set(found["large"]) == SIMULATED_KEYS
    for row in (found, found["large"]):
        assert all(row[key] > 0 for key in SIMULATED_KEYS)
        assert row["first_round_error"] <= 1e-6


def test_another_first_round_is_refused(bench: Callable[[str], Any], tmp_path: Path) -> None:
    simulation = bench("simulation")
    fleet = simulation.make_fleet(2, 2, tmp_path)
    first = simulation.numbers_of(simulation.run_rounds(simulation.build(shuffle=False), fleet, 1))
    simulation.check_first_round(first, fleet)
    other_order = simulation.numbers_of(simulation.run_rounds(simulation.build(shuffle=True), fleet, 1))
    with pytest.raises(SystemExit, match=r"the first round is .* off; at most 1e-06 expected"):
        simulation.check_first_round(other_order, fleet)


def test_learning_says_what_each_algorithm_and_each_person_reached() -> None:
    found = run_bench("learning.py", "--quick")
    assert set(found) == {"examples", "rounds", "people_rounds", "seeds", "target", "algorithms", "watch"}
    assert {"FedAvg", "FedProx", "Scaffold", "FedAdam", "FedYogi"} == {row["algorithm"] for row in found["algorithms"]}
    for row in found["algorithms"]:
        assert set(row) == {"algorithm", "options", "rounds_to_target", "last_accuracies", "last_accuracy"}
        assert len(row["rounds_to_target"]) == len(row["last_accuracies"]) == len(found["seeds"])
        assert 0.1 < min(row["last_accuracies"]) <= row["last_accuracy"] <= max(row["last_accuracies"]) < 1
    figures = {"federated", "alone", "pooled", "before", "personalized"}
    assert set(found["watch"]) == figures | {"folds"}
    for fold in found["watch"]["folds"]:
        assert set(fold) == figures | {"person", "rate"}
    for name in figures:
        values = [fold[name] for fold in found["watch"]["folds"]]
        row = found["watch"][name]
        assert (row["min"], row["max"]) == (round(min(values), 4), round(max(values), 4))
        assert row["min"] <= row["mean"] <= row["max"]


def test_algorithms_of_a_seed_get_the_same_clients_and_the_same_cohorts(bench: Callable[[str], Any]) -> None:
    algorithms = bench("algorithms")
    data = algorithms.first_examples(datasets.load("fashion_mnist"), 1000, 200)
    first, again, other = (algorithms.federation(data, seed) for seed in (1, 1, 2))
    assert first == again
    assert [len(client) for client in first.clients] == [10] * 100
    drawn = [
        [client.client_id for client in place.cohort(round_num)] for place in (first, again) for round_num in (1, 2)
    ]
    assert drawn[:2] == drawn[2:]
    assert drawn[0] != drawn[1]
    assert len(set(drawn[0])) == 10
    assert [client.client_id for client in other.cohort(1)] != drawn[0]
    assert len(first.test) == 200


def test_the_target_is_reached_by_a_mean_of_ten_rounds(bench: Callable[[str], Any]) -> None:
    algorithms = bench("algorithms")
    assert algorithms.rounds_to_target([0.9] * 9) is None
    assert algorithms.rounds_to_target([0.9] * 10) == 10
    assert algorithms.rounds_to_target([0.7] * 10 + [0.9] * 10) == 15  # five of each: 0.80
    assert algorithms.last([0.0] * 5 + [0.5] * 20) == 0.5


def test_a_contender_with_other_weights_is_refused(bench: Callable[[str], Any], tmp_path: Path) -> None:
    kernel, contenders = bench("kernel"), bench("contenders")
    shape = contenders.Shape(12, 3, 4, examples=16, epochs=1)
    data = contenders.make_data(shape, tmp_path)
    others = contenders.Data(data.x, memoryview(bytes(4 * shape.examples)).cast("i"))
    before = kernels.active_variant()
    try:
        first, second = (contenders.Ours("scalar", shape, data) for _ in range(2))
        kernel.check_same_work([first, second])
        with pytest.raises(SystemExit, match=r"scalar: weights differ by .*, at most 0.0001 expected"):
            kernel.check_same_work([first, contenders.Ours("scalar", shape, others)])
    finally:
        kernels.select_variant(before)
