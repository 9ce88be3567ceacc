"""``edgefl new``: look at a data set, write task files and configurations that fit it, and say what to type next.

Invariant: the folder is written whole, by one rename, or not at all, and nothing that is there is replaced.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import shlex
import shutil
import statistics
import tempfile
from pathlib import Path

from edgefl import kernels
from edgefl.classes import class_name
from edgefl.cli import new_files
from edgefl.cli.new_files import Facts
from edgefl.command import one_line
from edgefl.datasets import FederatedDataset, load, partition
from edgefl.datasets.partition import parse
from edgefl.errors import ConflictError, DataError, StorageError
from edgefl.files import write_file
from edgefl.inputs.clients import hold_out, load_clients, options_of, refuse_partition_options
from edgefl.learning import StatisticsProcess, build_process
from edgefl.protocol.task import NAME, TaskSpec
from edgefl.types import ClientDataset, Standardization, TrainConfig, Weights

MAX_MADE_CLIENTS = 10
"""Clients that are made of a data set that has none, where nobody says how many."""

EXAMPLES_OF_ONE = 20
"""Examples that each of them has at least."""

MEASURED_CLIENTS = 20
"""Clients, the largest ones, that train once for the bound of an update."""

MAX_GRPC_CLIENTS = 64
"""As ``edgefl simulate --grpc``."""

STATISTICS, TRAINING, EVALUATION = "statistics.toml", "training.toml", "evaluation.toml"
SERVER, DEVICE = "server.toml", "device.toml"


def new(args: argparse.Namespace) -> None:
    """Write the folder and print what is in it, and the next commands. Raises what ``load`` raises."""
    chosen = args.partition is not None
    people = _clients(args)
    made = not chosen and args.partition is not None
    name = new_files.name_of(people.name) if args.name is None else new_files.check_task_name(args.name)
    out = Path(f"{name}-tasks") if args.out is None else Path(args.out)
    _check_new(out)
    facts = _look(args.dataset, people)
    texts = _texts(facts, name, people)
    _write(out, texts)
    print(_summary(facts))
    if made:
        print(
            f"It does not say whose each example is, so --partition {args.partition} --clients {args.clients} deals "
            "them to clients;\nto say it, add a column client (an array clients in an NPZ file)."
        )
    if EVALUATION not in texts:
        print(
            "It holds nothing out, so there is no evaluation. To have one, give --held-out-clients 0.2,\n"
            "or add a column split that says train or held_out (an array held_out, or folders so named)."
        )
    print(f"\nWrote {out}/: {', '.join(texts)}.")
    _print_next(args, out, texts, name, people)


def _check_new(out: Path) -> None:
    try:
        taken = (out.exists() or out.is_symlink()) and not (out.is_dir() and not any(out.iterdir()))
    except OSError as error:
        raise StorageError(f"{out}: cannot be used: {error.strerror}; choose another folder (--out)") from None
    if taken:
        raise ConflictError(f"{out} exists; nothing is overwritten: choose another folder (--out), or remove it")


def _clients(args: argparse.Namespace) -> FederatedDataset:
    """As ``edgefl simulate`` has them; sets ``--partition`` for a data set without clients where nobody did."""
    if args.partition is not None:
        return load_clients(args)
    data = load(args.dataset)
    if isinstance(data, FederatedDataset):
        refuse_partition_options(args)
        return hold_out(args, data)
    args.partition = "iid"
    if args.clients is None:
        args.clients = max(1, min(MAX_MADE_CLIENTS, len(data.train) // EXAMPLES_OF_ONE))
    return hold_out(args, partition(data, parse(args.partition, args.clients), seed=args.partition_seed or 0))


def _look(source: str, people: FederatedDataset) -> Facts:
    """Raises ``DataError`` for what cannot be trained on."""
    if people.num_classes < 2:
        raise DataError(f"{source} has one class, {class_name(people.classes, 0)!r}; expected two or more")
    first = people.clients[0].examples
    sizes = [len(client) for client in people.clients if len(client)]
    return Facts(
        source=one_line(Path(source).name),
        num_clients=len(sizes),
        num_held_out=sum(1 for part in people.held_out if len(part)),
        num_features=people.num_features,
        num_classes=people.num_classes,
        classes=people.classes,
        dtype=first.dtype,
        quantization=first.quantization,
        usual_client=round(statistics.median(sizes)),
        largest_client=max(sizes + [len(part) for part in people.held_out]),
        largest_value=_largest_value(source, people),
    )


def _largest_value(source: str, people: FederatedDataset) -> float:
    largest = [0.0] * people.num_features
    for examples in (client.examples for client in people.clients if len(client)):
        for extremes in kernels.feature_extremes(examples.features_view, quantization=examples.quantization):
            for index, value in enumerate(memoryview(extremes).cast("f")):
                largest[index] = max(largest[index], abs(value))
    most = max(largest)
    if most > new_files.MAX_FEATURE_BOUND:
        raise DataError(
            f"{source}: feature {largest.index(most) + 1} of {people.num_features} reaches {most:.9g}; expected at "
            f"most {new_files.MAX_FEATURE_BOUND:.0f}: leave it out if it is an id or a time, or use a larger unit"
        )
    return most


def _texts(facts: Facts, name: str, people: FederatedDataset) -> dict[str, str]:
    """The text of each file by its name; without held-out examples there is no evaluation."""
    texts = {STATISTICS: new_files.statistics_task(facts, name)}
    statistics_spec = new_files.parse(texts[STATISTICS], STATISTICS)
    training = new_files.parse(new_files.training_task(facts, name, 0.0), TRAINING)
    update = _largest_update(statistics_spec, training, people)
    texts[TRAINING] = new_files.training_task(facts, name, update)
    new_files.parse(texts[TRAINING], TRAINING)
    if facts.num_held_out:
        texts[EVALUATION] = new_files.evaluation_task(facts, name)
        new_files.parse(texts[EVALUATION], EVALUATION)
    return texts | {SERVER: new_files.server_config(), DEVICE: new_files.device_config(facts, name)}


def _largest_update(of_features: TaskSpec, training: TaskSpec, people: FederatedDataset) -> float:
    """The largest L2 norm of what the largest clients make of a model of zeros, by the tasks' own options."""
    trained = [client for client in people.clients if len(client)]
    measured = sorted(trained, key=len, reverse=True)[:MEASURED_CLIENTS]
    round_of_all = dataclasses.replace(of_features.round, goal=len(measured), minimum=len(measured))
    process = build_process(dataclasses.replace(of_features, round=round_of_all), None, None)
    assert isinstance(process, StatisticsProcess)  # noqa: S101 - by its kind
    standardization = process(measured)
    return max(_update_norm(client, training, standardization) for client in measured)


