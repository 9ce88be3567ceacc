"""EdgeFL's other commands, which this one starts as programs: the core imports neither server nor agent."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from edgefl.errors import ConfigError


def installed(command: str) -> str:
    """The path of one of EdgeFL's commands: beside this interpreter, else on PATH. Raises ``ConfigError``."""
    beside = Path(sys.executable).parent / command
    path = str(beside) if beside.exists() else shutil.which(command)
    if path is None:
        raise ConfigError(f"{command} is not installed beside {sys.executable}; install the package first: make demo")
    return path


def replay(args: argparse.Namespace) -> None:
    """Become ``edgefl-server replay``, which reads the ledger."""
    options = {"--version": args.model_version, "--out": args.out}
    given = [text for name, value in options.items() if value is not None for text in (name, str(value))]
    os.execv(installed("edgefl-server"), ["edgefl-server", "replay", "--config", args.config, *given, args.task])
