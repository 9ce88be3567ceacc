"""The softmax kernel compared with NumPy, PyTorch and scikit-learn, and with the FMA peak of the core, in one run.

Run by ``make bench-kernel``; docs/benchmarks.md says what the figures mean. All contenders are pinned to one core and
take turns, so that a busy minute slows them all; a figure is the median of its repeats, in CPU seconds. Before the time
is taken, the weights of one epoch are compared with those of NumPy and PyTorch. The last line of the output is one JSON
object.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
from contenders import HERE, SLOW, Child, Contender, Shape, children, contenders, installed_peers, make_data
from rich.console import Console
from rich.table import Table

from edgefl import kernels

BUILD = HERE.parent / "build" / "bench"

SHAPES = [
    Shape(784, 10, 32, examples=256, epochs=100),  # in the second-level cache
    Shape(784, 10, 32, examples=6000, epochs=5),
    Shape(784, 10, 32, examples=6000, epochs=5, shuffled=True),
    Shape(784, 10, 10, examples=6000, epochs=5),
    Shape(784, 10, 32, examples=256, epochs=100, dtype="uint8"),
    Shape(784, 10, 32, examples=6000, epochs=5, dtype="uint8"),
    Shape(75, 7, 10, examples=6000, epochs=10),
    Shape(256, 4, 32, examples=6000, epochs=10),
    Shape(512, 100, 32, examples=2000, epochs=2),
    Shape(1280, 1000, 32, examples=256, epochs=2),
]
EVALUATED = [SHAPES[1], SHAPES[5], SHAPES[6], SHAPES[8], SHAPES[9]]
SMALL = [Shape(75, 7, 10, examples=256, epochs=2), Shape(75, 7, 10, examples=256, epochs=2, dtype="uint8")]

SLOW_SECONDS = 0.25
SLOW_REPEATS = 3
"""A contender whose pass takes longer is not asked more often: its spread is small compared with its distance."""

TOLERANCE = 1e-4
"""Of the largest weight: another order of summation, not another computation."""

ACCUMULATED = [1_000, 7_850, 1_281_000, 8_000_000]
"""Coordinates: few, so that the call itself shows; 784×10 and 1280×1000 with their biases; and more than the caches of
the bench's machine hold."""


@dataclass(frozen=True)
class Plan:
    trained: list[Shape]
    evaluated: list[Shape]
    folded: list[int]


PLANS = {"full": Plan(SHAPES, EVALUATED, ACCUMULATED), "small": Plan(SMALL, SMALL, ACCUMULATED[:1])}
"""``small`` shows in seconds that everybody runs and agrees; its figures mean nothing."""

COORDINATE_BYTES = 20
"""Moved by folding one coordinate: 4 of the delta are read, 8 of the sum are read and written."""


def build_peak() -> Path:
    BUILD.mkdir(parents=True, exist_ok=True)
    program = BUILD / "peak"
    subprocess.run(
        [os.environ.get("CC", "cc"), "-O2", "-march=native", str(HERE / "peak.c"), "-o", str(program)], check=True
    )
    return program


def check_same_work(field: list[Contender]) -> None:
    """One epoch of everybody, which also warms them up. scikit-learn solves another problem and is not compared."""
    expected = None
    for contender in field:
        contender.train(1)
        if contender.name == "sklearn":
            continue
        found = contender.weights()
        expected = found if expected is None else expected
        error = float(np.abs(found - expected).max() / np.abs(expected).max())
        if error > TOLERANCE:
            raise SystemExit(f"{contender.name}: weights differ by {error:.1e}, at most {TOLERANCE} expected")


def time_training(shape: Shape, field: list[Contender], peak: Child, repeats: int) -> dict[str, float]:
    """GFLOP/s of everybody by name, and of ``peak`` meanwhile."""
    seconds: dict[str, list[float]] = defaultdict(list)
    peaks = []
    for _ in range(repeats):
        peaks.append(float(peak.ask("")))
        for contender in field:
            taken = seconds[contender.name]
            if len(taken) >= SLOW_REPEATS and median(taken) > SLOW_SECONDS:
                continue
            epochs = 1 if contender.name in SLOW else shape.epochs
            taken.append(contender.train(epochs) / epochs)
    rates = {name: shape.epoch_gflop / median(taken) for name, taken in seconds.items()}
    return {"peak": median(peaks), **rates}


def time_evaluation(shape: Shape, field: list[Contender], peak: Child, repeats: int) -> dict[str, float]:
    """As ``time_training``, of one product of the weights with every example."""
    seconds: dict[str, list[float]] = defaultdict(list)
    peaks = []
    can = [contender for contender in field if contender.name not in SLOW]
    for _ in range(repeats):
        peaks.append(float(peak.ask("")))
        for contender in can:
            seconds[contender.name].append(contender.evaluate(shape.epochs) / shape.epochs)
    rates = {name: shape.epoch_gflop / 2 / median(taken) for name, taken in seconds.items()}
    return {"peak": median(peaks), **rates}


