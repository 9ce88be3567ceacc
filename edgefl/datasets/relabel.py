"""The names of a data set's classes in another order: the one that a task declares."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import replace
from typing import overload

from edgefl.classes import check_classes, expected_name, listed
from edgefl.datasets.central import CentralDataset
from edgefl.datasets.federated import FederatedDataset
from edgefl.errors import DataError
from edgefl.types import ClientDataset, Examples


@overload
def with_classes(data: FederatedDataset, classes: tuple[str, ...]) -> FederatedDataset: ...
@overload
def with_classes(data: CentralDataset, classes: tuple[str, ...]) -> CentralDataset: ...
def with_classes(
    data: FederatedDataset | CentralDataset, classes: tuple[str, ...]
) -> FederatedDataset | CentralDataset:
    """``data`` with ``classes`` in that order, and its labels renumbered. () leaves it as it is.

    ``classes`` may have names that the data set does not have. A data set without names gets these for its indexes.

    Raises ``DataError`` for a data set with a name that is not one of them, or with more classes;
    ``ConfigError`` for what cannot be names.
    """
    if not classes or classes == data.classes:
        return data
    check_classes(classes, len(classes))
    if not data.classes and data.num_classes > len(classes):
        raise DataError(
            f"{data.name} has {data.num_classes} classes; expected at most {len(classes)}: {listed(classes)}"
        )
    for name in data.classes:
        if name not in classes:
            found = f"{data.name} has the classes {listed(data.classes)}"
            raise DataError(f"{found}: {name!r} is unknown; {expected_name(name, classes)}")
    indexes = [classes.index(name) for name in data.classes] or range(data.num_classes)
    count = len(classes)
    if isinstance(data, CentralDataset):
        test = None if data.test is None else _relabel(data.test, indexes)
        return replace(data, num_classes=count, classes=classes, train=_relabel(data.train, indexes), test=test)
    clients, held_out = (
        tuple(ClientDataset(part.client_id, _relabel(part.examples, indexes)) for part in parts)
        for parts in (data.clients, data.held_out)
    )
    return replace(data, num_classes=count, classes=classes, clients=clients, held_out=held_out)


def _relabel(examples: Examples, indexes: Sequence[int]) -> Examples:
    return replace(examples, labels=array("i", [indexes[label] for label in examples.labels_view]).tobytes())
