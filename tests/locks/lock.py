"""Writes the lock files of the development environment, one per Python, or checks them (``--check``).

``python3.NN.txt`` pins every package of the extra ``dev``. ``make`` installs with that file as constraints, so the
installer has one candidate per package and nothing to search: without it, pip walked back through thirty versions of
matplotlib for up to 14 minutes. ``--check`` fails when a file does not follow from ``pyproject.toml`` any more (its own
pins count as preferences, so a newer release elsewhere is not a failure), and when pip, with no choice left, does not
accept the pins of the Python that runs it: uv and pip read a package's upper bound on Python differently.

Needs uv, and the network. Run by ``make lock`` and ``.ci/run``.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).parent
PYPROJECT = HERE.parent.parent / "pyproject.toml"
PYTHONS = ("3.11", "3.12", "3.13", "3.14")

BOUNDS = """\
# 1.3 says that it is for Python below 3.11. pip refuses it there; uv, which wrote this file, ignores upper bounds.
backports-strenum<1.3
"""


def lock_file(python: str) -> Path:
    return HERE / f"python{python}.txt"


def resolve(python: str, out: Path, *, upgrade: bool) -> None:
    """Write the pins for ``python`` into ``out``; those that stand there are kept where they still fit."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as bounds:
        bounds.write(BOUNDS)
        bounds.flush()
        command = ["uv", "pip", "compile", "--quiet", "--no-header", "--no-annotate", "--no-emit-index-url"]
        command += ["--python-version", python, "--extra", "dev", "--constraint", bounds.name]
        command += ["--output-file", str(out), *(["--upgrade"] if upgrade else []), str(PYPROJECT)]
        subprocess.run(command, check=True)


def stale(python: str) -> bool:
    """Whether the lock of ``python`` differs from what pyproject.toml asks for today."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "lock.txt"
        shutil.copy(lock_file(python), copy)
        resolve(python, copy, upgrade=False)
        return copy.read_text() != lock_file(python).read_text()


def pip_accepts(python: str) -> bool:
    """Whether pip takes exactly these packages. With --no-deps it has no version to choose."""
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--dry-run", "--ignore-installed", "--no-deps"]
    return subprocess.run([*command, "--requirement", str(lock_file(python))], check=False).returncode == 0


def main() -> int:
    parser = argparse.ArgumentParser(description="Pin the development environment, one file per Python.")
    parser.add_argument("--check", action="store_true", help="change nothing; fail when a file is out of date")
    arguments = parser.parse_args()
    if not arguments.check:
        for python in PYTHONS:
            resolve(python, lock_file(python), upgrade=True)
            print(f"wrote {lock_file(python).name}")
        return 0
    problems = [f"{lock_file(python).name} does not follow from pyproject.toml" for python in PYTHONS if stale(python)]
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    if own not in PYTHONS:
        problems.append(f"there is no lock for Python {own}; known are {', '.join(PYTHONS)}")
    elif not pip_accepts(own):
        problems.append(f"pip refuses {lock_file(own).name}")
    for problem in problems:
        print(f"{problem}: run make lock", file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
