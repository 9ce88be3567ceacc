"""What is running on this machine, for tests that say what must not be left."""

from __future__ import annotations

import os
from pathlib import Path


def processes_naming(folder: Path) -> dict[int, str]:
    """Command lines of running processes that name ``folder``, by their ids."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(folder) in line:
                found[int(entry.name)] = line
    return found
