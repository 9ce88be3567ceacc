"""The parsers of ``edgefl predict`` and ``edgefl evaluate``."""

from __future__ import annotations

import argparse

from edgefl.cli import arguments
from edgefl.cli.arguments import json_option, lazy

_FEATURES = (
    "a data set's name or path, as edgefl simulate takes it; features are raw, for standardization is part of the file"
)


def add_tflite(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    predict = commands.add_parser(
        "predict",
        help="run a .tflite on the rows of a data set, off the device",
        description="Run a .tflite file on the rows of a data set, in their order. Labels are shown where there are "
        "some, and are not needed.",
    )
    evaluate = commands.add_parser(
        "evaluate",
        help="count the right answers of a .tflite on a data set, off the device",
        description="Count the right and wrong answers of a .tflite file on a data set: accuracy, loss, and which "
        "classes it takes for which.",
    )
    for parser, function in ((predict, "predict"), (evaluate, "evaluate")):
        parser.add_argument("model", metavar="MODEL.tflite")
        parser.add_argument("--dataset", required=True, metavar="DATA", help=_FEATURES)
        parser.add_argument("--limit", type=arguments.count, metavar="N", help="only the first N rows")
        json_option(parser)
        parser.set_defaults(run=lazy(f"edgefl.cli.{function}", function))
    evaluate.add_argument(
        "--split",
        choices=("train", "held_out", "all"),
        help="which rows (default: held_out where the data set holds some out, else all)",
    )
