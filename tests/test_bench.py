"""``make bench-kernel`` runs, says what its readers parse, and compares nobody who does other work."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
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
def bench(monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    """The modules of the bench, which is no package: ``kernel`` and ``contenders``."""
    monkeypatch.syspath_prepend(str(BENCH))
    return importlib.import_module("kernel"), importlib.import_module("contenders")


def check_row(row: dict[str, Any], more: set[str]) -> None:
    assert set(row) == SHAPE_KEYS | RATE_KEYS | {"variants"} | more
    assert all(row[key] > 0 for key in RATE_KEYS)
    assert tuple(row["variants"]) == kernels.available_variants()
    assert all(rate > 0 for rate in row["variants"].values())
    assert row["ours_gflops"] == row["variants"][kernels.available_variants()[-1]]
    assert all(row[key] is None or row[key] > 0 for key in more)


def test_a_small_run_ends_with_a_line_of_json() -> None:
    done = subprocess.run(
        [sys.executable, BENCH / "kernel.py", "--shapes", "small", "--repeats", "1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
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


def test_a_contender_with_other_weights_is_refused(bench: tuple[Any, Any], tmp_path: Path) -> None:
    kernel, contenders = bench
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