def _update_norm(client: ClientDataset, training: TaskSpec, standardization: Standardization) -> float:
    assert training.client is not None  # noqa: S101 - it is our own text
    assert training.model is not None  # noqa: S101 - likewise
    examples, options, shape = client.examples, training.client, training.model
    after, _ = kernels.train_softmax(
        Weights.zeros(shape.num_classes, shape.num_features),
        examples.features_view,
        examples.labels_view,
        TrainConfig(options.learning_rate, options.batch_size, options.local_epochs),
        standardization=standardization,
        quantization=examples.quantization,
    )
    return math.sqrt(kernels.squared_norm(after.to_bytes()))


def _write(out: Path, texts: dict[str, str]) -> None:
    """All files at once: by a folder next to ``out`` that is renamed."""
    draft: Path | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        draft.chmod(0o755)
        for name, text in texts.items():
            write_file(draft / name, text.encode())
        os.rename(draft, out)  # takes the place of an empty folder, and of nothing else
        draft = None
    except OSError as error:
        if out.exists():
            raise ConflictError(f"{out} exists; choose another folder (--out), or remove it") from None
        raise StorageError(f"{out}: cannot be written: {error.strerror}; choose another folder (--out)") from None
    finally:
        if draft is not None:
            shutil.rmtree(draft, ignore_errors=True)


def _summary(facts: Facts) -> str:
    names = [class_name(facts.classes, index) for index in range(min(10, facts.num_classes))]
    shown = ", ".join(names) + (", ..." if facts.num_classes > 10 else "")
    return (
        f"{facts.source}: {_counted(facts.num_clients, 'client')} with {facts.usual_client} examples each (median), "
        f"{facts.num_features} features ({facts.dtype.value}), {facts.num_classes} classes: {shown}"
    )


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _print_next(
    args: argparse.Namespace, out: Path, texts: dict[str, str], name: str, people: FederatedDataset
) -> None:
    tasks = [str(out / file) for file in (STATISTICS, TRAINING, EVALUATION) if file in texts]
    server, device = (shlex.quote(str(out / file)) for file in (SERVER, DEVICE))
    simulate = shlex.join(["edgefl", "simulate", *tasks, *options_of(args), "--out", str(out / "models")])
    print(f"\nTo train on it here, as a fleet would:\n  {simulate}")
    devices = _counted(sum(1 for client in people.clients if len(client)), "device")
    if len(people.clients) <= MAX_GRPC_CLIENTS and all(NAME.fullmatch(one.client_id) for one in people.clients):
        print("With --grpc at its end the same runs on a real server and a real agent for each client.")
    print(
        f"""
On a fleet (docs/guide.md) the same files do; goal and minimum in them are for {devices}. First the server:
  edgefl-server run --config {server}
On each device, with a name of its own in device.toml, and a file of its examples: label, split and the features:
  edgefl-device add --config {device} EXAMPLES.csv
  edgefl-device run --config {device}
Then start the tasks and watch them:
  {shlex.join(["edgefl", "--insecure", "task", "create", *tasks])}
  edgefl --insecure rounds {name}"""
    )