def time_accumulator(coordinates: int, repeats: int) -> dict[str, float]:
    """GB/s that folding an update moves, and that ``memcpy`` moves for the same number of bytes."""
    sums = np.zeros(coordinates, np.int64)
    words = np.frombuffer(kernels.random_words(bytes(16), 0, coordinates), np.uint32)
    delta = (words.astype(np.float64) * 2.0**-32 - 0.5).astype(np.float32)
    half = coordinates * COORDINATE_BYTES // 2
    source, target = np.ones(half, np.uint8), np.zeros(half, np.uint8)
    # Taken before, as a caller has them: asking NumPy for an address takes longer than moving a small model.
    folded, added = sums.data, delta.data
    to, come_from = target.ctypes.data, source.ctypes.data
    calls = max(1, 4_000_000 // coordinates)
    folding, copying = [], []
    for _ in range(repeats):
        start = process_time()
        for _ in range(calls):
            kernels.accumulate(folded, added, 1, 30)
        middle = process_time()
        for _ in range(calls):
            ctypes.memmove(to, come_from, half)
        folding.append(middle - start)
        copying.append(process_time() - middle)
    moved = 1e-9 * calls * coordinates * COORDINATE_BYTES
    rates = {"accumulate_gb_s": moved / median(folding), "memcpy_gb_s": moved / median(copying)}
    return {"coordinates": coordinates, **{name: round(rate, 1) for name, rate in rates.items()}}


def best(rates: dict[str, float], *names: str) -> float | None:
    """The fastest of these contenders, None when none of them ran."""
    return max((round(rates[name], 2) for name in names if name in rates), default=None)


def row_of(shape: Shape, rates: dict[str, float]) -> dict[str, Any]:
    """What the JSON line says of a shape, but for the peers."""
    kernels.select_variant(None)
    return {
        "features": shape.features,
        "classes": shape.classes,
        "batch": shape.batch,
        "dtype": shape.dtype,
        "examples": shape.examples,
        "order": shape.order,
        "epochs": shape.epochs,
        "peak_gflops": best(rates, "peak"),
        "ours_gflops": best(rates, kernels.active_variant()),
        "variants": {name: best(rates, name) for name in kernels.available_variants()},
        "numpy_gflops": best(rates, "numpy (F,C)", "numpy (C,F)"),
    }


def measure(plan: Plan, running: dict[str, Child], folder: Path, repeats: int, console: Console) -> dict[str, Any]:
    trained, evaluated = [], []
    for shape in plan.trained:
        console.print(title_of({**vars(shape), "order": shape.order}), highlight=False)
        data = make_data(shape, folder)
        field = contenders(shape, data, folder, running)
        check_same_work(field)
        rates = time_training(shape, field, running["peak"], repeats)
        slow = {f"{name}_gflops": best(rates, name) for name in SLOW}
        trained.append(row_of(shape, rates) | slow)
        if shape in plan.evaluated:
            evaluated.append(row_of(shape, time_evaluation(shape, field, running["peak"], repeats)))
    folds = [time_accumulator(coordinates, repeats) for coordinates in plan.folded]
    return {
        "peak_gflops": median(row["peak_gflops"] for row in trained),
        "shapes": trained,
        "evaluate": evaluated,
        "accumulate": {"sizes": folds},
    }


def title_of(row: dict[str, Any]) -> str:
    return "{features}×{classes} b{batch} {examples} {dtype} {order}".format(**row)


def print_tables(found: dict[str, Any], console: Console) -> None:
    variants = kernels.available_variants()
    peers = ("numpy_gflops", "torch_gflops", "sklearn_gflops")
    for title, rows in (("training", found["shapes"]), ("evaluation", found["evaluate"])):
        table = Table(title=f"{title}, GFLOP/s on one core")
        table.add_column("shape")
        shown = [peer for peer in peers if peer in rows[0]]
        heads = [*variants, *(peer.removesuffix("_gflops") for peer in shown), "peak", "ours/peak", "ours/numpy"]
        for head in heads:
            table.add_column(head, justify="right")
        for row in rows:
            ours, numpy, peak = row["ours_gflops"], row["numpy_gflops"], row["peak_gflops"]
            figures = [*row["variants"].values(), *(row[peer] for peer in shown), peak]
            ratios = [ours / peak, ours / numpy if numpy else None]
            cells = ["–" if v is None else f"{v:.1f}" for v in figures]
            cells += ["–" if v is None else f"{v:.2f}" for v in ratios]
            table.add_row(title_of(row), *cells)
        console.print(table)
    table = Table("coordinates", "accumulate GB/s", "memcpy GB/s", title="exact aggregation")
    for size in found["accumulate"]["sizes"]:
        table.add_row(f"{size['coordinates']:,}", f"{size['accumulate_gb_s']}", f"{size['memcpy_gb_s']}")
    console.print(table)


def main() -> None:
    cores = os.sched_getaffinity(0)
    parser = argparse.ArgumentParser(description="Time the softmax kernel and its peers, on one core.")
    parser.add_argument("--peers-python", type=Path, default=Path(sys.executable), help="interpreter with the peers")
    parser.add_argument("--core", type=int, default=max(cores), choices=sorted(cores), help="core to pin to")
    parser.add_argument("--shapes", default="full", choices=PLANS, help="small: does it run, in seconds (default full)")
    parser.add_argument("--repeats", type=int, default=9, help="turns of each contender (default 9)")
    arguments = parser.parse_args()
    os.sched_setaffinity(0, {arguments.core})  # the children inherit it
    console = Console(width=150)
    peers = installed_peers(arguments.peers_python)
    peak = build_peak()
    with (
        tempfile.TemporaryDirectory(dir=BUILD) as folder,
        children(arguments.peers_python, list(peers), peak) as running,
    ):
        found = measure(PLANS[arguments.shapes], running, Path(folder), arguments.repeats, console)
    print_tables(found, console)
    print(json.dumps({**found, "peers": peers}))


if __name__ == "__main__":
    main()
