"""How the three commands begin and end: one line for each error, one exit status for each kind of error.

Shared by ``edgefl``, ``edgefl-server`` and ``edgefl-device``. Source: design §6 (one table to exit codes).
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable
from typing import NoReturn

from edgefl.errors import EdgeFLError, InterruptedByUser, StorageError

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
    except KeyboardInterrupt as interrupt:  # its argument says what was put away
        print(f"{prog}: {'; '.join(['interrupted', *map(str, interrupt.args)])}", file=sys.stderr)
        return InterruptedByUser.exit_code
    except BrokenPipeError:
        # The reader went away (`| head`): nothing is wrong. What is still buffered must not fail when Python exits.
        _drop_output()
        return 0
    except OSError as error:
        # Files say their own errors: this is what is printed, into a file on a disk that is full.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _drop_output()
        print(f"{prog}: error: the output cannot be written: {error.strerror}; make room for it", file=sys.stderr)
        return StorageError.exit_code


def _drop_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def one_line(text: str) -> str:
    """``text`` on one line, without characters that would steer a terminal (it may come from the other side)."""
    return " ".join(
        "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in word) for word in text.split()
    )
