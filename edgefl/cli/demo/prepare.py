"""The demo's own files beside those of its fleet (``edgefl.cli.fleet.folders``).

OUT/tasks/*.toml        the three task definitions; `edgefl simulate OUT/tasks/*.toml --dataset watch` runs them too
"""

from __future__ import annotations

import re
import shutil
from importlib.resources import files
from pathlib import Path

from edgefl.errors import StorageError
from edgefl.files import write_file
from edgefl.protocol.task import TaskSpec, parse_task

TASKS = ("statistics", "training", "evaluation")
MARKER = ".edgefl-demo"


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
