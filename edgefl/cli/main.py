"""The command ``edgefl``: the operator's and the researcher's tool. Each subcommand lives in a module of its own."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from edgefl import __version__
from edgefl.cli import arguments
from edgefl.cli.arguments import json_option, lazy
from edgefl.cli.tflite_parser import add_tflite
from edgefl.command import Parser, run_command

EPILOG = """\
examples:
  edgefl new mine.csv                         write task files for your data, and say what to type next
  edgefl --insecure task create task.toml     start a task on the server at 127.0.0.1:7443
  edgefl --insecure rounds shoulder           watch its rounds live
  edgefl simulate task.toml --dataset watch   run the same task here, without a server
  edgefl simulate task.toml --dataset watch --set client.learning_rate=0.05 --seed 3
                                              with other values than the file has
  edgefl simulate task.toml --dataset watch --faults faults.toml --runs 100
                                              what it would lose on a fleet that breaks
  edgefl simulate task.toml --dataset fashion_mnist --partition dirichlet:0.3 --clients 100
                                              on clients made of a data set that has none
  edgefl simulate task.toml --dataset watch --processes 8
                                              with the devices' work in eight processes
  edgefl simulate task.toml --dataset watch --grpc
                                              on a real server and real agents, on this machine
  edgefl predict model.tflite --dataset new.csv
                                              what a released model says of each row
  edgefl demo                                 a server, ten devices, real data, one released model

