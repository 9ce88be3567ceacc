"""Who is timed by ``bench/kernel.py``: our variants, in this process; peers and the FMA peak, in children.

A child waits between requests on the core that it shares with this process, so only one of them works at a time.
Everybody counts CPU seconds of its own process: the turns of strangers on the core are nobody's time.
Invariant: every ``train`` starts from zero weights and passes over the same examples in the same order.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from edgefl import kernels
from edgefl.types import Quantization, TrainConfig, Weights

HERE = Path(__file__).resolve().parent
KEY = bytes(range(16))
NUM_ORDERS = 8
"""Orders of shuffled epochs that the peers are given, so that drawing them is not in their time (it is in ours)."""

UNHINDERED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")
"""Settings that would make OpenBLAS choose another machine's kernels."""

ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
UINT8_SCALE = 1 / 255


@dataclass(frozen=True)
class Shape:
    """What is trained. ``epochs`` are those of one timed call of the fast contenders; the slow ones make one."""

    features: int
    classes: int
    batch: int
    examples: int
    epochs: int
    dtype: str = "float32"
    shuffled: bool = False

    @property
    def order(self) -> str:
        return "shuffled" if self.shuffled else "in_order"

    @property
    def epoch_gflop(self) -> float:
        """Two products of the weights with an example, one FMA each, are 4 * features * classes operations."""
        return 4e-9 * self.features * self.classes * self.examples

    @property
    def rate(self) -> float:
        """Far from the edge of stability (features are uniform in [0, 1)): rounding errors do not grow."""
        return 1 / self.features


@dataclass(frozen=True)
class Data:
    """``x`` (examples, features) float32 or uint8, ``y`` (examples,) int32."""

    x: memoryview
    y: memoryview


def make_data(shape: Shape, folder: Path) -> Data:
    """Uniform features and labels, here and as the files that the peers read."""
    count = shape.examples * shape.features
    words = np.frombuffer(kernels.random_words(KEY, 1, count), dtype=np.uint32)
    high = words >> np.uint32(24 if shape.dtype == "uint8" else 8)
    x = high.astype(np.uint8) if shape.dtype == "uint8" else high.astype(np.float32) * np.float32(2.0**-24)
    labels = np.frombuffer(kernels.random_words(KEY, 2, shape.examples), dtype=np.uint32)
    y = ((labels >> np.uint32(8)) % np.uint32(shape.classes)).astype(np.int32)
    x.tofile(folder / "x")
    y.tofile(folder / "y")
    orders = [kernels.permutation(KEY, epoch, shape.examples) for epoch in range(NUM_ORDERS)]
    np.array(orders, dtype=np.uint32).tofile(folder / "orders")
    return Data(x.reshape(shape.examples, shape.features).data, y.data)


class Contender(Protocol):
    name: str

    def train(self, epochs: int) -> float:
        """CPU seconds."""

    def evaluate(self, passes: int) -> float:
        """CPU seconds, of the weights that the last training left."""

    def weights(self) -> npt.NDArray[np.float32]:
        """The kernel, then the bias, in one vector."""


class Ours:
    """One variant of the kernels."""

    def __init__(self, variant: str, shape: Shape, data: Data) -> None:
        self.name = variant
        self.shape = shape
        self.data = data
        self.trained = Weights.zeros(shape.classes, shape.features)
        self.quantization = Quantization(UINT8_SCALE) if shape.dtype == "uint8" else None

    def train(self, epochs: int) -> float:
        kernels.select_variant(self.name)
        shape = self.shape
        zeros = Weights.zeros(shape.classes, shape.features)
        key = KEY if shape.shuffled else None
        config = TrainConfig(shape.rate, batch_size=shape.batch, local_epochs=epochs, shuffle_key=key)
        start = process_time()
        self.trained, _ = kernels.train_softmax(zeros, self.data.x, self.data.y, config, quantization=self.quantization)
        return process_time() - start

    def evaluate(self, passes: int) -> float:
        kernels.select_variant(self.name)
        start = process_time()
        for _ in range(passes):
            kernels.evaluate_softmax(self.trained, self.data.x, self.data.y, quantization=self.quantization)
        return process_time() - start

    def weights(self) -> npt.NDArray[np.float32]:
        return np.frombuffer(self.trained.to_bytes(), dtype=np.float32)


class Child:
    """A process that answers lines with lines."""

    def __init__(self, command: list[str]) -> None:
        environment = {name: value for name, value in os.environ.items() if name not in UNHINDERED} | ONE_THREAD
        self.command = " ".join(command)
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )

    def ask(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        found = self.process.stdout.readline()
        if not found:
            raise RuntimeError(f"{self.command} ended with exit status {self.process.wait()}; see its output above")
        return found

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


class PeerChild:
    """One layout of one peer's process; what it does stands in ``bench/peers/kernel_peer.py``."""

    def __init__(self, name: str, child: Child, folder: Path, layout: str = "") -> None:
        self.name = name
        self.child = child
        self.folder = folder
        self.layout = layout

    def ask(self, what: str, **more: int) -> dict[str, Any]:
        found = json.loads(self.child.ask(json.dumps({"do": what, "layout": self.layout, **more})))
        assert isinstance(found, dict)
        return found

    def train(self, epochs: int) -> float:
        return float(self.ask("train", epochs=epochs)["seconds"])

    def evaluate(self, passes: int) -> float:
        return float(self.ask("evaluate", passes=passes)["seconds"])

    def weights(self) -> npt.NDArray[np.float32]:
        names = self.ask("weights")
        return np.concatenate([np.fromfile(self.folder / names[part], np.float32) for part in ("kernel", "bias")])


LAYOUTS = {"numpy": {"numpy (F,C)": "FC", "numpy (C,F)": "CF"}, "torch": {"torch": ""}, "sklearn": {"sklearn": ""}}
SLOW = ("torch", "sklearn")
"""They make one epoch in a timed call."""


def installed_peers(python: Path) -> dict[str, str]:
    """The versions of the peers that this interpreter can import."""
    found = {}
    for module in LAYOUTS:
        done = subprocess.run(
            [python, "-c", f"import {module}; print({module}.__version__)"], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            found[module] = done.stdout.strip()
    return found


def prepare_request(shape: Shape, folder: Path) -> str:
    return json.dumps(
        {
            "do": "prepare",
            "folder": str(folder),
            "features": shape.features,
            "classes": shape.classes,
            "batch": shape.batch,
            "examples": shape.examples,
            "dtype": shape.dtype,
            "scale": UINT8_SCALE if shape.dtype == "uint8" else 1.0,
            "rate": shape.rate,
            "shuffled": shape.shuffled,
        }
    )


@contextlib.contextmanager
def children(python: Path, peers: list[str], peaks: dict[str, Path]) -> Iterator[dict[str, Child]]:
    """The processes, by name, ``peaks`` among them; they end with the block."""
    running: dict[str, Child] = {}
    try:
        for name, program in peaks.items():
            running[name] = Child([str(program)])
        for name in peers:
            running[name] = Child([str(python), str(HERE / "peers" / f"kernel_{name}.py")])
        yield running
    finally:
        for child in running.values():
            child.close()


def contenders(shape: Shape, data: Data, folder: Path, running: dict[str, Child]) -> list[Contender]:
    """Everybody who can train this shape, ready to."""
    found: list[Contender] = [Ours(variant, shape, data) for variant in kernels.available_variants()]
    for peer, layouts in LAYOUTS.items():
        if peer in running:
            running[peer].ask(prepare_request(shape, folder))
            found += [PeerChild(name, running[peer], folder, layout) for name, layout in layouts.items()]
    return found
