"""What an option needs besides this command: EdgeFL's other commands, started as programs, and optional packages."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

from edgefl.errors import ConfigError


def installed(command: str) -> str:
    """The path of one of EdgeFL's commands: next to this interpreter, else on PATH. Raises ``ConfigError``."""
    neighbour = Path(sys.executable).parent / command
    path = str(neighbour) if neighbour.exists() else shutil.which(command)
    if path is None:
        raise ConfigError(f"{command} is not installed next to {sys.executable}; install the package first: make demo")
    return path


def typed() -> str:
    """This command as a person must type it here: by its name, or by a path where PATH does not lead to it."""
    name = Path(sys.argv[0]).name
    found = shutil.which(name)
    return name if found is not None and os.path.samefile(found, sys.argv[0]) else sys.argv[0]


def need_packages(option: str, *packages: str) -> None:
    """Raises ``ConfigError`` when one of ``packages`` of the extra ``sim``, which ``option`` imports, is missing."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise ConfigError(f"{option} needs the package {package}; install EdgeFL with its extra 'sim'")