The server and the operator's name can also come from EDGEFL_SERVER and EDGEFL_OPERATOR.
Exit status: 0 done; 64 wrong usage; 65 bad data; 69 server not reachable; 72 not found; 77 and 81 not allowed;
78 wrong configuration; 80 conflict; 130 interrupted; others in docs/reference/exit-status.md.
"""


def build_parser() -> argparse.ArgumentParser:
    """All subcommands with their options; modules of the work itself are imported when their command runs."""
    parser: argparse.ArgumentParser = Parser(
        prog="edgefl",
        description="Run federated learning tasks on a fleet, or simulate them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edgefl {__version__}")
    parser.add_argument(
        "--server",
        metavar="HOST:PORT",
        default=os.environ.get("EDGEFL_SERVER", "127.0.0.1:7443"),
        help="the server's address (default: %(default)s)",
    )
    parser.add_argument(
        "--operator",
        metavar="NAME",
        default=os.environ.get("EDGEFL_OPERATOR", "operator"),
        help="the name under which you act (default: %(default)s)",
    )
    parser.add_argument("--insecure", action="store_true", help="plaintext; for a server on this machine alone")
    commands = parser.add_subparsers(title="commands", dest="command", required=True, metavar="COMMAND")
    _add_new(commands)
    _add_task(commands)
    _add_rounds(commands)
    _add_confusion(commands)
    _add_models(commands)
    _add_releases(commands)
    statistics = commands.add_parser("statistics", help="show what a statistics task found of every feature")
    statistics.add_argument("task", type=arguments.text, metavar="TASK", help="a completed task with bins or extremes")
    json_option(statistics)
    statistics.set_defaults(run=lazy("edgefl.cli.statistics", "show"))
    devices = commands.add_parser("devices", help="list the devices that the server knows, and how each is")
    devices.add_argument("--population", type=arguments.text, default="", help="only this population")
    json_option(devices)
    devices.set_defaults(run=lazy("edgefl.cli.devices", "list_devices"))
    answers = commands.add_parser(
        "answers",
        help="count how the server answered since its start",
        description="Count the server's answers since its start: the receipts of reports, with the reasons of those "
        "refused, and the calls that ended with an error.",
    )
    json_option(answers)
    answers.set_defaults(run=lazy("edgefl.cli.answers", "count_answers"))
    _add_replay(commands)
    _add_simulate(commands)
    add_tflite(commands)
    _add_demo(commands)
    return parser


_NEW = """\
Look at a data set, write the task files and configurations that fit it into a new
folder, and print the commands to type next. The files say what each number is for;
change what you like."""


def _add_new(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    new = commands.add_parser(
        "new",
        help="write task files that fit a data set of yours",
        description=_NEW,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    new.add_argument(
        "dataset",
        metavar="DATA",
        help="a .csv, .npz or .parquet file, a folder of images, files of LEAF (.json) or TensorFlow Federated (.h5, "
        ".sqlite), or a data set's name",
    )
    new.add_argument("--out", metavar="DIR", help="the folder to write; it must be new or empty (default: NAME-tasks)")
    new.add_argument("--name", metavar="NAME", help="the name of the training task (default: made of the file's name)")
    _partition(new)
    new.set_defaults(run=lazy("edgefl.cli.new", "new"))


def _add_task(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    task = commands.add_parser("task", help="create, list, pause, resume or end a task")
    actions = task.add_subparsers(title="actions", dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="start tasks from definition files", description=_CREATE)
    create.add_argument("files", nargs="+", metavar="FILE", help="a task definition in TOML (docs/reference/task.md)")
    create.add_argument(
        "--anyway",
        action="store_true",
        help="also create a task that none of the known devices can do: of another population, shape or size",
    )
    create.set_defaults(run=lazy("edgefl.cli.tasks", "create"))
    listing = actions.add_parser("list", help="list all tasks")
    json_option(listing)
    listing.set_defaults(run=lazy("edgefl.cli.tasks", "list_tasks"))
    for name, text in (
        ("pause", "start no new round; one that collects reports goes on"),
        ("resume", "go on with a task that was paused, or that the server suspended because its rounds only failed"),
        ("end", "end a task for good: its current round is abandoned, its models stay"),
    ):
        action = actions.add_parser(name, help=text, description=text)
        action.add_argument("name", type=arguments.text, metavar="TASK")
        action.set_defaults(run=lazy("edgefl.cli.tasks", name))


_CREATE = "Start tasks. All files are read and checked before the first is sent; each is created in the order given."


def _add_rounds(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    rounds = commands.add_parser("rounds", help="watch the rounds of a task, live")
    rounds.add_argument("task", type=arguments.text, metavar="TASK")
    rounds.add_argument("--no-follow", action="store_true", help="show what there is, and stop")
    json_option(rounds)
    rounds.set_defaults(run=lazy("edgefl.cli.rounds", "watch"))


def _add_confusion(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    confusion = commands.add_parser(
        "confusion",
        help="show which classes a model takes for which",
        description="Show which classes a model takes for which, by an evaluation or a personalization on the server: "
        "counts of examples, recall and precision of each class; of more than 20 classes, the pairs confused most.",
    )
    confusion.add_argument("task", type=arguments.text, metavar="TASK", help="an evaluation or a personalization")
    confusion.add_argument(
        "--round", type=arguments.rounds, metavar="N", help="default: the last round that was committed"
    )
    json_option(confusion)
    confusion.set_defaults(run=lazy("edgefl.cli.confusion", "show"))


_FORMAT = "tflite-int8 has int8 weights, float32 in and out (default: %(default)s)"


def _add_models(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    models = commands.add_parser("models", help="list a task's models, or export one")
    actions = models.add_subparsers(title="actions", dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", help="list the versions that the server keeps")
    listing.add_argument("task", type=arguments.text, metavar="TASK")
    json_option(listing)
    listing.set_defaults(run=lazy("edgefl.cli.models", "list_models"))
    export = actions.add_parser("export", help="write one version to a file")
    export.add_argument("task", type=arguments.text, metavar="TASK")
    export.add_argument("file", metavar="FILE", help="where to write; replaced only when the export is whole")
    export.add_argument(
        "--version", type=arguments.version, default=0, dest="model_version", metavar="N", help="default: the latest"
    )
    export.add_argument("--format", choices=("tflite", "tflite-int8", "weights"), default="tflite", help=_FORMAT)
    export.set_defaults(run=lazy("edgefl.cli.models", "export"))


def _add_releases(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    release = commands.add_parser("release", help="release a model to the devices, or list releases")
    actions = release.add_subparsers(title="actions", dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", help="write, check and publish a .tflite")
    create.add_argument("name", type=arguments.text, metavar="NAME", help="the release's name on the devices")
    create.add_argument("task", type=arguments.text, metavar="TASK", help="whose model")
    create.add_argument(
        "--version", type=arguments.version, default=0, dest="model_version", metavar="N", help="default: the latest"
    )
    create.add_argument("--format", choices=("tflite", "tflite-int8"), default="tflite", help=_FORMAT)
    json_option(create)
    create.set_defaults(run=lazy("edgefl.cli.models", "create_release"))
    listing = actions.add_parser("list", help="list all releases")
    json_option(listing)
    listing.set_defaults(run=lazy("edgefl.cli.models", "list_releases"))


def _add_replay(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    replay = commands.add_parser(
        "replay",
        help="compute a version again from the ledger of a stopped server",
        description="Compute a version again from the nearest kept model before it and the counted reports, and "
        "compare every bit. Starts `edgefl-server replay`, on the server's machine.",
    )
    replay.add_argument("--config", required=True, metavar="FILE", help="the server's configuration (TOML)")
    replay.add_argument("task", type=arguments.text, metavar="TASK")
    replay.add_argument(
        "--version", type=arguments.version, dest="model_version", metavar="N", help="default: the latest"
    )
    replay.add_argument("--out", metavar="FILE", help="write the computed weights here")
    replay.set_defaults(run=lazy("edgefl.cli.replay", "replay"))


_SIMULATE = """\
Run task definitions over a data set. The result is, bit for bit, what the same
devices and the server make of the same definitions, however it is run:
  in this process     a training on every core, all other work on one;
  --processes N       the devices' work in N processes, for large fleets;
  --grpc              edgefl-server and an edgefl-device for each client, as
                      processes that speak gRPC on loopback.

