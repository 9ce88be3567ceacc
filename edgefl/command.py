"""How the three commands begin and end: one line for each error, one exit status for each kind of error.

Shared by ``edgefl``, ``edgefl-server`` and ``edgefl-device``. Source: design §6 (one table to exit codes).
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from edgefl.errors import EdgeFLError, InterruptedByUser

USAGE_EXIT = 64
"""``EX_USAGE``: wrong options. argparse's own 2 would say nothing."""


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose errors are one line, with the exit status of wrong usage."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error: {one_line(message)} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(USAGE_EXIT)


def run_command(prog: str, body: Callable[[], int]) -> int:
    """Run ``body`` and return the exit status. An ``EdgeFLError`` becomes one line on stderr; other errors are bugs."""
    try:
        status = body()
        sys.stdout.flush()
        return status
    except EdgeFLError as error:
        print(f"{prog}: error: {one_line(str(error))}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return InterruptedByUser.exit_code
    except BrokenPipeError:
        # The reader went away (`| head`): nothing is wrong. What is still buffered must not fail when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def one_line(text: str) -> str:
    """``text`` on one line, without characters that would steer a terminal (it may come from the other side)."""
    return " ".join(
        "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in word) for word in text.split()
    )
