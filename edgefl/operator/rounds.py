"""The rounds of a task as the server tells them, once or until the task ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from edgefl.errors import BusyError, UnavailableError
from edgefl.operator.connection import Connection, Target
from edgefl.proto.v1 import control_pb2
from edgefl.protocol.events import OVER, RoundSummary
from edgefl.wire.control import round_from_proto

RETRY_S = 1.0
"""Between two tries to reach a server that went away while its rounds were watched: a restart takes seconds."""


def summaries(server: Connection, task: str, *, follow: bool, from_round: int = 1) -> Iterator[RoundSummary]:
    """The ended rounds of ``task`` from ``from_round`` on, in order; with ``follow`` then each change until it ends."""
    request = control_pb2.WatchRoundsRequest(task=task, from_round=from_round, follow=follow)
    for message in server.stream(server.control.WatchRounds, request):
        yield round_from_proto(message)


def followed(
    where: Target, task: str, *, say: Callable[[str], None], sleep: Callable[[float], None] = time.sleep
) -> Iterator[RoundSummary]:
    """Every change of ``task`` until it ends, also over restarts of the server: each ended round comes once.

    ``say`` is told when the server goes and when it is back. A server that is not there at first raises, as does
    everything but its absence.
    """
    last, seen, away = 0, False, False
    while True:
        try:
            with Connection(where) as server:
                for summary in summaries(server, task, follow=True, from_round=last + 1):
                    if away:
                        say("the server is back")
                    seen, away = True, False
                    if summary.phase in OVER:
                        last = max(last, summary.round_num)
                    yield summary
            return
        except BusyError:
            continue  # this side read too slowly: go on from where it is
        except UnavailableError as error:
            if not seen:
                raise
            if not away:
                say(f"{error}; waiting for the server, Ctrl-C stops")
            away = True
            sleep(RETRY_S)
