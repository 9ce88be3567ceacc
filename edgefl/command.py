"""How the three commands begin and end: one line for each error, one exit status for each kind of error.

Shared by ``edgefl``, ``edgefl-server`` and ``edgefl-device``. Source: design §6 (one table to exit codes).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import NoReturn

from edgefl.errors import EdgeFLError, InterruptedByUser

USAGE_EXIT = 64
"""``EX_USAGE``: wrong options. argparse's own 2 would say nothing."""


class Parser(argparse.ArgumentParser):
    """An ``ArgumentParser`` whose errors are one line, with the exit status of wrong usage."""

    def error(self, message: str) -> NoReturn:
        print(f"{self.prog}: error: {message} (see {self.prog} --help)", file=sys.stderr)
        raise SystemExit(USAGE_EXIT)


def run_command(prog: str, body: Callable[[], int]) -> int:
    """Run ``body`` and return the exit status. An ``EdgeFLError`` becomes one line on stderr; other errors are bugs."""
    try:
        return body()
    except EdgeFLError as error:
        print(f"{prog}: error: {' '.join(str(error).split())}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return InterruptedByUser.exit_code
    except BrokenPipeError:
        sys.stderr.close()  # the reader went away (`| head`): nothing is wrong, and nobody is left to tell
        return 0
