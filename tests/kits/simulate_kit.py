"""What the tests of ``edgefl simulate --faults`` share: three tasks, a data set, and short ways to run the command."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

from edgefl.cli.main import main

TASKS = {
    "spreads": """
name = "spreads"
kind = "statistics"
population = "watches"
rounds = 2
round = { goal = 4, minimum = 2 }
model = { num_features = 3, num_classes = 3 }
statistics = { feature_bound = 8.0 }
""",
    "gestures": """
name = "gestures"
kind = "training"
population = "watches"
seed = 11
rounds = 50
round = { goal = 4, minimum = 2, over_selection = 1.25 }
model = { num_features = 3, num_classes = 3, standardize_by = "spreads" }
client = { learning_rate = 0.2, batch_size = 4 }
server_optimizer = { learning_rate = 1.0, momentum = 0.5 }
""",
    "accuracy": """
name = "accuracy"
kind = "evaluation"
population = "watches"
rounds = 60
evaluates = "gestures"
round = { goal = 4, minimum = 2 }
""",
}
CLIENTS = 5

Tables = dict[str, dict[str, Any]]

QUIET: Tables = {
    "": {"clock_jumps": 0},
    "network": {"loss": [0.0], "copies": [0.0], "delay": [0.0], "partitions": 0},
    "server": dict.fromkeys(("kills", "power_cuts", "sync_errors", "write_errors", "disk_full", "takeovers"), 0)
    | {"old_offers": [0.0], "restarts": 0, "pauses": 0},
    "device": dict.fromkeys(("kills", "power_cuts", "card_full", "card_errors", "duplicates"), 0),
}
"""Every kind of fault switched off."""


def toml(*layers: Tables) -> str:
    """The tables of all layers; a later one wins."""
    names = {name: None for layer in layers for name in layer}
    lines = []
    for name in names:
        lines.append(f"[{name}]" if name else "")
        values = {key: value for layer in layers for key, value in layer.get(name, {}).items()}
        lines.extend(f"{key} = {json.dumps(value)}" for key, value in values.items())
    return "\n".join(lines)


def write_files(folder: Path) -> Path:
    """Fill ``folder`` with three tasks, a data set of five clients, and an empty faults file."""
    for name, text in TASKS.items():
        (folder / f"{name}.toml").write_text(text)
    plain = TASKS["gestures"].replace(', standardize_by = "spreads"', "")
    (folder / "plain.toml").write_text(plain)
    chance = random.Random(5)
    rows = ["client,label,split,a,b,c"]
    for client in range(CLIENTS):
        for number in range(12 + client):
            label = chance.randrange(3)
            features = (f"{chance.gauss(float(label == index), 1.0):.3f}" for index in range(3))
            rows.append(f"person {client},{label},{'held_out' if number % 4 == 0 else 'train'},{','.join(features)}")
    (folder / "people.csv").write_text("\n".join(rows))
    (folder / "faults.toml").write_text("")
    return folder


def argv(files: Path, *tasks: str, faults: Path | None = None) -> list[str]:
    paths = [str(files / f"{name}.toml") for name in tasks or TASKS]
    return [
        "simulate",
        *paths,
        "--dataset",
        str(files / "people.csv"),
        "--faults",
        str(faults or files / "faults.toml"),
    ]


def report(capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> dict[str, Any]:
    assert main([*arguments, "--json"]) == status
    return dict(json.loads(capsys.readouterr().out))
