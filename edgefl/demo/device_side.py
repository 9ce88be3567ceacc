"""What the demo asks the devices, through their own command: releases, predictions, traffic."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefl.console.installed import installed
from edgefl.demo.baselines import Model
from edgefl.errors import UnavailableError
from edgefl.kernels import predict_softmax
from edgefl.launcher.processes import started
from edgefl.types import ClientDataset

RELEASE_WAIT_S = 30.0
"""The server answers waiting devices as soon as there is a release; a device needs a fraction of a second."""

POLL_S = 0.2


@dataclass(frozen=True)
class DeviceTraffic:
    """Serialized gRPC messages of one device.

    ``bytes_up_per_report``: mean of its training reports. ``bytes_down_per_round``: all that it received for training
    and for the evaluation that follows (assignments, the model once, receipts), by training rounds.
    """

    bytes_up_per_report: float
    bytes_down_per_round: float
    total_up: int
    total_down: int


@dataclass(frozen=True)
class Told:
    """What TFLite on a device said: a sentence for people, and the largest difference from the kernel."""

    sentence: str
    max_abs_diff: float


def ask(command: str, config: Path, *options: str) -> dict[str, Any]:
    """The JSON that ``edgefl-device COMMAND`` prints. Raises ``UnavailableError`` with its one line."""
    arguments = [installed("edgefl-device"), command, "--config", str(config), "--json", *options]
    with started(arguments) as process:
        output, errors = process.communicate()
    if process.returncode:
        raise UnavailableError(errors.decode(errors="replace").strip() or f"{command}: status {process.returncode}")
    answer: dict[str, Any] = json.loads(output)
    return answer


def wait_for_release(config: Path, name: str, version: int, check: Callable[[], None]) -> None:
    """Until the device says that it has the release; ``check`` raises when a process died."""
    deadline = time.monotonic() + RELEASE_WAIT_S
    while f"{name} {version}" not in ask("status", config)["releases"]:
        check()
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"the device of {config} did not get release {name} {version} within {RELEASE_WAIT_S} s"
            )
        time.sleep(POLL_S)


def predict_on_device(config: Path, held_out: ClientDataset, model: Model, classes: tuple[str, ...]) -> Told:
    """Let the device predict all its held-out windows by TFLite; compare each with the kernel's probabilities."""
    rows = ask("predict", config, "--split", "held_out")["rows"]
    raw = predict_softmax(model.weights, held_out.examples.features_view, standardization=model.standardization)
    kernel = memoryview(raw).cast("f")
    told = [p for row in rows for p in row["probabilities"]]
    if len(told) != len(kernel):
        raise UnavailableError(f"{config}: {len(told)} probabilities from the device; expected {len(kernel)}")
    first = rows[0]
    sentence = (
        f"{held_out.client_id}, held-out window 0, by TFLite: {classes[first['predicted']]} "
        f"(probability {max(first['probabilities']):.3f}); the person did {classes[first['label']]}"
    )
    return Told(sentence, max(abs(a - b) for a, b in zip(told, kernel, strict=True)))


def traffic_of(config: Path) -> DeviceTraffic:
    """What the device sent and received, by its own count; exact once its agent has stopped."""
    kinds: dict[str, dict[str, int]] = ask("status", config)["traffic"]
    training = kinds["training"]
    received = training["received_bytes"] + kinds["evaluation"]["received_bytes"]
    return DeviceTraffic(
        bytes_up_per_report=training["report_bytes"] / training["reports"],
        bytes_down_per_round=received / training["reports"],
        total_up=sum(counts["sent_bytes"] for counts in kinds.values()),
        total_down=sum(counts["received_bytes"] for counts in kinds.values()),
    )
