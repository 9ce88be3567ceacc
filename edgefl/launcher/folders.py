"""The folders of a fleet on this machine: one for the server, one for each device with its own examples and no others.

OUT/server/             configuration and data of the server
OUT/devices/NAME/       configuration, example store and state of one agent
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Callable
from pathlib import Path

from edgefl.console.installed import installed
from edgefl.datasets import FederatedDataset
from edgefl.errors import DataError
from edgefl.files import write_file
from edgefl.launcher.processes import started, uninterrupted
from edgefl.types import ClientDataset

MIN_QUOTA_BYTES = 64 << 20
"""An agent's default."""

EXAMPLE_COST_BYTES = 256
"""More than the store takes for an example besides its features (``edgefl_device.config``): nothing may be dropped."""

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

[eligibility]
min_examples = {min_examples}
"""


def write_server(out: Path, more: str = "") -> Path:
    """``more``: further lines of the configuration."""
    path = out / "server" / "server.toml"
    write_file(path, (SERVER_TOML + more).encode())
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
        min_examples=min(1, len(client)),  # one with held-out examples alone checks in too
        quota_bytes=max(MIN_QUOTA_BYTES, count * (data.num_features * examples.dtype.size_bytes + EXAMPLE_COST_BYTES)),
    )
    write_file(path, text.encode())
    return path


def fill_stores(
    configs: dict[str, Path], data: FederatedDataset, told: Callable[[str], None] = lambda _name: None
) -> None:
    """Give each device its own examples through the command that a user would take: ``edgefl-device add``.

    ``told`` hears the name of each device that has them. Raises ``DataError`` with the words of the first command that
    failed.
    """
    held_out = {client.client_id: client for client in data.held_out}
    at_once = len(os.sched_getaffinity(0)) + 1
    for first in range(0, len(data.clients), at_once):
        with contextlib.ExitStack() as stack:  # ends every command that was started
            adding = []
            for client in data.clients[first : first + at_once]:
                config = configs[client.client_id]
                file = config.parent / "examples.npz"
                write_file(file, _npz(client, held_out.get(client.client_id)))
                stack.callback(file.unlink)
                command = [installed("edgefl-device"), "add", "--config", str(config), str(file)]
                with uninterrupted():
                    adding.append((client.client_id, stack.enter_context(started(command))))
            for name, process in adding:
                _, error = process.communicate()
                if process.returncode:
                    text = error.decode(errors="replace").strip() or f"exit status {process.returncode}"
                    raise DataError(f"edgefl-device add failed: {text}")
                told(name)


def _npz(train: ClientDataset, held_out: ClientDataset | None) -> bytes:
    """The training part, then the held-out one, in the bytes that they have."""
    import numpy as np

    parts = [train.examples] if held_out is None else [train.examples, held_out.examples]
    first = train.examples
    features = np.frombuffer(b"".join(part.features for part in parts), first.dtype.value)
    file = io.BytesIO()
    np.savez(
        file,
        features=features.reshape(-1, first.num_features),
        labels=np.frombuffer(b"".join(part.labels for part in parts), np.int32),
        held_out=np.repeat([False, True][: len(parts)], [len(part) for part in parts]),
    )
    return file.getvalue()
