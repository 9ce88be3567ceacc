"""The command ``edgefl-device``: run the agent, add, list and remove examples, show its status, predict.

A command imports what it needs and no more: the agent's memory counts.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from edgefl import __version__
from edgefl.command import Parser, run_command
from edgefl_device.config import MAX_AGE_DAYS, load_config

EXAMPLES = """\
examples:
  edgefl-device add --config device.toml monday.csv tuesday.npz
  edgefl-device run --config device.toml
  edgefl-device status --config device.toml
  edgefl-device examples list --config device.toml
  edgefl-device predict --config device.toml --split held_out --limit 5
"""

PREDICT_EXAMPLES = """\
examples:
  edgefl-device predict --config device.toml --index 0
  edgefl-device predict --config device.toml --release watch --split train --limit 10 --json
  edgefl-device predict --config device.toml --features 0.1,2.5,-3
"""

REMOVE_EXAMPLES = """\
Examples that meet every given condition go, and their bytes with them: from the store's files and, for files of the
inbox that go as a whole, from its folder 'done'. An agent may run; a training that has begun ends with what it read.

examples:
  edgefl-device examples remove --config device.toml --source monday.csv --dry-run
  edgefl-device examples remove --config device.toml --label 2 --older-than 30
"""

ADD_HELP = """\
CSV: UTF-8, comma, a header line. Column 'label' (a whole number from 0, or a name of the configuration's classes),
optionally 'split' (train or held_out); all other columns are features. The first file fixes their names
(or [examples] features does); a later file has the same names, in any order.
NPZ: arrays 'features' (n, num_features) and 'labels' (n,), optionally 'held_out' (n,) bool and
'feature_names' (num_features,); without names, features are in the order of the first file.
A file with a wrong value is refused as a whole, and nothing of it is stored. So is a file whose examples were
added before, unless --again is given.
"""


def main(argv: list[str] | None = None) -> int:
    """Entry point of ``edgefl-device``. Returns the exit status."""
    args = _parser().parse_args(argv)
    return run_command("edgefl-device", lambda: int(args.command(args)))


def _parser() -> Parser:
    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        prog="edgefl-device",
        description="The agent of one device: it trains on examples that stay here, and reports model deltas.",
        epilog=EXAMPLES,
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=f"edgefl-device {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    common = Parser(add_help=False)
    common.add_argument("--config", type=Path, required=True, metavar="FILE", help="the device's TOML file")

    run = commands.add_parser("run", parents=[common], help="run the agent until it is stopped")
    run.add_argument("--once", action="store_true", help="end after one check-in and what follows from it")
    run.add_argument("--insecure", action="store_true", help="speak plaintext, to a server on loopback")
    run.set_defaults(command=_run)

    add = commands.add_parser(
        "add", parents=[common], help="add examples from files", epilog=ADD_HELP, formatter_class=raw
    )
    add.add_argument("--again", action="store_true", help="add the examples even if the same ones were added before")
    add.add_argument("files", nargs="+", type=Path, metavar="FILE", help="a .csv or .npz file")
    add.set_defaults(command=_add)

    _add_examples_parser(commands, common, raw)

    status = commands.add_parser("status", parents=[common], help="show what the agent does and why")
    status.add_argument("--json", action="store_true", help="as JSON")
    status.set_defaults(command=_deferred("status_command", "show_status"))

    predict = commands.add_parser(
        "predict",
        parents=[common],
        help="run the released model on examples",
        epilog=PREDICT_EXAMPLES,
        formatter_class=raw,
    )
    predict.add_argument("--release", default="", metavar="NAME", help="which release; needed if there are several")
    predict.add_argument("--split", choices=["train", "held_out"], default="held_out", help="default: held_out")
    which = predict.add_mutually_exclusive_group()
    which.add_argument("--index", type=_natural, metavar="N", help="one stored example, counted from 0")
    which.add_argument("--limit", type=_natural, metavar="N", help="the first N stored examples (default: all)")
    which.add_argument("--features", metavar="ROW", help="one row of raw features, comma-separated")
    predict.add_argument("--json", action="store_true", help="as JSON")
    predict.set_defaults(command=_predict)
    return parser


def _add_examples_parser(commands: Any, common: Parser, raw: Any) -> None:
    """``commands``: what ``add_subparsers`` returned (its type has no public name)."""
    examples = commands.add_parser("examples", help="list, remove or clear the examples")
    verbs = examples.add_subparsers(metavar="COMMAND", required=True)
    listed = verbs.add_parser("list", parents=[common], help="count the examples")
    listed.add_argument(
        "--by",
        default="source,label,split",
        metavar="KEYS",
        help="some of source, label, split, age (default: the first three)",
    )
    listed.add_argument("--json", action="store_true", help="as JSON")
    listed.set_defaults(command=_deferred("examples_command", "list_examples"))
    remove = verbs.add_parser(
        "remove", parents=[common], help="remove some examples", epilog=REMOVE_EXAMPLES, formatter_class=raw
    )
    remove.add_argument("--source", metavar="NAME", help="those that came from NAME, as 'list' shows it")
    remove.add_argument("--label", metavar="LABEL", help="those of a class, by its name or number")
    remove.add_argument("--older-than", type=_days, metavar="DAYS", help="those added longer ago")
    remove.add_argument("--dry-run", action="store_true", help="only say how many")
    remove.set_defaults(command=_deferred("examples_command", "remove_examples"))
    clear = verbs.add_parser("clear", parents=[common], help="remove all examples")
    clear.add_argument("--yes", action="store_true", help="do not ask")
    clear.set_defaults(command=_deferred("examples_command", "clear_examples"))


def _deferred(module: str, name: str) -> Callable[[argparse.Namespace], int]:
    """A command of another module of this package, which is imported when the command runs."""

    def command(args: argparse.Namespace) -> int:
        import importlib

        return int(getattr(importlib.import_module(f"edgefl_device.{module}"), name)(args))

    return command


def _days(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= MAX_AGE_DAYS:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of days from 0 to {MAX_AGE_DAYS}")
    return value


def _natural(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, 0 or more")
    return int(text)


def _run(args: argparse.Namespace) -> int:
    config = load_config(args.config, insecure=args.insecure)
    config.server.check_transport()
    _log_to_stderr()
    # Of gRPC's own lines only errors are for people; it reads this when it is loaded.
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")
    from edgefl_device.agent import Agent

    return Agent(config, once=args.once).run()


def _log_to_stderr() -> None:
    import logging

    # journald stamps lines itself.
    stamp = "" if "JOURNAL_STREAM" in os.environ else "%(asctime)s "
    logging.basicConfig(stream=sys.stderr, format=stamp + "edgefl-device: %(levelname)s: %(message)s")
    logging.getLogger("edgefl").setLevel(logging.INFO)


def _add(args: argparse.Namespace) -> int:
    from edgefl.protocol.messages import Split
    from edgefl_device.example_file import some
    from edgefl_device.example_store import Batch, ExampleStore
    from edgefl_device.ingest import add_file

    config = load_config(args.config)
    with ExampleStore.open(config.store_path, config.examples) as store:
        for path in args.files:
            known = store.feature_names
            count = add_file(store, config.examples, path, Batch(str(path), again=args.again))
            print(f"{path}: {count} examples added")
            if store.feature_names != known:
                print(f"the features of this device are from now on {some(store.feature_names)}, matched by name")
        train, held_out = store.count(Split.TRAIN), store.count(Split.HELD_OUT)
    print(f"the device now has {train} examples for training and {held_out} held out")
    return 0


def _predict(args: argparse.Namespace) -> int:
    from edgefl.protocol.messages import Split
    from edgefl_device.predict import as_dict, lines, predict_given, predict_stored

    config = load_config(args.config)
    if args.features is not None:
        result = predict_given(config, args.release, args.features)
    else:
        result = predict_stored(config, args.release, Split(args.split), index=args.index, limit=args.limit)
    if args.json:
        print(json.dumps(as_dict(result)))
    else:
        print("\n".join(lines(result)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
