"""The command ``edgefl-server``."""

from __future__ import annotations

import argparse
import asyncio
import logging
import os
import sys
from pathlib import Path

from edgefl._version import __version__
from edgefl.command import Parser, run_command
from edgefl_server.config import ServerConfig, load_config

_EXAMPLES = """\
examples:
  edgefl-server run --config server.toml
  edgefl-server run --config server.toml --listen 127.0.0.1:0 --insecure

When it serves, it prints one line: listening on HOST:PORT. The log goes to stderr. SIGTERM lets calls in flight
finish, then exits with status 0.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    return run_command("edgefl-server", lambda: _run(arguments))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="edgefl-server",
        description="The EdgeFL server: runs the rounds of a fleet and keeps its models.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edgefl-server {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    run = commands.add_parser(
        "run",
        help="serve until told to stop",
        description="Serve until SIGTERM or Ctrl-C.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("--config", type=Path, required=True, metavar="FILE", help="the configuration (TOML)")
    run.add_argument("--listen", metavar="HOST:PORT", help="instead of the file's; port 0 picks a free one")
    run.add_argument("--insecure", action="store_true", help="serve plaintext, on a loopback address alone")
    return parser


def _run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config, listen=arguments.listen, insecure=arguments.insecure)
    _set_up_logging(config)
    from edgefl_server.daemon import serve  # after the environment that gRPC reads at import is set

    return asyncio.run(serve(config))


def _set_up_logging(config: ServerConfig) -> None:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")  # its errors reach us as exceptions; its lines help nobody
    logging.basicConfig(
        stream=sys.stderr,
        level=config.log_level.upper(),
        format="%(asctime)s %(levelname)s %(message)s",
    )


if __name__ == "__main__":
    sys.exit(main())
