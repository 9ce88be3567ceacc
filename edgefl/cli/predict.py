"""``edgefl predict``: what a ``.tflite`` file says of the rows of a data set. Labels are shown, and not needed."""

from __future__ import annotations

import argparse

from edgefl.classes import class_name
from edgefl.cli.tflite import Answer, TfliteModel, answers, load_tflite
from edgefl.console.output import print_json
from edgefl.datasets.rows import load_rows


def predict(args: argparse.Namespace) -> None:
    """One line for each row. Raises what ``load_tflite``, ``load_rows`` and ``answers`` raise."""
    model, rows = load_tflite(args.model), load_rows(args.dataset)
    count = len(rows) if args.limit is None else min(args.limit, len(rows))
    for answer in answers(model, rows, range(count)):
        label = None if rows.labels is None else rows.labels[answer.row]
        if args.json:
            print_json(_as_dict(model, answer, label))
        else:
            print(_line(model, answer, label))


def _as_dict(model: TfliteModel, answer: Answer, label: str | None) -> dict[str, object]:
    found: dict[str, object] = {
        "row": answer.row,
        "predicted": answer.predicted,
        "probability": answer.probability,
        "probabilities": answer.probabilities,
    }
    if model.classes:
        found["predicted_class"] = class_name(model.classes, answer.predicted)
    return found if label is None else found | {"label": label}


def _line(model: TfliteModel, answer: Answer, label: str | None) -> str:
    line = f"row {answer.row}: {class_name(model.classes, answer.predicted)}, probability {answer.probability:.4f}"
    return line if label is None else f"{line}, label {label}"
