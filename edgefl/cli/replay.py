"""``edgefl replay``: the server's own command reads the ledger."""

from __future__ import annotations

import argparse
import os

from edgefl.console.installed import installed


def replay(args: argparse.Namespace) -> None:
    """Become ``edgefl-server replay``, which reads the ledger."""
    options = {"--version": args.model_version, "--out": args.out}
    given = [text for name, value in options.items() if value is not None for text in (name, str(value))]
    os.execv(installed("edgefl-server"), ["edgefl-server", "replay", "--config", args.config, *given, args.task])