With --faults the fleet breaks, run after run: messages get lost, processes are
killed, machines lose power. The result is what was lost of the updates that were
acknowledged (nothing), and how long rounds took."""


def faults_example() -> Path:
    """The commented faults file that is installed next to the commands."""
    return Path(__file__).parents[1] / "faults" / "faults.toml"


_SET = (
    "use another value than the task file has, as --set client.learning_rate=0.05: a dotted key of a definition and a "
    "TOML value (quotes around a single word may be left out). It holds for every task of a kind that has the key, or "
    "for TASK alone; repeat it for more keys"
)


_PARTITION = (
    "make clients of the data set: iid; dirichlet:ALPHA (class shares drawn, sizes equal); by-class:N (N classes a "
    "client); by-size[:EXPONENT] (sizes by a power law, default 1); by-column:NAME (a client for each value of a "
    "column of a .csv or .parquet file). Without it, the clients are those that the data set has"
)


_LOG = (
    "also write a new folder: rounds.csv, a line per round while it runs; tensorboard/, event files; and at the "
    "end rounds.png, accuracy and loss by round, and confusion.csv, which classes were taken for which"
)


def _add_simulate(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    simulate = commands.add_parser(
        "simulate",
        help="run tasks over a data set here, without a fleet",
        description=_SIMULATE,
        # Raw: a path must not be broken at its hyphens.
        epilog=f"A faults file with every key and its default:\n  {faults_example()}".replace("%", "%%"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    simulate.add_argument("files", nargs="+", metavar="TASK.toml")
    simulate.add_argument(
        "--dataset",
        required=True,
        help="a data set's name (watch, fashion_mnist, digits); a .csv, .npz or .parquet file; a folder of images; or "
        "files of LEAF (.json) or TensorFlow Federated (.h5, .sqlite)",
    )
    simulate.add_argument("--set", action="append", metavar="[TASK:]KEY=VALUE", help=_SET)
    simulate.add_argument(
        "--seed", type=arguments.seed, metavar="S", help="the seed of every task: the same as --set seed=S"
    )
    _partition(simulate)
    simulate.add_argument("--out", metavar="DIR", help="also write each trained model as DIR/TASK.tflite")
    simulate.add_argument("--log", metavar="DIR", help=_LOG)
    simulate.add_argument(
        "--checkpoint", metavar="FILE", help="keep what is done in FILE, so that a run that was killed can go on"
    )
    simulate.add_argument(
        "--checkpoint-every", type=arguments.rounds, metavar="N", help="write FILE after so many rounds (default: 10)"
    )
    simulate.add_argument(
        "--resume",
        action="store_true",
        help="go on from FILE, where it is there, to the same bits as a run that was never broken",
    )
    json_option(simulate)
    simulate.add_argument(
        "--processes",
        type=arguments.count,
        metavar="N",
        help="do the devices' work in N processes, at most one a client",
    )
    simulate.add_argument(
        "--grpc",
        action="store_true",
        help="start edgefl-server and an edgefl-device for each client (64 at most, 48 MB each); with --out their "
        "folders are kept there, with a failure in the temporary folder that it names",
    )
    faults = simulate.add_argument_group("a fleet that breaks")
    faults.add_argument(
        "--faults", metavar="FAULTS.toml", help="what breaks, and how often; in an empty file, the defaults"
    )
    which = faults.add_mutually_exclusive_group()
    which.add_argument(
        "--runs", type=arguments.count, metavar="N", help="how many, each with other faults (default: 100)"
    )
    which.add_argument(
        "--run",
        type=arguments.run_number,
        dest="fault_run",
        metavar="N",
        help="this run alone, with its trace (from 0)",
    )
    faults.add_argument("--only", metavar="KIND,KIND", help="no faults but these kinds, or none (to replay a run)")
    faults.add_argument(
        "--until", type=arguments.seconds, metavar="SECONDS", help="end the faults earlier (to replay a run)"
    )
    simulate.set_defaults(run=lazy("edgefl.cli.simulate", "simulate_tasks"))


_DEMO = """\
Fetch the watch data, start edgefl-server and ten edgefl-device agents as processes
on loopback, train, evaluate, release a model and predict with it on a device. In the
middle the server and an agent are killed (SIGKILL), and at the end the model is
compared with that of a run in which nothing died. Everything is below --out."""


def _add_demo(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    demo = commands.add_parser(
        "demo",
        help="the whole loop on real data, on this machine",
        description=_DEMO,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    demo.add_argument("--out", metavar="DIR", default="build/demo", help="default: %(default)s")
    demo.add_argument("--rounds", type=int, default=50, help="training rounds (default: %(default)s)")
    demo.add_argument("--seed", type=arguments.seed, default=1, help="seed of the task (default: %(default)s)")
    demo.add_argument(
        "--kill-server", type=int, metavar="ROUND", help="kill the server in this round (default: 20 of 50)"
    )
    demo.add_argument(
        "--kill-device", type=int, metavar="ROUND", help="kill an agent in this round (default: 35 of 50)"
    )
    demo.add_argument("--no-kill", action="store_true", help="kill nothing")
    demo.add_argument("--verbose", action="store_true", help="also show each person's accuracies, bytes and digests")
    json_option(demo)
    demo.set_defaults(run=lazy("edgefl.demo", "run_demo"))


_HELD_OUT_CLIENTS = (
    "keep N whole clients out of training (or a fraction, as 0.2): they have held-out examples alone, so an evaluation "
    "shows what the model does for people whom it has never seen"
)


def _partition(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--partition", metavar="HOW", help=_PARTITION)
    parser.add_argument("--clients", type=int, metavar="N", help="how many clients --partition makes")
    parser.add_argument("--held-out-clients", metavar="N", help=_HELD_OUT_CLIENTS)
    parser.add_argument(
        "--partition-seed",
        type=int,
        metavar="N",
        help="another seed gives another partition, and holds other clients out (default: 0)",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit status."""

    def body() -> int:
        args = build_parser().parse_args(argv)
        run: Callable[[argparse.Namespace], int] = args.run
        return run(args)

    return run_command("edgefl", body)
