"""A data set in one place: examples without clients, as public data sets and most files are.

``edgefl.datasets.partition`` makes clients of one. Free of NumPy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from edgefl.classes import check_classes
from edgefl.datasets.federated import FederatedDataset, pool
from edgefl.errors import DataError
from edgefl.types import Examples, check_shape

CLIENT = "client"
"""The column that holds the clients' ids, where a data set has one."""


@dataclass(frozen=True)
class CentralDataset:
    """Training and test examples.

    ``num_classes``   labels are below it.
    ``classes``       their names in index order; () when they have none.
    ``train``         at least one example.
    ``test``          what is kept for evaluation; None when the data set holds nothing out.
    ``train_columns`` by name, one text for each training example: what is known of it besides its features.
    ``test_columns``  the same columns of the test examples; none without ``test``.
    ``license``       the data's license; empty for a user's own file.
    ``source``        where the data comes from.

    Raises ``DataError`` for parts that do not fit each other.
    """

    name: str
    num_classes: int
    train: Examples = field(repr=False)
    test: Examples | None = field(default=None, repr=False)
    train_columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    test_columns: Mapping[str, tuple[str, ...]] = field(default_factory=dict, repr=False)
    classes: tuple[str, ...] = ()
    license: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        check_shape(self.num_classes, self.num_features)
        check_classes(self.classes, self.num_classes, DataError)
        if not len(self.train):
            raise DataError(f"{self.name} has no training example; expected at least one")
        if self.test is not None and _kind(self.test) != _kind(self.train):
            raise DataError(f"the test part of {self.name} has other features than the training part")
        if self.test is not None and self.test_columns.keys() != self.train_columns.keys():
            raise DataError(f"the test part of {self.name} has other columns than the training part")
        for part, examples, columns in (
            ("training", self.train, self.train_columns),
            ("test", self.test, self.test_columns),
        ):
            count = 0 if examples is None else len(examples)
            labels = b"" if examples is None or not count else examples.labels_view
            if count and not 0 <= min(labels) <= max(labels) < self.num_classes:
                raise DataError(
                    f"the {part} part of {self.name} has labels {min(labels)} to {max(labels)}; "
                    f"expected 0 to {self.num_classes - 1}"
                )
            for name, values in columns.items():
                if len(values) != count:
                    raise DataError(f"column {name!r} has {len(values)} values for {count} {part} examples")

    @property
    def num_features(self) -> int:
        return self.train.num_features


def pooled(data: FederatedDataset) -> CentralDataset:
    """The examples of all clients in one place, in the order of the clients; their ids are the column ``client``."""
    return CentralDataset(
        name=data.name,
        num_classes=data.num_classes,
        classes=data.classes,
        train=pool(data.clients),
        test=pool(data.held_out) if data.held_out else None,
        train_columns={CLIENT: tuple(part.client_id for part in data.clients for _ in range(len(part)))},
        test_columns={CLIENT: tuple(part.client_id for part in data.held_out for _ in range(len(part)))},
        license=data.license,
        source=data.source,
    )


def _kind(examples: Examples) -> tuple[object, ...]:
    return examples.num_features, examples.dtype, examples.quantization
