"""Small synthetic fleets for tests: classes that overlap, clients of different sizes, features of different scales."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from edgefl.types import ClientDataset, DType, Examples, Quantization

Array = npt.NDArray[Any]


def fleet(
    num_clients: int = 4, *, num_features: int = 5, num_classes: int = 3, seed: int = 7, smallest: int = 8
) -> tuple[ClientDataset, ...]:
    """``client-0`` has ``smallest`` float32 examples, each further one three more."""
    rng = np.random.default_rng(seed)
    clients = []
    for index in range(num_clients):
        count = smallest + 3 * index
        labels = rng.integers(0, num_classes, count).astype(np.int32)
        features = rng.normal(size=(count, num_features)) + 0.8 * (
            labels[:, None] == np.arange(num_features) % num_classes
        )
        clients.append(client(f"client-{index}", features.astype(np.float32), labels))
    return tuple(clients)


def client(client_id: str, features: Array, labels: Array, quantization: Quantization | None = None) -> ClientDataset:
    """A client dataset of arrays: ``features`` (n, f) float32, uint8 or int8, ``labels`` (n,)."""
    examples = Examples(
        features.shape[1],
        features.tobytes(),
        labels.astype(np.int32).tobytes(),
        DType(features.dtype.name),
        Quantization() if quantization is None else quantization,
    )
    return ClientDataset(client_id, examples)


def features_of(dataset: ClientDataset) -> Array:
    """(n, f), in the stored dtype."""
    return np.frombuffer(dataset.examples.features, dtype=dataset.examples.dtype.value).reshape(len(dataset), -1)


def labels_of(dataset: ClientDataset) -> Array:
    return np.frombuffer(dataset.examples.labels, dtype=np.int32)


def pooled(clients: Sequence[ClientDataset]) -> ClientDataset:
    return client(
        "pooled",
        np.concatenate([features_of(one) for one in clients]),
        np.concatenate([labels_of(one) for one in clients]),
    )
