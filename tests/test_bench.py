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

from edgefl import kernels

BENCH = Path(__file__).parents[1] / "bench"

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
    assert set(row) == SHAPE_KEYS | RATE_KEYS | {"variants"} | more
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
        check_row(row, SLOW_KEYS)
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
