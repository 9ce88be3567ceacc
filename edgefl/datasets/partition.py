"""Clients out of a central data set.

    data = datasets.load("fashion_mnist")
    people = datasets.partition(data, datasets.dirichlet(num_clients=100, alpha=0.3), seed=1)

Training examples are dealt as the partitioner says. Where a column makes the clients, test examples go to the clients
of the same column, also to those that have no training example; elsewhere they are dealt evenly, whatever the training
examples are: counts over all clients are then the counts of the whole test set.
"""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any, cast

from edgefl.datasets.central import CentralDataset
from edgefl.datasets.draws import key_of
from edgefl.datasets.federated import FederatedDataset
from edgefl.datasets.partitioners import PARTITIONERS, Partitioner, by_column
from edgefl.errors import ConfigError
from edgefl.kernels import permutation
from edgefl.randomness import PARTITION, PARTITION_TEST
from edgefl.types import ClientDataset, Examples


def partition(data: CentralDataset, how: Partitioner, *, seed: int = 0) -> FederatedDataset:
    """Deal the examples of ``data`` to clients; each goes to exactly one. A pure function of its arguments.

    Raises ``DataError`` when these examples cannot be dealt so, and ``ConfigError`` for a seed out of range.
    """
    shares = how.rows(data.train.labels_view, data.train_columns, key_of(seed, PARTITION))
    kept: dict[str, Sequence[int]] = {}
    held_out: tuple[ClientDataset, ...] = ()
    if data.test is not None:
        kept = _test_rows(data.test, data.test_columns, how, tuple(shares), key_of(seed, PARTITION_TEST))
        held_out = tuple(ClientDataset(client, _take(data.test, rows)) for client, rows in kept.items())
    return FederatedDataset(
        name=data.name,
        num_features=data.num_features,
        num_classes=data.num_classes,
        classes=data.classes,
        clients=tuple(ClientDataset(client, _take(data.train, shares.get(client, ()))) for client in kept or shares),
        held_out=held_out,
        license=data.license,
        source=data.source,
    )


def parse(text: str, num_clients: int | None) -> Partitioner:
    """A partitioner as it is written on a command line: its file's name with ``-`` for ``_``, and after a colon the
    value of its one field beside ``num_clients``: ``iid``, ``dirichlet:0.3``, ``by-size``. Raises ``ConfigError``.
    """
    written, colon, value = text.partition(":")
    name = written.replace("-", "_")
    unknown = name not in PARTITIONERS.names() and name not in PARTITIONERS.installed()
    if unknown or "_" in written or bool(value) != bool(colon):
        raise ConfigError(f"partition is {text!r}; expected one of {', '.join(forms())}")
    kind = PARTITIONERS.load(name)
    counted, option = _fields(kind)
    needs_value = option is not None and option.default is dataclasses.MISSING
    if (value and option is None) or (needs_value and not value):
        raise ConfigError(f"partition is {text!r}; expected one of {', '.join(forms())}")
    if counted and num_clients is None:
        raise ConfigError(f"partition {text!r} has no number of clients; say how many (--clients)")
    if not counted and num_clients is not None:
        raise ConfigError(f"{text!r} makes as many clients as it finds; expected no number (--clients) with it")
    given: dict[str, Any] = {"num_clients": num_clients} if counted else {}
    if value and option is not None:
        try:
            given[option.name] = typing.get_type_hints(kind)[option.name](value)
        except ValueError:
            raise ConfigError(f"partition is {text!r}; expected a number after the colon") from None
    return cast(Partitioner, kind(**given))


def forms() -> tuple[str, ...]:
    """How each partitioner is written, for errors: ``by-size[:EXPONENT]``."""
    return tuple(_form(name) for name in (*PARTITIONERS.names(), *PARTITIONERS.installed()))


def _form(name: str) -> str:
    _, option = _fields(PARTITIONERS.load(name))
    written = name.replace("_", "-")
    if option is None:
        return written
    value = f":{option.name.upper()}"
    return f"{written}{value}" if option.default is dataclasses.MISSING else f"{written}[{value}]"


def _fields(kind: type[Any]) -> tuple[bool, dataclasses.Field[Any] | None]:
    """Whether a partitioner must be told how many clients to make; and its other field, if it has one."""
    fields = {field.name: field for field in dataclasses.fields(kind)}
    counted = fields.pop("num_clients", None) is not None
    if len(fields) > 1:
        raise ConfigError(f"partitioner {kind.__name__!r} has the fields {', '.join(fields)}; expected at most one")
    return counted, next(iter(fields.values()), None)


def _test_rows(
    test: Examples, columns: Mapping[str, tuple[str, ...]], how: Partitioner, clients: Sequence[str], key: bytes
) -> dict[str, Sequence[int]]:
    """The test rows of each of ``clients``, in their order, and then of those that have no others; some have none."""
    count = len(test)
    if isinstance(how, by_column):
        found = how.rows(test.labels_view, columns, key)
        return {client: found.get(client, ()) for client in dict.fromkeys((*clients, *found))}
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
