"""The processes of a fleet on this machine: started by exec, watched, measured, and always ended.

Invariants: every process that was started is ended before ``Launcher.close`` returns, however the command ends, and
whenever a signal comes; a process that dies by itself is noticed by ``check``; only processes started here are ever
signalled, by their id.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from edgefl.console.installed import installed
from edgefl.errors import UnavailableError
from edgefl.memory import peak_rss_bytes

STOP_TIMEOUT_S = 15.0
"""How long a process may take to drain after SIGTERM before it is killed."""

START_TIMEOUT_S = 30.0
"""How long the server may take to say that it listens; a second is normal."""

READY = "listening on "


class _Interrupts:
    """The signals that end this process: whether they wait at the moment, and whether one has come meanwhile."""

    held = 0
    came = False


def interrupt_when_terminated() -> None:
    """From now on SIGTERM and SIGHUP are as Ctrl-C: alone they would end this process and leave the others running.

    All three then wait for the end of ``uninterrupted``. A signal that is ignored (``nohup``) stays ignored.
    """

    def interrupt(_signum: int, _frame: object) -> None:
        if _Interrupts.held:
            _Interrupts.came = True
        else:
            raise KeyboardInterrupt

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, interrupt)


@contextlib.contextmanager
def uninterrupted() -> Iterator[None]:
    """Let a Ctrl-C wait for the end of these lines: nobody could end a process that is started but not yet known."""
    _Interrupts.held += 1
    try:
        yield
    finally:
        _Interrupts.held -= 1
    if _Interrupts.came and not _Interrupts.held:
        _Interrupts.came = False
        raise KeyboardInterrupt


@contextlib.contextmanager
def started(command: list[str]) -> Iterator[subprocess.Popen[bytes]]:
    """A command that ends by itself, with pipes for its output; when this block is left early, it is ended first."""
    process = None
    try:
        with uninterrupted():
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
        yield process
    finally:
        if process is not None:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)  # not SIGKILL: it may have a process of its own to end
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_TIMEOUT_S)
    finally:
        with uninterrupted():
            process.kill()
            process.wait()
            for pipe in (process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()


class Child:
    """One command running with its output in a log file. ``peak_rss`` is the largest seen over its restarts."""

    def __init__(self, name: str, command: list[str], log: Path) -> None:
        self.name = name
        self.command = command
        self.log = log
        self.peak_rss = 0
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """0 while it was never started."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as output, uninterrupted():
            self._process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )

    def measure(self) -> None:
        if self._process is not None:
            self.peak_rss = max(self.peak_rss, peak_rss_bytes(self._process.pid))

    def kill(self) -> None:
        """SIGKILL: what a power cut does."""
        if self._process is not None:
            self.measure()
            self._process.kill()
            self._process.wait()

    def hold(self) -> None:
        """SIGSTOP: it stands still, for ``kill``."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def terminate(self) -> None:
        """Ask it to stop; ``wait_stopped`` sees to it."""
        if self._process is not None and self._process.poll() is None:
            self.measure()
            self._process.terminate()

    def wait_stopped(self, deadline: float) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(max(0.1, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def check(self) -> None:
        """Raise ``UnavailableError`` with its last line when it has ended by itself."""
        if self._process is not None and self._process.poll() is not None:
            raise UnavailableError(
                f"{self.name} ended with status {self._process.returncode}: {self.last_line()} (log: {self.log})"
            )

    def last_line(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines() if self.log.exists() else []
        return lines[-1] if lines else "no output"


class Launcher:
    """A server and its devices; a context manager that leaves nothing running."""

    def __init__(self, out: Path) -> None:
        self._out = out
        self.server: Child | None = None
        self.devices: list[Child] = []

    def __enter__(self) -> Launcher:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def start_server(self, config: Path, address: str) -> str:
        """Start the server on ``address`` (port 0: any) and return the address on which it listens."""
        command = [installed("edgefl-server"), "run", "--config", str(config), "--listen", address]
        log = self._out / "logs" / "server.log"
        before = log.stat().st_size if log.exists() else 0
        peak = self.server.peak_rss if self.server else 0
        self.server = Child("edgefl-server", command, log)
        self.server.peak_rss = peak
        self.server.start()
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            self.server.check()
            text = log.read_bytes()[before:].decode(errors="replace")
            for line in text.splitlines(keepends=True):
                if line.startswith(READY) and line.endswith("\n"):
                    return line.removeprefix(READY).strip()
            time.sleep(0.02)
        raise UnavailableError(f"edgefl-server did not say that it listens within {START_TIMEOUT_S:.0f} s (log: {log})")

    def start_device(self, name: str, config: Path) -> None:
        command = [installed("edgefl-device"), "run", "--config", str(config)]
        child = Child(f"edgefl-device {name}", command, self._out / "logs" / f"{name}.log")
        self.devices.append(child)
        child.start()

    def measure(self) -> None:
        for child in self._all():
            child.measure()

    def check(self) -> None:
        for child in self._all():
            child.check()

    def close(self) -> None:
        children = self._all()
        try:
            for child in children:
                child.terminate()
            deadline = time.monotonic() + STOP_TIMEOUT_S
            for child in children:
                child.wait_stopped(deadline)
        finally:  # a second Ctrl-C does not wait
            with uninterrupted():
                for child in children:
                    child.kill()

    def _all(self) -> list[Child]:
        return self.devices + ([self.server] if self.server else [])
