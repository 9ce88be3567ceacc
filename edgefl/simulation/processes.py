"""Workers in processes of their own, each with a share of the devices, for work that does not fit one core.

    ProcessWorkers --Holdings (once), Assigned--> worker_process   (a socket pair and an exec each, never a fork)
          ^-----------------reports-------------------'

The reports of one cohort are held at once, here as in a simulation in one process; nothing else grows.

Invariants: a device's examples are in one worker for good, and are sent to it once. A worker that dies ends the
simulation with one error that names it: a silent second try would hide that memory ran out. ``close`` leaves no
process; a worker ends by itself when this process is gone.
"""

from __future__ import annotations

import contextlib
import heapq
import os
import pickle
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing import Pipe
from typing import Any

from edgefl.errors import ConfigError, UnavailableError
from edgefl.protocol.messages import Assignment, Report
from edgefl.simulation.holdings import Holdings
from edgefl.simulation.worker_process import Assigned

MAX_PROCESSES = 256
"""Each takes 28 MB besides its examples; more than this many cores no machine of ours has."""

DEATH_TIMEOUT_S = 5.0
"""A worker whose socket is closed is ending; its status is known within milliseconds."""


class ProcessWorkers:
    """``Workers`` in ``processes`` processes; a context manager that leaves none running.

    Raises ``ConfigError`` for a number that makes no sense, ``UnavailableError`` when a worker dies.
    """

    def __init__(self, holdings: Sequence[Holdings], processes: int) -> None:
        most = min(MAX_PROCESSES, len(holdings))
        if not 1 <= processes <= most:
            raise ConfigError(
                f"{processes} processes for {len(holdings)} devices; expected 1 to {most} (at most one per device, and "
                f"{MAX_PROCESSES} in all)"
            )
        self._workers: list[_Worker] = []
        self._home: dict[str, int] = {}
        try:
            self._start(_shares(holdings, processes))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> ProcessWorkers:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def work(
        self, assignment: Assignment, model: bytes, devices: Sequence[str], memories: Mapping[str, bytes]
    ) -> list[Report]:
        """As ``Workers`` says. Every worker gets its part before the first report is awaited."""
        parts: dict[int, list[str]] = {}
        for device in devices:
            parts.setdefault(self._home[device], []).append(device)
        for index, part in parts.items():
            theirs = {device: memories[device] for device in part if device in memories}
            self._workers[index].send(Assigned(assignment, model, tuple(part), theirs))
        found: dict[str, Report] = {}
        for index, part in parts.items():
            found.update(zip(part, self._workers[index].receive(), strict=True))
        return [found[device] for device in devices]

    def close(self) -> None:
        """End all workers, whatever they do: they keep nothing."""
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.wait()
            worker.connection.close()

    def _start(self, shares: list[list[Holdings]]) -> None:
        for number in range(1, len(shares) + 1):
            self._workers.append(_Worker(f"worker {number} of {len(shares)}"))
        threads = max(1, len(os.sched_getaffinity(0)) // len(shares))
        for index, (worker, share) in enumerate(zip(self._workers, shares, strict=True)):
            worker.send(threads)
            for one in share:  # one at a time: what is sent is copied first
                worker.send(one)
                self._home[one.device] = index
            worker.send(None)


class _Worker:
    """A process and the socket to it."""

    def __init__(self, name: str) -> None:
        self.connection, other = Pipe()
        with contextlib.ExitStack() as stack, other:
            stack.callback(self.connection.close)
            self.process = subprocess.Popen(
                # -P: a file of the current folder must not pass for a module.
                [sys.executable, "-P", "-m", "edgefl.simulation.worker_process", str(other.fileno())],
                stdin=subprocess.DEVNULL,
                pass_fds=[other.fileno()],
                process_group=0,  # Ctrl-C is for this process, which ends the workers
            )
            stack.pop_all()
        self.name = f"{name} (process {self.process.pid})"

    def send(self, value: Any) -> None:
        with self._noticing_death():
            # By bytes: ``send`` makes a view of a buffer, and where an interrupt leaves both, Python 3.13 frees the
            # buffer first and complains.
            self.connection.send_bytes(pickle.dumps(value))

    def receive(self) -> list[Report]:
        with self._noticing_death():
            reports: list[Report] = pickle.loads(self.connection.recv_bytes())
        return reports

    @contextlib.contextmanager
    def _noticing_death(self) -> Iterator[None]:
        try:
            yield
        except (EOFError, OSError):
            raise UnavailableError(f"{self.name} {self._end()}") from None

    def _end(self) -> str:
        try:
            status = self.process.wait(DEATH_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return "closed its socket; this is a mistake in EdgeFL: please report it"
        if status < 0:
            return (
                f"was ended by {signal.Signals(-status).name}; if memory ran out, take fewer processes or smaller "
                "cohorts, then run the simulation again"
            )
        return f"ended with status {status}; what it printed says why"


def _shares(holdings: Sequence[Holdings], count: int) -> list[list[Holdings]]:
    """Every device once, so that the shares have about as many examples: the largest first, to whom has least."""
    shares: list[list[Holdings]] = [[] for _ in range(count)]
    loads = [(0, index) for index in range(count)]
    for one in sorted(holdings, key=lambda one: (-len(one.train), one.device)):
        load, index = heapq.heappop(loads)
        shares[index].append(one)
        heapq.heappush(loads, (load + len(one.train) + len(one.held_out) + 1, index))
    return shares
