"""The command ``edgefl`` without a server: its options, its one-line errors, its exit status."""

from __future__ import annotations

import argparse
import importlib
import inspect
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from places import ROOT
from script_kit import SCRIPT

from edgefl import __version__
from edgefl.cli.main import build_parser, main
from edgefl.command import Parser, one_line, run_command
from edgefl.errors import ConfigError, DataError, EdgeFLError, NotFoundError, UnavailableError
from edgefl.operator.connection import Connection, Target
from edgefl.wire import error_to_status

TRAINING = str(ROOT / "edgefl" / "demo" / "tasks" / "training.toml")
NOBODY = ["--insecure", "--server", "127.0.0.1:1"]

REMOTE = [
    ["task", "create", TRAINING],
    ["task", "list"],
    ["task", "list", "--json"],
    ["task", "pause", "shoulder"],
    ["task", "resume", "shoulder"],
    ["task", "end", "shoulder"],
    ["rounds", "shoulder"],
    ["rounds", "shoulder", "--no-follow", "--json"],
    ["models", "list", "shoulder"],
    ["models", "export", "shoulder", "never-written.tflite", "--version", "3", "--format", "weights"],
    ["release", "create", "watch", "shoulder", "--format", "tflite-int8"],
    ["release", "list"],
    ["devices", "--population", "watch", "--json"],
    ["answers"],
]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDGEFL_SERVER", "EDGEFL_OPERATOR"):
        monkeypatch.delenv(name, raising=False)


def run(*argv: str) -> int:
    try:
        return main(argv)
    except SystemExit as end:
        return int(end.code or 0)


def failure(capsys: pytest.CaptureFixture[str], *argv: str) -> tuple[int, str]:
    """The exit status and the one line on stderr; nothing is on stdout."""
    status = run(*argv)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert err.endswith("\n")
    assert err.startswith("edgefl")
    assert ": error: " in err
    return status, err


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from parsers(child)


ALL = list(parsers(build_parser()))
LEAVES = [p for p in ALL if p.get_default("run") is not None]


# ------------------------------------------------------------------------------------------------ help


