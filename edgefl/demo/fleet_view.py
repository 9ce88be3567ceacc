"""From what the server and the agents say to what the live view shows: one line for the server, one row per device."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgefl.demo.view import Row, View
from edgefl.launcher.following import Follower
from edgefl.protocol.events import Phase

WORK = {"statistics": "measuring", "training": "training", "evaluation": "evaluating"}
COLLECTS = {
    "statistics": "adds up means and spreads, round {round}: {accepted} of {goal}",
    "training": "collects model updates, round {round}: {accepted} of {goal}",
    "evaluation": "collects right answers on the model of round {round}: {accepted} of {goal}",
}
PHASES = {
    "new": "starting",
    "idle": "waiting",
    "checked_in": "waiting",
    "assigned": "fetching model",
    "saving": "saving",
    "reporting": "reporting",
    "halted": "stopped",
}
AWAY = "server is away"


def read_status(config: Path) -> dict[str, Any]:
    """What an agent last wrote about itself; {} before its first word."""
    try:
        status: dict[str, Any] = json.loads((config.parent / "state" / "status.json").read_text())
    except (OSError, ValueError):
        return {}
    return status


def show_rounds(view: View, followers: Mapping[str, Follower]) -> str:
    """The server's line and the curve; returns the kind of the task whose round is collecting now, or ''."""
    done = followers["training"].in_order()
    view.round_num = len(done)
    view.curve = [summary.metrics.accuracy for summary in followers["evaluation"].in_order() if summary.metrics]
    for kind, follower in followers.items():
        latest = follower.latest
        if latest is not None and latest.phase is Phase.COLLECTING:
            view.server = COLLECTS[kind].format(round=latest.round_num, accepted=latest.accepted, goal=latest.goal)
            return kind
    view.server = "waits for the devices"
    return ""


def show_device(row: Row, status: Mapping[str, Any], kind: str, counted: int, training: str) -> None:
    """The row of a device whose agent runs. ``counted``: training rounds that are committed, each with all devices."""
    phase = str(status.get("phase", "new"))
    if phase == "training":
        row.now = WORK.get(kind, "working")
    else:
        row.now = AWAY if status.get("last_error") else PHASES.get(phase, phase)
    newest = status.get("last_task") == training and str(status.get("last_outcome", "")).startswith("accepted")
    row.updates = max(row.updates, counted, int(status.get("last_round", 0)) if newest else 0)
