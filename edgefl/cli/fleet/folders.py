"""The folders of a fleet on this machine: one for the server, one for each device with its own examples and no others.

OUT/server/             configuration and data of the server
OUT/devices/NAME/       configuration, example store and state of one agent
"""

from __future__ import annotations

import io
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from edgefl.cli.installed import installed
from edgefl.cli.output import write_file
from edgefl.datasets import FederatedDataset
from edgefl.errors import DataError
from edgefl.types import ClientDataset, Examples

MIN_QUOTA_BYTES = 64 << 20
"""An agent's default."""

EXAMPLE_COST_BYTES = 256
"""More than the store takes for an example beside its features (``edgefl_device.config``): nothing may be dropped."""

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
dtype = "{dtype}"
scale = {scale!r}
zero_point = {zero_point}
quota_bytes = {quota_bytes}
"""


def write_server(out: Path) -> Path:
    path = out / "server" / "server.toml"
    write_file(path, SERVER_TOML.encode())
    return path


def write_device(out: Path, client: ClientDataset, population: str, address: str, data: FederatedDataset) -> Path:
    """The configuration of the device of ``client``, whose examples are of the kind that ``data`` has."""
    path = out / "devices" / client.client_id / "device.toml"
    examples = client.examples
    count = sum(len(part) for part in (*data.clients, *data.held_out) if part.client_id == client.client_id)
    text = DEVICE_TOML.format(
        name=client.client_id,
        population=population,
        address=address,
        num_features=data.num_features,
        num_classes=data.num_classes,
        dtype=examples.dtype.value,
        scale=examples.quantization.scale,
        zero_point=examples.quantization.zero_point,
        quota_bytes=max(MIN_QUOTA_BYTES, count * (data.num_features * examples.dtype.size_bytes + EXAMPLE_COST_BYTES)),
    )
    write_file(path, text.encode())
    return path


def fill_stores(configs: dict[str, Path], data: FederatedDataset) -> None:
    """Give each device its own examples through the command that a user would take: ``edgefl-device add``.

    Raises ``DataError`` with what the first command that failed said.
    """
    held_out = {client.client_id: client for client in data.held_out}
    waiting = list(data.clients)
    at_once = len(os.sched_getaffinity(0)) + 1
    while waiting:
        some, waiting = waiting[:at_once], waiting[at_once:]
        adding = [_start_adding(configs[one.client_id], one, held_out.get(one.client_id)) for one in some]
        failures = [text for file, process in adding if (text := _finish_adding(file, process))]
        if failures:
            raise DataError(f"edgefl-device add failed: {failures[0]}")


def _start_adding(
    config: Path, train: ClientDataset, held_out: ClientDataset | None
) -> tuple[Path, subprocess.Popen[bytes]]:
    file = config.parent / "examples.npz"
    parts = [train.examples] if held_out is None else [train.examples, held_out.examples]
    write_file(file, _npz(parts))
    command = [installed("edgefl-device"), "add", "--config", str(config), str(file)]
    return file, subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _finish_adding(file: Path, process: subprocess.Popen[bytes]) -> str:
    """What was wrong; '' when nothing was."""
    _, error = process.communicate()
    file.unlink()
    if not process.returncode:
        return ""
    return error.decode(errors="replace").strip() or f"exit status {process.returncode}"


def _npz(parts: Sequence[Examples]) -> bytes:
    """The training part, then the held-out one, in the bytes that they have."""
    import numpy as np

    first = parts[0]
    features = np.frombuffer(b"".join(part.features for part in parts), first.dtype.value)
    file = io.BytesIO()
    np.savez(
        file,
        features=features.reshape(-1, first.num_features),
        labels=np.frombuffer(b"".join(part.labels for part in parts), np.int32),
        held_out=np.repeat([False, True][: len(parts)], [len(part) for part in parts]),
    )
    return file.getvalue()
