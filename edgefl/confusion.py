"""Which classes a model takes for which: counts by true and predicted class, and what follows for each class.

    metrics = evaluate(train.get_model(state), people.held_out)
    print(metrics.confusion_matrix(people.classes))

Pure; integers in, ratios of them out.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from edgefl.classes import check_classes, class_name
from edgefl.errors import DataError

MAX_TABLE_CLASSES = 20
"""Beyond it a table of all pairs is wider than a screen, and the worst pairs say more."""

WORST_PAIRS = 15

_MAX_HEAD = 10
"""Characters of a name above a column: the row of the class has the whole name."""


@dataclass(frozen=True)
class ClassResult:
    """One class. ``recall``: of its ``num_examples`` the share that was found; ``precision``: of the ``num_predicted``
    answers that name it the share that was right. Each is None where nothing can be divided by.
    """

    name: str
    num_examples: int
    num_predicted: int
    num_correct: int

    @property
    def recall(self) -> float | None:
        return self.num_correct / self.num_examples if self.num_examples else None

    @property
    def precision(self) -> float | None:
        return self.num_correct / self.num_predicted if self.num_predicted else None


@dataclass(frozen=True)
class Mistake:
    """``count`` examples of class ``true`` were taken for ``predicted``: ``share`` of all examples of ``true``."""

    true: str
    predicted: str
    count: int
    share: float


@dataclass(frozen=True)
class Confusion:
    """``counts[true * num_classes + predicted]`` examples; ``classes`` are names in index order, () where none are.

    There may be fewer or more names than classes, as where a task and its data set differ. Raises ``DataError`` for
    counts that are not a square.
    """

    counts: tuple[int, ...] = field(repr=False)
    classes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_classes(self.classes, len(self.classes), DataError)
        if not self.counts or self.num_classes**2 != len(self.counts):
            raise DataError(f"{len(self.counts)} counts; expected num_classes squared: evaluations have them")

    @property
    def num_classes(self) -> int:
        return math.isqrt(len(self.counts))

    @property
    def names(self) -> tuple[str, ...]:
        """One for each class: its name, or its index where it has none."""
        return tuple(class_name(self.classes, index) for index in range(self.num_classes))

    @property
    def rows(self) -> tuple[tuple[int, ...], ...]:
        """The counts of each true class."""
        size = self.num_classes
        return tuple(tuple(self.counts[start : start + size]) for start in range(0, len(self.counts), size))

    @property
    def per_class(self) -> tuple[ClassResult, ...]:
        size, rows = self.num_classes, self.rows
        predicted = [sum(self.counts[index::size]) for index in range(size)]
        return tuple(
            ClassResult(name, sum(rows[index]), predicted[index], rows[index][index])
            for index, name in enumerate(self.names)
        )

    def mistakes(self, limit: int = WORST_PAIRS) -> tuple[Mistake, ...]:
        """The pairs that occur most often, the most frequent first; of equal ones, the first by index."""
        names, rows, size = self.names, self.rows, self.num_classes
        wrong = (index for index, count in enumerate(self.counts) if count and index % (size + 1))
        worst = sorted(wrong, key=lambda index: -self.counts[index])[:limit]
        found = []
        for index in worst:
            true, predicted = divmod(index, size)
            count = self.counts[index]
            found.append(Mistake(names[true], names[predicted], count, count / sum(rows[true])))
        return tuple(found)

    def as_dict(self) -> dict[str, object]:
        """For programs: ``classes``, ``confusion`` as rows, and ``per_class``. Classes without names are numbers."""
        labels: Sequence[str | int] = self.names if self.classes else range(self.num_classes)
        per_class = [
            {"class": label, "num_examples": one.num_examples, "recall": one.recall, "precision": one.precision}
            for label, one in zip(labels, self.per_class, strict=True)
        ]
        return {"classes": list(labels), "confusion": [list(row) for row in self.rows], "per_class": per_class}

    @property
    def title(self) -> str:
        """What ``table`` shows."""
        if self.num_classes > MAX_TABLE_CLASSES:
            return f"the pairs of the {self.num_classes} classes that are confused most"
        return "true classes in rows, the model's answers in columns"

    @property
    def first_number(self) -> int:
        """The first column of ``table`` that holds numbers."""
        return 2 if self.num_classes > MAX_TABLE_CLASSES else 1

    def table(self) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
        """For people, the heads of the columns and the rows: all pairs, or the worst of many classes."""
        if self.num_classes > MAX_TABLE_CLASSES:
            rows = [(one.true, one.predicted, f"{one.count:,}", f"{one.share:.1%}") for one in self.mistakes()]
            return ("TRUE", "TAKEN FOR", "EXAMPLES", "OF ITS OWN"), rows
        heads = [name if len(name) <= _MAX_HEAD else f"{name[: _MAX_HEAD - 1]}…" for name in self.names]
        body = [
            (one.name, *map(_count, row), _count(one.num_examples), _ratio(one.recall), _ratio(one.precision))
            for one, row in zip(self.per_class, self.rows, strict=True)
        ]
        return ("TRUE", *heads, "EXAMPLES", "RECALL", "PRECISION"), body

    def __str__(self) -> str:
        return "\n".join((self.title, *_aligned(*self.table(), self.first_number)))


def _count(value: int) -> str:
    return f"{value:,}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _aligned(heads: Sequence[str], rows: Sequence[Sequence[str]], first_number: int) -> Iterator[str]:
    widths = [max(len(row[column]) for row in (heads, *rows)) for column in range(len(heads))]
    for row in (heads, *rows):
        texts = (row[column].ljust(widths[column]) for column in range(first_number))
        numbers = (row[column].rjust(widths[column]) for column in range(first_number, len(row)))
        yield "  ".join((*texts, *numbers)).rstrip()