@pytest.mark.parametrize("parser", ALL, ids=lambda p: p.prog)
def test_every_command_has_help(parser: argparse.ArgumentParser, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(*parser.prog.split()[1:], "--help") == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.startswith(f"usage: {parser.prog}")
    for action in parser._actions:
        if action.option_strings:
            assert action.option_strings[-1] in out
            assert action.help, f"{parser.prog} {action.option_strings[-1]} has no help"


def test_the_help_shows_commands_examples_and_exit_status(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--help") == 0
    out = capsys.readouterr().out
    assert "examples:" in out
    for command in (
        "task",
        "rounds",
        "models",
        "release",
        "devices",
        "answers",
        "statistics",
        "simulate",
        "demo",
        "new",
    ):
        assert f"    {command} " in out
    for example in (line.split("  ")[1] for line in out.splitlines() if line.startswith("  edgefl ")):
        build_parser().parse_args(example.split()[1:])


def test_the_exit_status_in_the_help_are_those_of_the_errors() -> None:
    epilog = build_parser().epilog
    assert epilog is not None
    from edgefl import errors

    known = {
        kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, EdgeFLError)
    }
    text = epilog[epilog.index("Exit status:") :]
    numbers = {int(word) for word in text.replace(";", " ").split() if word.isdecimal()}
    assert numbers <= known | {0, 64}


@pytest.mark.parametrize("parser", LEAVES, ids=lambda p: p.prog)
def test_every_command_has_its_function(parser: argparse.ArgumentParser) -> None:
    cells = inspect.getclosurevars(parser.get_default("run")).nonlocals
    assert callable(getattr(importlib.import_module(cells["module"]), cells["function"]))


def test_all_commands_were_found() -> None:
    assert len(LEAVES) == 20


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--version") == 0
    assert capsys.readouterr().out == f"edgefl {__version__}\n"


def test_server_and_operator_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    args = build_parser().parse_args(["devices"])
    assert (args.server, args.operator, args.insecure) == ("127.0.0.1:7443", "operator", False)
    monkeypatch.setenv("EDGEFL_SERVER", "127.0.0.1:99")
    monkeypatch.setenv("EDGEFL_OPERATOR", "ada")
    args = build_parser().parse_args(["devices"])
    assert (args.server, args.operator) == ("127.0.0.1:99", "ada")
    args = build_parser().parse_args(["--server", "[::1]:5", "--operator", "grace", "devices"])
    assert (args.server, args.operator) == ("[::1]:5", "grace")


# ------------------------------------------------------------------------------------------------ wrong usage: 64


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["bogus"],
        ["--bogus", "devices"],
        ["task"],
        ["task", "bogus"],
        ["task", "create"],
        ["task", "pause"],
        ["task", "pause", "a", "b"],
        ["rounds"],
        ["models", "export", "a"],
        ["models", "export", "a", "b", "--format", "onnx"],
        ["models", "export", "a", "b", "--version", "-1"],
        ["models", "export", "a", "b", "--version", "0"],
        ["models", "export", "a", "b", "--version", "1.5"],
        ["models", "export", "a", "b", "--version", str(2**32)],
        ["models", "export", "a", "b", "--version", "1" * 5000],
        ["release", "create", "a"],
        ["release", "create", "a", "b", "--format", "weights"],
        ["simulate", TRAINING],
        ["simulate", "--dataset", "watch"],
        ["demo", "--rounds", "many"],
        ["task", "pause", "a", "b\nc"],
        ["task", "pause", "\udcff"],
        ["devices", "--population", "\udcff"],
    ],
)
def test_wrong_usage_is_one_line_and_64(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, line = failure(capsys, *NOBODY, *argv)
    assert status == 64
    assert "--help)" in line


# ------------------------------------------------------------------------------------------------ configuration: 78


@pytest.mark.parametrize("argv", REMOTE, ids=" ".join)
def test_without_insecure_nothing_is_sent(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    status, line = failure(capsys, *argv)
    assert status == 78
    assert line == "edgefl: error: this version speaks plaintext on loopback only; add --insecure\n"


@pytest.mark.parametrize("address", ["10.0.0.1:7443", "0.0.0.0:7443", "example.org:7443", "[2001:db8::1]:7443"])
def test_an_address_that_is_not_loopback_is_refused(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, line = failure(capsys, "--insecure", "--server", address, "devices")
    assert status == 78
    assert line.startswith(f"edgefl: error: address '{address}' is not loopback;")


@pytest.mark.parametrize("address", ["127.0.0.1", "", "127.0.0.1:99999", "::1:7443"])
def test_an_address_that_is_none_is_refused(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, line = failure(capsys, "--insecure", "--server", address, "devices")
    assert status == 78
    assert "expected HOST:PORT" in line


@pytest.mark.parametrize("operator", ["", "Jörg", "a b", "a/b"])
def test_an_operator_that_is_no_name_is_refused(operator: str, capsys: pytest.CaptureFixture[str]) -> None:
    status, line = failure(capsys, *NOBODY, "--operator", operator, "devices")
    assert status == 78
    assert line.startswith(f"edgefl: error: operator is {operator!r};")


def test_a_definition_that_is_not_there_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    absent = str(tmp_path / "absent.toml")
    status, line = failure(capsys, *NOBODY, "task", "create", absent)
    assert (status, line) == (78, f"edgefl: error: {absent}: cannot be read: No such file or directory\n")


def test_a_wrong_definition_is_refused_before_the_first_is_sent(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text(Path(TRAINING).read_text().replace("seed =", "sede ="))
    status, line = failure(capsys, *NOBODY, "task", "create", TRAINING, str(wrong))
    assert (status, line) == (78, f"edgefl: error: {wrong}: unknown key 'sede'; did you mean 'seed'?\n")


# ------------------------------------------------------------------------------------------------ no server: 69


@pytest.fixture(scope="module")
def free_port() -> Iterator[int]:
    """A port that nobody listens on: bound, so that nobody else takes it, and never listened on."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]


@pytest.mark.parametrize("argv", REMOTE, ids=" ".join)
def test_a_server_that_is_not_there_is_said_so(
    argv: list[str], free_port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    status, line = failure(capsys, "--insecure", "--server", f"127.0.0.1:{free_port}", *argv)
    assert status == 69
    assert line.startswith(f"edgefl: error: no server answers at 127.0.0.1:{free_port}; is edgefl-server running?")
    assert not Path("never-written.tflite").exists()


class _Failed(grpc.RpcError):
    """What gRPC raises for a failed call, with the words of ``error``."""

    def __init__(self, code: grpc.StatusCode, details: str, trailing: tuple[tuple[str, Any], ...]) -> None:
        self.code, self.details, self.trailing_metadata = lambda: code, lambda: details, lambda: trailing


@pytest.mark.parametrize("error", [NotFoundError("no task 'x'"), UnavailableError("this server is stopping")])
def test_the_word_of_a_server_is_kept(error: EdgeFLError) -> None:
    code, details, trailing = error_to_status(error)

    def method(*_: Any, **__: Any) -> None:
        raise _Failed(grpc.StatusCode[code], details, trailing)

    with Connection(Target("127.0.0.1:1", "ada", True)) as server, pytest.raises(type(error)) as caught:
        server.call(method, None)
    assert str(caught.value) == str(error)


# ------------------------------------------------------------------------------------------------ run_command


def test_an_error_of_ours_is_one_line_and_its_status(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> int:
        raise DataError("row 3\n  is \x1b[31mbad\u2028here")

    assert run_command("edgefl-x", body) == 65
    assert capsys.readouterr().err == "edgefl-x: error: row 3 is \N{REPLACEMENT CHARACTER}[31mbad here\n"


def test_an_interruption_is_130(capsys: pytest.CaptureFixture[str]) -> None:
    def body() -> int:
        raise KeyboardInterrupt

    assert run_command("edgefl-x", body) == 130
    assert capsys.readouterr().err == "edgefl-x: interrupted\n"


def test_a_bug_keeps_its_traceback() -> None:
    with pytest.raises(ZeroDivisionError):
        run_command("edgefl-x", lambda: 1 // 0)


def test_the_status_of_the_body_is_that_of_the_command() -> None:
    assert [run_command("edgefl-x", lambda code=code: code) for code in (0, 3)] == [0, 3]  # type: ignore[misc]


@pytest.mark.parametrize("flush", [True, False])
def test_a_reader_that_went_away_is_no_error(flush: bool) -> None:
    code = (
        "import sys; from edgefl.command import run_command\n"
        f"def body():\n    for _ in range(5): print('x' * 10, flush={flush})\n    return 0\n"
        "sys.exit(run_command('edgefl-x', body))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [*SCRIPT, code],
            cwd=ROOT,
            env=environment,
            stdout=writer,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    finally:
        os.close(writer)
    assert (done.returncode, done.stderr) == (0, "")


def test_a_parser_error_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        Parser(prog="edgefl-x").error("a\nb")
    assert caught.value.code == 64
    assert capsys.readouterr().err == "edgefl-x: error: a b (see edgefl-x --help)\n"


def test_one_line_keeps_what_people_write() -> None:
    assert one_line("Gerät 'ü' → 3 × 4 ≤ 2³²") == "Gerät 'ü' → 3 × 4 ≤ 2³²"
    assert one_line("") == ""


def test_a_target_is_checked_when_it_is_made() -> None:
    assert Target("127.0.0.1:7443", "operator", True).address == "127.0.0.1:7443"
    for address, operator, insecure in (
        ("127.0.0.1:7443", "operator", False),
        ("10.0.0.1:7443", "operator", True),
        ("127.0.0.1:7443", "Operator", True),
    ):
        with pytest.raises(ConfigError):
            Target(address, operator, insecure)
