"""Whole clients that are kept out of training: what a model does for people whom it has never seen.

    people = datasets.hold_out_clients(datasets.load("watch"), 3, seed=1)
    evaluate(train.get_model(state), people.unseen)

A client that is held out keeps all its examples, as held-out ones. Which clients these are is a pure function of the
clients' ids and the seed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

from edgefl.datasets.draws import key_of
from edgefl.datasets.federated import FederatedDataset, pool
from edgefl.errors import ConfigError, DataError
from edgefl.kernels import permutation
from edgefl.randomness import PARTITION_CLIENTS
from edgefl.types import ClientDataset, Examples, check_whole


def hold_out_clients(data: FederatedDataset, num_clients: int | float, *, seed: int = 0) -> FederatedDataset:
    """``data`` whose ``num_clients`` clients, drawn by ``seed``, have held-out examples alone.

    ``num_clients``  a whole number from 1, or a fraction of the clients with training examples, such as 0.2, which is
                     rounded to the nearest whole number, and up to 1.

    Raises ``ConfigError`` for a number or a seed out of range, and ``DataError`` when no client would be left to train.
    """
    key = key_of(seed, PARTITION_CLIENTS)
    ids = sorted(client.client_id for client in data.clients if len(client))
    count = _count(num_clients, len(ids))
    if count >= len(ids):
        raise DataError(
            f"{count} clients to hold out, and {data.name} has {len(ids)} with training examples; expected fewer: one "
            "must be left to train"
        )
    order = permutation(key, 0, len(ids))
    chosen = {ids[index] for index in order[:count]}
    kept: Sequence[ClientDataset] = data.held_out or [_without(client) for client in data.clients]
    return replace(
        data,
        clients=tuple(_without(client) if client.client_id in chosen else client for client in data.clients),
        held_out=tuple(
            ClientDataset(client.client_id, pool([client, own])) if client.client_id in chosen else own
            for client, own in zip(data.clients, kept, strict=True)
        ),
    )


def parse_count(text: str) -> int | float:
    """``3`` or ``0.2`` of a command line. Raises ``ConfigError``."""
    try:
        return int(text) if text.isascii() and text.isdigit() else float(text)
    except ValueError:
        raise ConfigError(
            f"{text!r} is not a number of clients; expected a whole number, or a fraction as 0.2"
        ) from None


def _count(wanted: int | float, available: int) -> int:
    if isinstance(wanted, float):
        if not 0 < wanted < 1:
            raise ConfigError(
                f"num_clients is {wanted!r}; expected a whole number from 1, or a fraction between 0 and 1"
            )
        return max(1, math.floor(Fraction(repr(wanted)) * available + Fraction(1, 2)))
    check_whole("num_clients", wanted)
    if wanted < 1:
        raise ConfigError(f"num_clients is {wanted}; expected at least 1, or a fraction between 0 and 1")
    return wanted


def _without(client: ClientDataset) -> ClientDataset:
    """The client without its examples, of the kind that they were."""
    like = client.examples
    return ClientDataset(client.client_id, Examples(like.num_features, b"", b"", like.dtype, like.quantization))
