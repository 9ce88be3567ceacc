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
    Shape(784, 10, 32, examples=256, epochs=100),  # 0.8 MB: no second-level cache below 1 MB holds them
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

PEAKS = ("peak", "avx2_peak")
"""Of the widest vectors; of AVX2, None where the machine has none wider."""

COORDINATE_BYTES = 20
"""Moved by folding one coordinate: 4 of the delta are read, 8 of the sum are read and written."""


def build_peaks() -> dict[str, Path]:
    """Programs by the name of their figure: ``peak``, and that of AVX2 alone where the machine has more."""
    BUILD.mkdir(parents=True, exist_ok=True)
    flags = {"peak": ["-march=native"]}
    if "avx512" in kernels.available_variants():
        flags["avx2_peak"] = ["-mavx2", "-mfma"]
    for name, allowed in flags.items():
        command = [os.environ.get("CC", "cc"), "-O2", *allowed, str(HERE / "peak.c"), "-o", str(BUILD / name)]
        subprocess.run(command, check=True)
    return {name: BUILD / name for name in flags}


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


def time_training(shape: Shape, field: list[Contender], peaks: dict[str, Child], repeats: int) -> dict[str, float]:
    """GFLOP/s of everybody by name, of our variants' single epochs (``one epoch of NAME``), and of ``peaks`` meanwhile.

    A client of a federation trains one epoch in a call, which checks the features in it."""
    seconds: dict[str, list[float]] = defaultdict(list)
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        ask_peaks(peaks, found)
        for contender in field:
            if contender.name in kernels.available_variants():
                seconds[f"one epoch of {contender.name}"].append(contender.train(1))
            taken = seconds[contender.name]
            if len(taken) >= SLOW_REPEATS and median(taken) > SLOW_SECONDS:
                continue
            epochs = 1 if contender.name in SLOW else shape.epochs
            taken.append(contender.train(epochs) / epochs)
    rates = {name: shape.epoch_gflop / median(taken) for name, taken in seconds.items()}
    return {**{name: median(peak) for name, peak in found.items()}, **rates}


def ask_peaks(peaks: dict[str, Child], found: dict[str, list[float]]) -> None:
    for name, child in peaks.items():
        found[name].append(float(child.ask("")))


def time_evaluation(shape: Shape, field: list[Contender], peaks: dict[str, Child], repeats: int) -> dict[str, float]:
    """As ``time_training``, of one product of the weights with every example."""
    seconds: dict[str, list[float]] = defaultdict(list)
    found: dict[str, list[float]] = defaultdict(list)
    can = [contender for contender in field if contender.name not in SLOW]
    for _ in range(repeats):
        ask_peaks(peaks, found)
        for contender in can:
            seconds[contender.name].append(contender.evaluate(shape.epochs) / shape.epochs)
    rates = {name: shape.epoch_gflop / 2 / median(taken) for name, taken in seconds.items()}
    return {**{name: median(peak) for name, peak in found.items()}, **rates}


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
        "avx2_peak_gflops": best(rates, "avx2_peak"),
        "ours_gflops": best(rates, kernels.active_variant()),
        "variants": {name: best(rates, name) for name in kernels.available_variants()},
        "numpy_gflops": best(rates, "numpy (F,C)", "numpy (C,F)"),
    }


def measure(plan: Plan, running: dict[str, Child], folder: Path, repeats: int, console: Console) -> dict[str, Any]:
    trained, evaluated = [], []
    peaks = {name: child for name, child in running.items() if name in PEAKS}
    for shape in plan.trained:
        console.print(title_of({**vars(shape), "order": shape.order}), highlight=False)
        data = make_data(shape, folder)
        field = contenders(shape, data, folder, running)
        check_same_work(field)
        rates = time_training(shape, field, peaks, repeats)
        slow = {f"{name}_gflops": best(rates, name) for name in SLOW}
        single = {name: best(rates, f"one epoch of {name}") for name in kernels.available_variants()}
        trained.append(row_of(shape, rates) | slow | {"one_epoch": single})
        if shape in plan.evaluated:
            evaluated.append(row_of(shape, time_evaluation(shape, field, peaks, repeats)))
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
        wider = rows[0]["avx2_peak_gflops"] is not None
        heads += ["avx2/its peak"] if wider else []
        heads += ["one epoch/peak"] if "one_epoch" in rows[0] else []
        heads += ["avx2 one epoch/its peak"] if "one_epoch" in rows[0] and wider else []
        for head in heads:
            table.add_column(head, justify="right")
        for row in rows:
            ours, numpy, peak = row["ours_gflops"], row["numpy_gflops"], row["peak_gflops"]
            figures = [*row["variants"].values(), *(row[peer] for peer in shown), peak]
            ratios = [ours / peak, ours / numpy if numpy else None]
            ratios += [row["variants"]["avx2"] / row["avx2_peak_gflops"]] if wider else []
            ratios += [row["one_epoch"][variants[-1]] / peak] if "one_epoch" in row else []
            ratios += [row["one_epoch"]["avx2"] / row["avx2_peak_gflops"]] if "one_epoch" in row and wider else []
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
    console = Console(width=180)
    peers = installed_peers(arguments.peers_python)
    peaks = build_peaks()
    with (
        tempfile.TemporaryDirectory(dir=BUILD) as folder,
        children(arguments.peers_python, list(peers), peaks) as running,
    ):
        found = measure(PLANS[arguments.shapes], running, Path(folder), arguments.repeats, console)
    print_tables(found, console)
    print(json.dumps({**found, "peers": peers}))


if __name__ == "__main__":
    main()
