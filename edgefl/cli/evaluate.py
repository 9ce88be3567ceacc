"""``edgefl evaluate``: how right a ``.tflite`` file is on a data set, and which classes it takes for which."""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from itertools import chain

from edgefl.classes import class_index
from edgefl.cli.confusion import print_confusion
from edgefl.cli.tflite import TfliteModel, answers, load_tflite
from edgefl.confusion import Confusion
from edgefl.console.output import print_json
from edgefl.datasets.rows import Rows, load_rows
from edgefl.errors import DataError

SMALLEST = 2.0**-126
"""A probability that float32 wrote as 0 counts as this one in the loss, which would be infinite."""


def evaluate(args: argparse.Namespace) -> None:
    """Raises what ``load_tflite``, ``load_rows`` and ``answers`` raise, and ``DataError`` for other labels."""
    model, rows = load_tflite(args.model), load_rows(args.dataset)
    chosen = _chosen(args, rows)
    said = answers(model, rows, chosen)
    first = () if model.classes else (next(said),)  # wrong labels are told before the model runs, if it names classes
    size = len(first[0].probabilities) if first else len(model.classes)
    labels = _labels(model, rows, chosen, size)
    counts, losses = [0] * (size * size), []
    for answer, label in zip(chain(first, said), labels, strict=True):
        counts[label * size + answer.predicted] += 1
        losses.append(-math.log(max(answer.probabilities[label], SMALLEST)))
    _print(args, Confusion(tuple(counts), model.classes), math.fsum(losses))


def _chosen(args: argparse.Namespace, rows: Rows) -> Sequence[int]:
    """The rows of --split: by default those held out, where there are any."""
    if rows.labels is None:
        raise DataError(f"{args.dataset} has no labels, which an evaluation needs; see: edgefl predict")
    chosen: Sequence[int] = range(len(rows))
    split = args.split or ("held_out" if rows.held_out is not None and any(rows.held_out) else "all")
    if split != "all":
        wanted = split == "held_out"
        chosen = [row for row in chosen if (rows.held_out is not None and rows.held_out[row]) == wanted]
    if not chosen:
        raise DataError(f"{args.dataset} has no {split} example; choose another --split")
    return chosen[: args.limit]


def _labels(model: TfliteModel, rows: Rows, chosen: Sequence[int], num_classes: int) -> list[int]:
    """The index of the label of each chosen row, by the names that the file has, else by number."""
    texts = rows.labels or ()
    known: dict[str, int] = {}
    for row in chosen:
        if texts[row] not in known:
            known[texts[row]] = _index(model, texts[row], rows.place(row), num_classes)
    return [known[texts[row]] for row in chosen]


def _index(model: TfliteModel, text: str, place: str, num_classes: int) -> int:
    if model.classes:
        return class_index(text, model.classes, place)
    if text.isascii() and text.isdigit() and len(text) <= 9 and int(text) < num_classes:
        return int(text)
    raise DataError(
        f"{place} is {text!r}; expected 0 to {num_classes - 1}: {model.path} has no class names (classes in the task's "
        "[model] gives them)"
    )


def _print(args: argparse.Namespace, confusion: Confusion, loss_sum: float) -> None:
    count = sum(confusion.counts)
    correct = sum(one.num_correct for one in confusion.per_class)
    if args.json:
        print_json(
            {"num_examples": count, "accuracy": correct / count, "loss": loss_sum / count, **confusion.as_dict()}
        )
        return
    print(f"accuracy {correct / count:.4f}, mean loss {loss_sum / count:.4f} ({correct} of {count} examples right)\n")
    print_confusion(args.dataset, confusion)
