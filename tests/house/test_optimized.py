"""``python -O`` leaves every ``assert`` out, and what is refused without it must be refused with it.

ruff's rule S101 keeps an ``assert`` out of the modules that check input; `make test-optimized` runs the whole suite so.
"""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
from places import TESTS


@pytest.mark.parametrize("options", [[], ["-O"]], ids=["usual", "optimized"])
def test_no_wrong_buffer_ends_the_process_or_meets_an_untyped_error(options: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONOPTIMIZE"}
    command = [sys.executable, *options, str(TESTS / "kits" / "bad_calls.py")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60, check=False)
    assert done.returncode == 0, f"exit {done.returncode}: {done.stdout}; the last call: {done.stderr.splitlines()[-1]}"
    assert int(done.stdout.split()[0]) > 400
