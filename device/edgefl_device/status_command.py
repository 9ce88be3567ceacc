"""``edgefl-device status``: what the agent does and why, from its file, its process and the example store."""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import asdict, dataclass, replace

from edgefl.classes import class_name
from edgefl.command import one_line
from edgefl.errors import NotFoundError, StorageError
from edgefl.memory import peak_rss_bytes
from edgefl.protocol.messages import Split
from edgefl_device.config import DeviceConfig, load_config
from edgefl_device.example_store import ExampleStore
from edgefl_device.state import agent_is_running
from edgefl_device.status import QUIET, Status, read_status

MAX_CLASSES_SHOWN = 20
"""More would push what matters off the screen; ``--json`` has all."""


@dataclass(frozen=True)
class ClassCount:
    """The examples of one class; ``name``: its number where it has none."""

    name: str
    num_train: int
    num_held_out: int


def show_status(args: argparse.Namespace) -> int:
    """The command. Returns the exit status."""
    config = load_config(args.config)
    folder = config.device.state_dir
    status = read_status(folder / "status.json")
    if status is None:
        raise NotFoundError(f"no agent ever ran in {folder}; start one with 'edgefl-device run'")
    running = agent_is_running(folder)
    if running:
        status = replace(status, peak_rss_bytes=peak_rss_bytes(status.pid) or status.peak_rss_bytes)
    counts: tuple[ClassCount, ...] = ()
    try:
        counts = _count(config)
        num_train, num_held_out = sum(c.num_train for c in counts), sum(c.num_held_out for c in counts)
        status = replace(status, num_train=num_train, num_held_out=num_held_out)
    except StorageError as error:
        # The status is wanted most when something is broken: the counts are then those of the last check-in.
        print(f"edgefl-device: warning: {one_line(str(error))}", file=sys.stderr)
    if args.json:
        age_s = round(time.time() - status.updated_at, 1)
        by_class = [asdict(count) for count in counts]
        print(json.dumps({"running": running, "age_s": age_s, **asdict(status), "examples_by_class": by_class}))
    else:
        print(format_status(status, running, counts, wall_now=time.time()))
    return 0


def format_status(status: Status, running: bool, counts: tuple[ClassCount, ...], *, wall_now: float) -> str:
    """The status as lines for people."""
    state = f"running (pid {status.pid})" if running else "not running"
    lines = [
        f"device      {status.device} of population {status.population}",
        f"agent       {state}, version {status.agent_version}, session {status.session}",
        f"phase       {status.phase}{_why(status, running, wall_now)}",
        f"examples    {status.num_train} for training, {status.num_held_out} held out",
        *(f"  {line}" for line in _class_lines(counts)),
    ]
    if status.last_task:
        lines.append(f"last round  {status.last_task} round {status.last_round}: {status.last_outcome}")
    if status.last_failure:
        lines.append(f"failure     {_moment(status.last_failure_at)}: {status.last_failure}")
    lines.append(
        f"reported    {status.rounds_reported} updates accepted and {status.rounds_failed} rounds failed since the "
        "agent started"
    )
    lines.append(f"releases    {', '.join(status.releases) or 'none'}")
    if status.refused_release:
        lines.append(f"refused     release {status.refused_release}")
    for name, call in status.calls.items():
        lines.append(f"{name:<12}{call.calls} calls, {call.sent_bytes} bytes sent, {call.received_bytes} received")
    lines.append(f"peak memory {status.peak_rss_bytes / 1e6:.1f} MB")
    return "\n".join(lines)


def _why(status: Status, running: bool, wall_now: float) -> str:
    """What hinders the agent, or why it has no work; and when it tries again."""
    reason = status.last_error
    if not reason and status.no_work and status.phase in QUIET:
        reason = f"no work at the last check-in: {status.no_work}"
    left = status.next_try_at - wall_now
    again = f"; next try in {left:.0f} s" if running and reason and left >= 1 else ""
    return f": {reason}{again}" if reason else ""


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _count(config: DeviceConfig) -> tuple[ClassCount, ...]:
    """The examples of each class now, which is later than the agent's last check-in."""
    spec = config.examples
    with ExampleStore.open(config.store_path, spec) as store:
        found = {(group.label, group.split): group.count for group in store.groups(("label", "split"))}
    train, held_out = Split.TRAIN.value, Split.HELD_OUT.value
    return tuple(
        ClassCount(class_name(spec.classes, label), found.get((label, train), 0), found.get((label, held_out), 0))
        for label in range(spec.num_classes)
    )


def _class_lines(counts: tuple[ClassCount, ...]) -> list[str]:
    width = max((len(count.name) for count in counts[:MAX_CLASSES_SHOWN]), default=0)
    lines = [
        f"class {count.name:<{width}}  {count.num_train} for training, {count.num_held_out} held out"
        for count in counts[:MAX_CLASSES_SHOWN]
    ]
    if len(counts) > MAX_CLASSES_SHOWN:
        lines.append(f"and {len(counts) - MAX_CLASSES_SHOWN} more classes: --json has them all")
    return lines
