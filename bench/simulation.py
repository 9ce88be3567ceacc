"""Federated averaging in simulation: whole rounds, compared with their trainings alone and with a NumPy loop.

Run by ``make bench-simulation``; docs/benchmarks.md says what the figures mean. A round is ``process.next`` of
``learning.build_weighted_fed_avg``: train, encode, decode, check, fold, finalize. Before the time is taken, the first
round is compared with federated averaging in float64. Contenders take turns; a figure is the median of its turns. The
last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any

import numpy as np
import numpy.typing as npt
from contenders import HERE, Child, Data, PeerChild, Shape, make_data, prepare_request
from rich.console import Console
from rich.table import Table

import edgefl
from edgefl import kernels, learning, optimizers
from edgefl.learning import TrainingProcess
from edgefl.learning.in_process import CLIENTS_AT_ONCE
from edgefl.protocol.process import ProcessState
from edgefl.types import ClientDataset, Examples, TrainConfig

BUILD = HERE.parent / "build" / "bench"
FEATURES, CLASSES, BATCH = 784, 10, 20
CLIENT_EXAMPLES = 100
RATE = 0.01
"""Far from the edge of stability for uniform features: rounding errors do not grow."""

FIRST_ROUND_TOLERANCE = 1e-6
LATER_TOLERANCE = 1e-4
"""Of a weight; float32 in another order of summation drifts over the rounds of a turn."""

Floats64 = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fleet:
    """Clients of ``CLIENT_EXAMPLES`` each, and how many rounds a turn makes of them."""

    clients: tuple[ClientDataset, ...]
    rounds: int

    @property
    def shape(self) -> Shape:
        examples = len(self.clients) * CLIENT_EXAMPLES
        return Shape(FEATURES, CLASSES, BATCH, examples=examples, epochs=self.rounds)


def make_fleet(num_clients: int, updates: int, folder: Path) -> Fleet:
    """Uniform features, here and as the files that the peer reads; ``updates``: client updates of a turn, about."""
    shape = Shape(FEATURES, CLASSES, BATCH, examples=num_clients * CLIENT_EXAMPLES, epochs=1)
    data = make_data(shape, folder)
    clients = [ClientDataset(f"client-{index}", _examples(data, index)) for index in range(num_clients)]
    return Fleet(tuple(clients), max(1, updates // num_clients))


def _examples(data: Data, index: int) -> Examples:
    rows = slice(index * CLIENT_EXAMPLES, (index + 1) * CLIENT_EXAMPLES)
    return Examples(FEATURES, data.x[rows].tobytes(), data.y[rows].tobytes())


def build(*, shuffle: bool) -> TrainingProcess:
    model = edgefl.SoftmaxModel(num_features=FEATURES, num_classes=CLASSES)
    return learning.build_weighted_fed_avg(model, optimizers.sgd(RATE), batch_size=BATCH, shuffle=shuffle)


def run_rounds(process: TrainingProcess, fleet: Fleet, rounds: int) -> ProcessState:
    state = process.initialize()
    for _ in range(rounds):
        state, _metrics = process.next(state, fleet.clients)
    return state


class KernelAlone:
    """The trainings of the rounds and nothing else: no encoding, check, fold or finalization."""

    def __init__(self, fleet: Fleet) -> None:
        config = TrainConfig(RATE, batch_size=BATCH)
        views = [(client.examples.features_view, client.examples.labels_view) for client in fleet.clients]
        jobs = [kernels.CohortClient(features, labels, config) for features, labels in views]
        self.parts = [jobs[first : first + CLIENTS_AT_ONCE] for first in range(0, len(jobs), CLIENTS_AT_ONCE)]
        process = build(shuffle=False)
        self.start = process.get_model(run_rounds(process, fleet, 1))
        self.rounds = fleet.rounds

    def __call__(self) -> None:
        for _ in range(self.rounds):
            for part in self.parts:
                for result in kernels.train_cohort(self.start, part, deltas=True):
                    result.get()


def float64_round(fleet: Fleet) -> Floats64:
    """The first round of federated averaging as the paper has it, in NumPy and float64: kernel, then bias."""
    total = np.zeros(CLASSES * (FEATURES + 1))
    for client in fleet.clients:
        x = np.asarray(client.examples.features_view, np.float64)
        onehot = np.eye(CLASSES)[np.asarray(client.examples.labels_view)]
        kernel, bias = np.zeros((CLASSES, FEATURES)), np.zeros(CLASSES)
        for first in range(0, len(x), BATCH):
            rows, wanted = x[first : first + BATCH], onehot[first : first + BATCH]
            p = np.exp(rows @ kernel.T + bias)
            error = (p / p.sum(axis=1, keepdims=True) - wanted) / len(rows)
            kernel -= RATE * (error.T @ rows)
            bias -= RATE * error.sum(axis=0)
        total += np.concatenate([kernel.ravel(), bias]) * len(x)
    return total / sum(len(client) for client in fleet.clients)


def check_first_round(found: npt.NDArray[np.float32], fleet: Fleet) -> float:
    """The largest error of a weight. Ends the program when it is too large."""
    error = float(np.abs(found - float64_round(fleet)).max())
    if error > FIRST_ROUND_TOLERANCE:
        raise SystemExit(f"the first round is {error:.1e} off; at most {FIRST_ROUND_TOLERANCE} expected")
    return error


def check_peer(expected: npt.NDArray[np.float32], peer: PeerChild) -> None:
    error = float(np.abs(peer.weights() - expected).max())
    if error > LATER_TOLERANCE:
        raise SystemExit(f"{peer.name}: weights differ by {error:.1e}, at most {LATER_TOLERANCE} expected")


def numbers_of(state: ProcessState) -> npt.NDArray[np.float32]:
    return np.frombuffer(state.model, np.float32)


def timed(work: Callable[[], object], cores: int) -> float:
    """Core seconds: of this process on one core; on more, where a core may wait, all cores for as long as it took."""
    clock = process_time if cores == 1 else perf_counter
    start = clock()
    work()
    return cores * (clock() - start)


def measure(fleet: Fleet, child: Child, folder: Path, cores: int, repeats: int) -> dict[str, Any]:
    """Client updates per core second of everybody, by name: the median, lowest and highest of the turns."""
    request = json.loads(prepare_request(fleet.shape, folder)) | {"rate": RATE, "client_examples": CLIENT_EXAMPLES}
    child.ask(json.dumps(request))
    peers = [PeerChild(f"numpy ({layout})", child, folder, layout) for layout in ("FC", "CF")]
    in_order, shuffled = build(shuffle=False), build(shuffle=True)
    error = check_first_round(numbers_of(run_rounds(in_order, fleet, 1)), fleet)
    last = numbers_of(run_rounds(in_order, fleet, fleet.rounds))
    for peer in peers:
        peer.train(fleet.rounds)
        check_peer(last, peer)
    alone = KernelAlone(fleet)
    alone()
    run_rounds(shuffled, fleet, 1)
    seconds: dict[str, list[float]] = defaultdict(list)
    for _ in range(repeats):
        seconds["ours"].append(timed(lambda: run_rounds(in_order, fleet, fleet.rounds), cores))
        seconds["kernel alone"].append(timed(alone, cores))
        seconds["ours, shuffled"].append(timed(lambda: run_rounds(shuffled, fleet, fleet.rounds), cores))
        for peer in peers:
            seconds[peer.name].append(peer.train(fleet.rounds))
    updates = len(fleet.clients) * fleet.rounds
    rates = {name: sorted(updates / taken for taken in found) for name, found in seconds.items()}
    return {"first_round_error": error, "rates": {name: (median(r), r[0], r[-1]) for name, r in rates.items()}}


def row_of(num_clients: int, found: dict[str, Any]) -> dict[str, Any]:
    rates = {name: rate[0] for name, rate in found["rates"].items()}
    numpy = max(rates["numpy (FC)"], rates["numpy (CF)"])
    return {
        "clients": num_clients,
        "ours_client_updates_per_s_per_core": round(rates["ours"]),
        "ours_shuffled_client_updates_per_s_per_core": round(rates["ours, shuffled"]),
        "kernel_alone": round(rates["kernel alone"]),
        "numpy_client_updates_per_s": round(numpy),
        "ours_by_kernel_alone": round(rates["ours"] / rates["kernel alone"], 3),
        "ours_by_numpy": round(rates["ours"] / numpy, 3),
        "first_round_error": found["first_round_error"],
    }


def print_table(num_clients: int, found: dict[str, Any], cores: int, console: Console) -> None:
    table = Table(
        "", "client updates/s of a core", "lowest to highest", "ours / this", title=f"{num_clients:,} clients"
    )
    ours = found["rates"]["ours"][0]
    for name, (rate, low, high) in found["rates"].items():
        table.add_row(name, f"{rate:,.0f}", f"{low:,.0f} to {high:,.0f}", f"{ours / rate:.2f}")
    console.print(table)
    console.print(
        f"{cores} core{'s' * (cores > 1)}, variant {kernels.active_variant()}, {os.cpu_count()} cores here, "
        f"load {os.getloadavg()[0]:.1f}; first round {found['first_round_error']:.1e} from float64",
        highlight=False,
    )


def main() -> None:
    available = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(
        description="Time simulated federated averaging, compared with the kernel and NumPy."
    )
    parser.add_argument("--cores", type=int, default=1, choices=range(1, len(available) + 1), help="(default 1)")
    parser.add_argument("--clients", type=int, nargs=2, default=(10, 1000), help="few and many (default 10 1000)")
    parser.add_argument("--updates", type=int, default=4000, help="client updates of a turn, about (default 4000)")
    parser.add_argument("--repeats", type=int, default=9, help="turns of each contender (default 9)")
    parser.add_argument("--quick", action="store_true", help="does it run, in seconds: its figures mean nothing")
    arguments = parser.parse_args()
    few, many = (2, 3) if arguments.quick else arguments.clients
    updates, repeats = (4, 1) if arguments.quick else (arguments.updates, arguments.repeats)
    os.sched_setaffinity(0, set(available[-arguments.cores :]))
    BUILD.mkdir(parents=True, exist_ok=True)
    console = Console(width=120)
    rows = []
    for num_clients in (few, many):
        child = Child([sys.executable, str(HERE / "peers" / "fedavg_numpy.py")])
        try:
            with tempfile.TemporaryDirectory(dir=BUILD) as folder:
                fleet = make_fleet(num_clients, updates, Path(folder))
                found = measure(fleet, child, Path(folder), arguments.cores, repeats)
        finally:
            child.close()
        print_table(num_clients, found, arguments.cores, console)
        rows.append(row_of(num_clients, found))
    print(json.dumps({**rows[0], "cores": arguments.cores, "variant": kernels.active_variant(), "large": rows[1]}))


if __name__ == "__main__":
    main()
