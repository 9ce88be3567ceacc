"""One worker process of a simulation: ``python -m edgefl.simulation.worker_process FD``.

It talks with the process that started it over the socket FD alone, by pickled values, and both are one program:

    number of threads, Holdings ..., None, then any number of Assigned -> list of reports

It ends when the other side closes the socket, so it cannot outlive a simulation that was killed.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection

from edgefl.protocol.messages import Assignment
from edgefl.simulation.holdings import Holdings
from edgefl.simulation.workers import OwnWorkers


@dataclass(frozen=True)
class Assigned:
    """A round's work for ``devices``, which this process holds."""

    assignment: Assignment
    model: bytes = field(repr=False)
    devices: tuple[str, ...]
    memories: Mapping[str, bytes] = field(repr=False)


def serve(connection: Connection) -> None:
    """Work until the other side is gone (``EOFError``, ``OSError``)."""
    threads: int = connection.recv()
    shard: list[Holdings] = []
    while (one := connection.recv()) is not None:
        shard.append(one)
    workers = OwnWorkers(shard, threads)
    while True:
        asked: Assigned = connection.recv()
        connection.send(workers.work(asked.assignment, asked.model, asked.devices, asked.memories))


if __name__ == "__main__":
    # Pickle names a class by its module, and this one is now "__main__".
    from edgefl.simulation import worker_process

    with contextlib.suppress(EOFError, OSError):
        worker_process.serve(Connection(int(sys.argv[1])))
