"""The command ``edgefl-server``."""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import json
import logging
import os
import sys
from pathlib import Path

from edgefl._version import __version__
from edgefl.command import Parser, run_command
from edgefl.errors import VerificationError
from edgefl_server.allocator import give_back_large_buffers
from edgefl_server.config import ServerConfig, load_config
from edgefl_server.sqlite_backup import back_up
from edgefl_server.sqlite_restore import restore

_EXAMPLES = """\
examples:
  edgefl-server run --config server.toml
  edgefl-server run --config server.toml --listen 127.0.0.1:0 --insecure
  edgefl-server backup --config server.toml monday.db
  edgefl-server restore --config server.toml monday.db

When it serves, it prints one line: listening on HOST:PORT. The log goes to stderr. SIGTERM lets calls in flight
finish, then exits with status 0.
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    arguments = _parser().parse_args(argv)
    commands = {"run": _run, "backup": _back_up, "restore": _restore, "check": _check, "replay": _replay}
    return run_command("edgefl-server", lambda: commands[arguments.command](arguments))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="edgefl-server",
        description="The EdgeFL server: runs the rounds of a fleet and keeps its models.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"edgefl-server {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    common = Parser(add_help=False)
    common.add_argument("--config", type=Path, required=True, metavar="FILE", help="the configuration (TOML)")
    run = commands.add_parser(
        "run",
        parents=[common],
        help="serve until told to stop",
        description="Serve until SIGTERM or Ctrl-C.",
        epilog=_EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    run.add_argument("--listen", metavar="HOST:PORT", help="instead of the file's; port 0 picks a free one")
    run.add_argument("--insecure", action="store_true", help="serve plaintext, on a loopback address alone")
    backup = commands.add_parser(
        "backup",
        parents=[common],
        help="copy the database while the server runs",
        description="Copy the database to a new file, whether the server runs or not.",
        epilog="example:\n  edgefl-server backup --config server.toml monday.db",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    backup.add_argument("destination", type=Path, metavar="DEST", help="the file to make; it must not exist")
    restoring = commands.add_parser(
        "restore",
        parents=[common],
        help="put a backup into the place of a stopped server's database",
        description=(
            "Put a backup into the place of a stopped server's database, which is kept next to it. Rounds, sequences "
            "and release versions go on far above those that the lost server may have used: devices that are ahead of "
            "the backup keep what they run, and get the next release."
        ),
        epilog="example:\n  edgefl-server restore --config server.toml monday.db",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    restoring.add_argument("backup", type=Path, metavar="BACKUP", help="the file that `backup` made")
    checking = commands.add_parser(
        "check",
        parents=[common],
        help="hold a stopped server's database against its promises",
        description="Check the database of a stopped server: digests, ledger, and every kept version computed again.",
        epilog="example:\n  edgefl-server check --config server.toml --json",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    checking.add_argument("--json", action="store_true", help="one JSON object instead of lines")
    replay = commands.add_parser(
        "replay",
        parents=[common],
        help="compute a version again from the ledger of a stopped server",
        description="Compute a version again from the state before it and the counted reports, and compare every bit.",
        epilog="example:\n  edgefl-server replay --config server.toml shoulder --version 7 --out weights.bin",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    replay.add_argument("task", metavar="TASK")
    replay.add_argument("--version", type=int, metavar="N", help="the version; without it, the latest")
    replay.add_argument("--out", type=Path, metavar="FILE", help="write the computed weights here")
    return parser


def _replay(arguments: argparse.Namespace) -> int:
    from edgefl.files import write_file
    from edgefl_server.recompute import Recomputer
    from edgefl_server.sqlite_ledger import stopped_ledger

    with stopped_ledger(load_config(arguments.config, insecure=True).data_dir) as ledger:
        recomputer = Recomputer(ledger)
        version = recomputer.latest(arguments.task) if arguments.version is None else arguments.version
        result = recomputer.version(arguments.task, version)
    if result.differences:
        raise VerificationError(
            f"version {version} of task {arguments.task!r} differs in {', '.join(result.differences)}; "
            "restore the database from a backup"
        )
    if arguments.out is not None:
        write_file(arguments.out, result.state.model)
    print(f"task {arguments.task} version {version}: the same bits, {result.state.model_digest or 'without a model'}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from edgefl.console.output import progress_bar
    from edgefl_server.check import check  # it loads the learning processes, which a backup does not need

    with progress_bar("rounds checked") as show:
        verdict = check(load_config(arguments.config, insecure=True).data_dir, show)
    if arguments.json:
        print(json.dumps(dataclasses.asdict(verdict)))
    else:
        for finding in verdict.findings:
            print(finding)
        print(
            f"{verdict.rounds} rounds checked, {verdict.recomputed} versions computed again, "
            f"{len(verdict.findings)} findings"
        )
    if verdict.findings:
        raise VerificationError(f"{len(verdict.findings)} findings; each says what to do")
    return 0


def _back_up(arguments: argparse.Namespace) -> int:
    # No plaintext leaves this process: what the transport would need is not asked for.
    config = load_config(arguments.config, insecure=True)
    size = back_up(config.data_dir, arguments.destination)
    print(f"{arguments.destination}: {size} bytes")
    return 0


def _restore(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config, insecure=True)
    done = restore(config.data_dir, arguments.backup)
    print(f"{config.data_dir}: restored from {arguments.backup}")
    if done.replaced is not None:
        held = "cannot be read" if done.lost_reports is None else f"holds {done.lost_reports} reports more"
        print(f"the database that was there {held}; it is kept as {done.replaced}")
    return 0


def _run(arguments: argparse.Namespace) -> int:
    config = load_config(arguments.config, listen=arguments.listen, insecure=arguments.insecure)
    _set_up_logging(config)
    give_back_large_buffers()
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
