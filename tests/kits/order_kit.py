"""In which order a function makes files durable and gives them their names: what a power cut between two steps leaves.

Everything is done as ever; each call is only noted, too. Names are those of files, without their folders.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest


def watch_order(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The list that fills: "write NAME", "sync NAME", "rename OLD NEW", "link OLD NEW"; SQLite's own are not seen."""
    steps: list[str] = []

    def note(name: str, verb: str) -> None:
        real = getattr(os, name)

        def noted(*arguments: Any, **words: Any) -> Any:
            answer = real(*arguments, **words)
            paths = [a for a in arguments if isinstance(a, str | Path)] or [
                os.readlink(f"/proc/self/fd/{arguments[0]}")
            ]
            steps.append(" ".join([verb, *(Path(path).name for path in paths)]))
            return answer

        monkeypatch.setattr(os, name, noted)

    note("pwrite", "write")
    note("fsync", "sync")
    note("rename", "rename")
    note("link", "link")
    return steps
