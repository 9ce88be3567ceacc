"""The server that a command's options name."""

from __future__ import annotations

import argparse

from edgefl.operator.connection import Target


def target(args: argparse.Namespace) -> Target:
    """Raises ``ConfigError`` for an address that plaintext may not reach."""
    return Target(args.server, args.operator, args.insecure)
