"""What the peers of the kernel bench share: the data, and the loop that answers requests.

A peer is a process that the bench started, pinned to its core, and that waits between requests, so that repeats of all
contenders interleave in time. It reads one JSON object a line and answers with one:

    {"do": "prepare", "folder", "features", "classes", "batch", "examples", "dtype", "scale", "rate", "shuffled"} -> {}
                                            (and "client_examples": of each client of a federated training)
    {"do": "train", "layout", "epochs"}     -> {"seconds"}: CPU seconds, from zero weights
    {"do": "evaluate", "layout", "passes"}  -> {"seconds", "correct", "loss"}: of the weights that training left
    {"do": "weights", "layout"}             -> {"kernel", "bias"}: names of files of float32, kernel (classes, features)
"""

from __future__ import annotations

import json
import sys
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Job:
    """A shape and its data: ``x`` (examples, features) float32 or uint8, ``y`` int32, ``orders`` (any, examples).

    ``client_examples``: how many of them in a row are one client's, where clients train.
    """

    folder: Path
    features: int
    classes: int
    batch: int
    scale: float
    rate: float
    x: npt.NDArray[Any]
    y: npt.NDArray[np.int32]
    orders: npt.NDArray[np.uint32] | None
    client_examples: int

    def order_of(self, epoch: int) -> npt.NDArray[np.uint32] | None:
        """The order of this epoch, drawn by our generator; the few that were drawn repeat."""
        return None if self.orders is None else self.orders[epoch % len(self.orders)]


def read_job(request: dict[str, Any]) -> Job:
    folder = Path(request["folder"])
    n, features = request["examples"], request["features"]
    return Job(
        folder=folder,
        features=features,
        classes=request["classes"],
        batch=request["batch"],
        scale=request["scale"],
        rate=request["rate"],
        x=np.fromfile(folder / "x", dtype=request["dtype"]).reshape(n, features),
        y=np.fromfile(folder / "y", dtype=np.int32),
        orders=np.fromfile(folder / "orders", dtype=np.uint32).reshape(-1, n) if request["shuffled"] else None,
        client_examples=request.get("client_examples", n),
    )


class Peer(ABC):
    """One contender. Buffers are made in ``prepare``, outside the time that is taken."""

    @abstractmethod
    def prepare(self, job: Job) -> None: ...

    @abstractmethod
    def train(self, layout: str, epochs: int) -> None:
        """Mini-batch SGD of softmax cross-entropy from zero weights."""

    def weights(self, layout: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """The kernel (classes, features) and the bias that training left."""
        raise NotImplementedError(layout)

    def evaluate(self, layout: str) -> tuple[int, float]:
        """Correct predictions, and the sum of losses, over all examples."""
        raise NotImplementedError(layout)


def answer(peer: Peer, request: dict[str, Any], folder: Path) -> dict[str, Any]:
    layout = request.get("layout", "")
    start = process_time()
    if request["do"] == "train":
        peer.train(layout, request["epochs"])
        return {"seconds": process_time() - start}
    if request["do"] == "evaluate":
        for _ in range(request["passes"]):
            correct, loss = peer.evaluate(layout)
        return {"seconds": process_time() - start, "correct": correct, "loss": loss}
    kernel, bias = peer.weights(layout)
    np.ascontiguousarray(kernel, dtype=np.float32).tofile(folder / "kernel")
    np.ascontiguousarray(bias, dtype=np.float32).tofile(folder / "bias")
    return {"kernel": "kernel", "bias": "bias"}


def serve(peer: Peer) -> None:
    """Answers requests until standard input ends."""
    folder = Path()
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "prepare":
            job = read_job(request)
            folder = job.folder
            peer.prepare(job)
            found: dict[str, Any] = {}
        else:
            found = answer(peer, request, folder)
        print(json.dumps(found), flush=True)
