"""Clients out of a central data set.

    data = datasets.load("fashion_mnist")
    people = datasets.partition(data, datasets.dirichlet(num_clients=100, alpha=0.3), seed=1)

Training examples are dealt as the partitioner says. Test examples go to the clients of the same column where a column
makes the clients; otherwise they are dealt evenly, whatever the training examples are: counts over all clients are then
the counts of the whole test set.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from edgefl.datasets.central import CentralDataset
from edgefl.datasets.federated import FederatedDataset
from edgefl.datasets.partitioners import Partitioner, by_class, by_column, by_size, dirichlet, iid
from edgefl.errors import ConfigError, DataError
from edgefl.kernels import permutation
from edgefl.randomness import PARTITION, PARTITION_TEST, derive_key
from edgefl.types import ClientDataset, Examples

MAX_SEED = 2**63 - 1
"""As a task's seed."""


def partition(data: CentralDataset, how: Partitioner, *, seed: int = 0) -> FederatedDataset:
    """Deal the examples of ``data`` to clients; each goes to exactly one. A pure function of its arguments.

    Raises ``DataError`` when these examples cannot be dealt so, and ``ConfigError`` for a seed out of range.
    """
    if not 0 <= seed <= MAX_SEED:
        raise ConfigError(f"seed is {seed}; expected 0 to 2**63 - 1")
    shares = how.rows(data.train.labels_view, data.train_columns, derive_key(seed, 0, "", PARTITION))
    held_out: tuple[ClientDataset, ...] = ()
    if data.test is not None:
        kept = _test_rows(data, how, tuple(shares), derive_key(seed, 0, "", PARTITION_TEST))
        held_out = tuple(ClientDataset(client, _take(data.test, rows)) for client, rows in kept.items())
    return FederatedDataset(
        name=data.name,
        num_features=data.num_features,
        num_classes=data.num_classes,
        label_names=data.label_names,
        clients=tuple(ClientDataset(client, _take(data.train, rows)) for client, rows in shares.items()),
        held_out=held_out,
        license=data.license,
        source=data.source,
    )


def parse(text: str, num_clients: int | None) -> Partitioner:
    """A partitioner as it is written on a command line: ``iid``, ``dirichlet:0.3``, ``by-class:2``, ``by-size`` or
    ``by-size:1.5``, ``by-column:NAME``. ``num_clients`` is for all but the last. Raises ``ConfigError``.
    """
    name, _, value = text.partition(":")
    if name == "by-column" and value:
        if num_clients is not None:
            raise ConfigError(
                f"{text!r} makes a client of each value; expected no number of clients (--clients) with it"
            )
        return by_column(value)
    if name not in _WAYS or (not value and name not in _DEFAULTS) or (value and name == "iid"):
        raise ConfigError(f"partition is {text!r}; expected one of {', '.join(FORMS)}")
    if num_clients is None:
        raise ConfigError(f"partition {text!r} has no number of clients; say how many (--clients)")
    try:
        return _WAYS[name](num_clients, value or _DEFAULTS[name])
    except ValueError:
        raise ConfigError(f"partition is {text!r}; expected a number after the colon") from None


FORMS = ("iid", "dirichlet:ALPHA", "by-class:CLASSES", "by-size[:EXPONENT]", "by-column:NAME")

_DEFAULTS = {"iid": "", "by-size": "1"}

_WAYS: dict[str, Callable[[int, str], Partitioner]] = {
    "iid": lambda num_clients, _: iid(num_clients),
    "dirichlet": lambda num_clients, value: dirichlet(num_clients, float(value)),
    "by-class": lambda num_clients, value: by_class(num_clients, int(value)),
    "by-size": lambda num_clients, value: by_size(num_clients, float(value)),
}


def _test_rows(data: CentralDataset, how: Partitioner, clients: Sequence[str], key: bytes) -> dict[str, Sequence[int]]:
    """The test rows of each of ``clients``, in their order; some may have none."""
    assert data.test is not None
    count = len(data.test)
    if isinstance(how, by_column):
        found = how.rows(data.test.labels_view, data.test_columns, key)
        known = set(clients)
        only = [value for value in found if value not in known]
        if only:
            raise DataError(f"client {only[0]!r} has no training example; give it at least one, or leave it out")
        return {client: found.get(client, ()) for client in clients}
    order = permutation(key, 0, count)
    return {client: order[index :: len(clients)] for index, client in enumerate(clients)}


def _take(examples: Examples, rows: Sequence[int]) -> Examples:
    """The given rows, in the given order."""
    width = examples.num_features * examples.dtype.size_bytes
    features, labels = memoryview(examples.features), memoryview(examples.labels)
    return Examples(
        examples.num_features,
        b"".join(features[row * width : (row + 1) * width] for row in rows),
        b"".join(labels[row * 4 : (row + 1) * 4] for row in rows),
        examples.dtype,
        examples.quantization,
    )
