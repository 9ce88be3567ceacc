"""What the parsers of the subcommands share: the types of options, and what starts a command."""

from __future__ import annotations

import argparse
from collections.abc import Callable


def text(value: str) -> str:
    """A name that goes to the server. A terminal of another encoding makes texts that are not Unicode."""
    try:
        value.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{value!r} is not UTF-8 text") from None
    return value


def version(value: str) -> int:
    """A model's version, 1 to 2**32 - 1: what the wire holds."""
    return _whole(value, "a version", 1, 2**32 - 1)


def count(value: str) -> int:
    return _whole(value, "a count", 1, 999_999_999)


def rounds(value: str) -> int:
    return _whole(value, "a number of rounds", 1, 999_999_999)


def run_number(value: str) -> int:
    return _whole(value, "the number of a run", 0, 10**18 - 1)


def seed(value: str) -> int:
    return _whole(value, "a seed", 0, 10**18 - 1)


def _whole(value: str, what: str, least: int, most: int) -> int:
    if not (value.isascii() and value.isdecimal() and len(value) <= len(str(most)) and least <= int(value) <= most):
        raise argparse.ArgumentTypeError(f"{value!r} is not {what}; expected a whole number, {least} to {most}")
    return int(value)


def seconds(value: str) -> float:
    try:
        seconds = float(value)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds <= 1e6:
        raise argparse.ArgumentTypeError(f"{value!r} is not a time; expected 0 to 1000000 seconds")
    return seconds


def json_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print JSON, one object per line, for programs")


def lazy(module: str, function: str) -> Callable[[argparse.Namespace], int]:
    def run(args: argparse.Namespace) -> int:
        from importlib import import_module

        result = getattr(import_module(module), function)(args)
        return 0 if result is None else int(result)

    return run
