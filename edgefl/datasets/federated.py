"""A data set as a fleet holds it: one training part and one held-out part for each client.

Invariants, checked when one is made: client ids are unique; the held-out part is absent, or has the same ids in the
same order; all parts share one number of features, dtype and quantization; labels are 0 to ``num_classes - 1``.
Free of NumPy.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgefl.classes import check_classes
from edgefl.errors import DataError
from edgefl.types import ClientDataset, Examples, check_shape


@dataclass(frozen=True)
class FederatedDataset:
    """Clients with their examples.

    ``clients``      the training part of each client.
    ``held_out``     what is kept for evaluation: same ids, same order; an empty tuple when the data set holds nothing
                     out. Either part of a client may have no example, but not both: see ``unseen``.
    ``classes``      the names of the classes in index order; () when they have none.
    ``license``      the data's license; empty for a user's own file.
    ``source``       where the data comes from.
    """

    name: str
    num_features: int
    num_classes: int
    clients: tuple[ClientDataset, ...] = field(repr=False)
    held_out: tuple[ClientDataset, ...] = field(repr=False)
    classes: tuple[str, ...] = ()
    license: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        check_shape(self.num_classes, self.num_features)
        check_classes(self.classes, self.num_classes, DataError)
        ids = [client.client_id for client in self.clients]
        if not ids or len(set(ids)) != len(ids):
            raise DataError(
                f"{self.name} has {len(ids)} clients of {len(set(ids))} ids; expected at least one, all unique"
            )
        if self.held_out and [part.client_id for part in self.held_out] != ids:
            raise DataError(f"the held-out part of {self.name} has other clients than the training part")
        for client, kept in zip(self.clients, self.held_out or self.clients, strict=True):
            if not len(client) and not len(kept):
                raise DataError(f"client {client.client_id!r} has no example; give it at least one, or leave it out")
        first = self.clients[0].examples
        for part in (*self.clients, *self.held_out):
            _check_same_kind(first, part)
            labels = part.examples.labels_view
            if len(labels) and not 0 <= min(labels) <= max(labels) < self.num_classes:
                raise DataError(
                    f"client {part.client_id!r} has labels {min(labels)} to {max(labels)}; "
                    f"expected 0 to {self.num_classes - 1}"
                )
        if first.num_features != self.num_features:
            raise DataError(
                f"{self.name} declares {self.num_features} features, its examples have {first.num_features}"
            )

    @property
    def num_examples(self) -> int:
        """Training examples of all clients."""
        return sum(len(client) for client in self.clients)

    @property
    def unseen(self) -> tuple[ClientDataset, ...]:
        """The held-out parts of the clients that have no training example: what no model has seen any of."""
        seen = {client.client_id for client in self.clients if len(client)}
        return tuple(part for part in self.held_out if part.client_id not in seen)

    @property
    def digest(self) -> str:
        """SHA-256 over ids, features and labels of both parts, 64 hexadecimal digits: equal digests, equal bytes."""
        digest = hashlib.sha256(b"edgefl-dataset-v1")
        for parts in (self.clients, self.held_out):
            digest.update(len(parts).to_bytes(8, "little"))
            for part in parts:
                for raw in (part.client_id.encode(), part.examples.features, part.examples.labels):
                    digest.update(len(raw).to_bytes(8, "little"))
                    digest.update(raw)
        return digest.hexdigest()


def pool(clients: Sequence[ClientDataset]) -> Examples:
    """The examples of all clients one after another, in the given order.

    No fleet can do this: it is the comparison that a simulation is measured against. Raises ``DataError`` when there
    is not a client, or when they differ in features, dtype or quantization.
    """
    if not clients:
        raise DataError("the data set has no clients to pool; expected at least one")
    first = clients[0].examples
    for client in clients:
        _check_same_kind(first, client)
    return Examples(
        first.num_features,
        b"".join(client.examples.features for client in clients),
        b"".join(client.examples.labels for client in clients),
        first.dtype,
        first.quantization,
    )


def _check_same_kind(first: Examples, client: ClientDataset) -> None:
    found = client.examples
    if (found.num_features, found.dtype, found.quantization) != (first.num_features, first.dtype, first.quantization):
        raise DataError(f"client {client.client_id!r} has {_kind(found)}; the first client has {_kind(first)}")


def _kind(examples: Examples) -> str:
    return f"{examples.num_features} {examples.dtype.value} features ({examples.quantization})"
