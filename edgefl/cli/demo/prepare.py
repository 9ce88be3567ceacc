"""The demo's folders: one for the server, one for each device with that person's windows and nothing else.

OUT/tasks/*.toml        the three task definitions; `edgefl simulate OUT/tasks/*.toml --dataset watch` runs them too
OUT/server/             configuration and data of the server
OUT/devices/NAME/       configuration, example store and state of one agent
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

from edgefl.cli.installed import installed
from edgefl.cli.output import write_file
from edgefl.datasets import FederatedDataset
from edgefl.errors import DataError, StorageError
from edgefl.protocol.task import TaskSpec, parse_task
from edgefl.types import ClientDataset, Examples

TASKS = ("statistics", "training", "evaluation")
MARKER = ".edgefl-demo"

SERVER_TOML = """\
listen = "127.0.0.1:0"
insecure = true
data_dir = "data"
"""

DEVICE_TOML = """\
[device]
name = "{name}"
population = "{population}"
state_dir = "state"

[server]
address = "{address}"
insecure = true

[examples]
num_features = {num_features}
num_classes = {num_classes}
"""


def fresh_folder(out: Path) -> None:
    """Make ``out`` empty. A folder that is not a demo's is never removed: ``StorageError``."""
    if out.exists() and any(out.iterdir()) and not (out / MARKER).exists():
        raise StorageError(f"{out} exists and is not a demo's folder; choose another with --out")
    try:
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        (out / MARKER).touch()
    except OSError as error:
        raise StorageError(f"{out}: cannot be made: {error.strerror}") from None


def write_tasks(out: Path, rounds: int, seed: int) -> dict[str, tuple[TaskSpec, Path]]:
    """The three definitions with the wanted number of rounds and seed, by kind."""
    tasks = {}
    for kind in TASKS:
        text = (files("edgefl.cli") / "tasks" / f"{kind}.toml").read_text()
        if kind != "statistics":
            text = re.sub(r"(?m)^rounds = \d+$", f"rounds = {rounds}", text)
        text = re.sub(r"(?m)^seed = \d+$", f"seed = {seed}", text)
        path = out / "tasks" / f"{kind}.toml"
        spec = parse_task(text, str(path))
        write_file(path, text.encode())
        tasks[kind] = (spec, path)
    return tasks


def write_server(out: Path) -> Path:
    path = out / "server" / "server.toml"
    write_file(path, SERVER_TOML.encode())
    return path


def write_device(out: Path, name: str, population: str, address: str, data: FederatedDataset) -> Path:
    path = out / "devices" / name / "device.toml"
    text = DEVICE_TOML.format(
        name=name,
        population=population,
        address=address,
        num_features=data.num_features,
        num_classes=data.num_classes,
    )
    write_file(path, text.encode())
    return path


def fill_stores(configs: dict[str, Path], data: FederatedDataset) -> None:
    """Give each device its own person's windows through the command that a user would take: ``edgefl-device add``."""
    adding: list[tuple[Path, subprocess.Popen[bytes]]] = []
    held_out = {client.client_id: client for client in data.held_out}
    for client in data.clients:
        config = configs[client.client_id]
        file = config.parent / "windows.csv"
        write_file(file, _csv(client, held_out[client.client_id]))
        command = [installed("edgefl-device"), "add", "--config", str(config), str(file)]
        adding.append((file, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)))
    failures = []
    for file, process in adding:
        _, error = process.communicate()
        file.unlink()
        if process.returncode:
            failures.append(error.decode(errors="replace").strip() or f"exit status {process.returncode}")
    if failures:
        raise DataError(f"edgefl-device add failed: {failures[0]}")


def _csv(train: ClientDataset, held_out: ClientDataset) -> bytes:
    rows = [*_rows(train.examples, "train"), *_rows(held_out.examples, "held_out")]
    header = ["label", "split", *(f"f{i}" for i in range(train.examples.num_features))]
    return "".join(",".join(row) + "\n" for row in [header, *rows]).encode()


def _rows(examples: Examples, split: str) -> Sequence[list[str]]:
    values = memoryview(examples.features).cast("f")
    width = examples.num_features
    labels = examples.labels_view
    return [[str(labels[i]), split, *(repr(values[i * width + j]) for j in range(width))] for i in range(len(examples))]
