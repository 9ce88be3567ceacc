"""The demo's own files, next to those of its fleet (``edgefl.launcher.folders``).

OUT/tasks/*.toml        the three task definitions; `edgefl simulate OUT/tasks/*.toml --dataset watch` runs them too
"""

from __future__ import annotations

import re
import shutil
from importlib.resources import files
from pathlib import Path
from typing import IO

from edgefl.errors import StorageError
from edgefl.files import lock, write_file
from edgefl.protocol.task import TaskSpec, parse_task

TASKS = ("statistics", "training", "evaluation")
MARKER = ".edgefl-demo"


def take_folder(out: Path) -> IO[bytes]:
    """Make ``out`` empty, and hold it against other demos until the answer is closed.

    Raises ``StorageError`` for a folder that is not a demo's, which is never touched, and ``ConflictError`` for one
    that another demo uses at the moment.
    """
    try:
        if out.exists() and not out.is_dir():
            raise StorageError(f"{out} is a file; expected a folder, or a path where there is nothing")
        if out.exists() and any(out.iterdir()) and not (out / MARKER).exists():
            raise StorageError(f"{out} exists and is not a demo's folder; choose another with --out")
        out.mkdir(parents=True, exist_ok=True)
        marker = (out / MARKER).open("ab")
        try:
            lock(marker, out)
            _empty(out)
        except BaseException:
            marker.close()
            raise
    except OSError as error:
        raise StorageError(f"{out}: cannot be made or emptied: {error.strerror}; choose another with --out") from None
    return marker


def _empty(out: Path) -> None:
    for path in out.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif path.name != MARKER:
            path.unlink()


def write_tasks(out: Path, rounds: int, seed: int) -> dict[str, tuple[TaskSpec, Path]]:
    """The three definitions with the wanted number of rounds and seed, by kind."""
    tasks = {}
    for kind in TASKS:
        text = (files("edgefl.demo") / "tasks" / f"{kind}.toml").read_text()
        if kind != "statistics":
            text = re.sub(r"(?m)^rounds = \d+$", f"rounds = {rounds}", text)
        text = re.sub(r"(?m)^seed = \d+$", f"seed = {seed}", text)
        path = out / "tasks" / f"{kind}.toml"
        spec = parse_task(text, str(path))
        write_file(path, text.encode())
        tasks[kind] = (spec, path)
    return tasks
