"""What the agent shows to people: ``status.json``, written unsynced and seldom.

A change of the phase that matters, an error or a round's end is written at once; mere counters at most every
``REFRESH_S``, for cards wear. ``edgefl-device status`` reads it (``edgefl_device.status_command``).
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from edgefl.errors import StorageError
from edgefl.memory import peak_rss_bytes
from edgefl_device.files import FileOps, read_if_there, write_unsynced
from edgefl_device.rpc import Traffic

REFRESH_S = 300.0
"""Counters in the file are at most this old while the agent waits for work."""

_FORMAT = 1
QUIET = ("idle", "checked_in")
"""Between these two phases the agent goes to and fro while it waits: no reason to write."""


@dataclass(frozen=True)
class PurposeTraffic:
    """What served one kind of work: assignments, models, reports, receipts.

    ``report_bytes``: the reports alone, with what they uploaded.
    """

    reports: int = 0
    report_bytes: int = 0
    sent_bytes: int = 0
    received_bytes: int = 0


@dataclass(frozen=True)
class Status:
    """The agent in a moment. Times: seconds since 1970 by the device's clock, 0 for none.

    ``last_error``: what hinders it at this moment; ``no_work``: why the last check-in brought no work, in the server's
    words; ``next_try_at``: when it tries again. ``last_failure``: what failed last, whatever came after.
    ``rounds_reported``: updates accepted since the start, ``rounds_failed``: rounds that failed or were refused.
    ``releases``: those that are installed; ``refused_release``: the last that was refused, and why.

    ``calls`` counts serialized bytes by call (check_in, download, upload, report); ``traffic`` counts the same bytes by
    what they served: a kind of work (training, evaluation, ...), or ``other``.
    """

    device: str
    population: str
    agent_version: str
    pid: int
    session: int
    phase: str = "new"
    last_error: str = ""
    no_work: str = ""
    next_try_at: float = 0.0
    last_task: str = ""
    last_round: int = 0
    last_outcome: str = ""
    last_failure: str = ""
    last_failure_at: float = 0.0
    rounds_reported: int = 0
    rounds_failed: int = 0
    num_train: int = 0
    num_held_out: int = 0
    releases: tuple[str, ...] = ()
    refused_release: str = ""
    calls: dict[str, Traffic] = field(default_factory=dict)
    traffic: dict[str, PurposeTraffic] = field(default_factory=dict)
    peak_rss_bytes: int = 0
    updated_at: float = 0.0


class StatusFile:
    """Writes ``status.json``. ``show`` may be called as often as one likes."""

    def __init__(self, path: Path, ops: FileOps | None = None) -> None:
        self._path = path
        self._ops = ops or FileOps()
        self._written: Status | None = None
        self._written_at = 0.0

    def show(self, status: Status, now: float, *, wall_now: float) -> bool:
        """Write ``status`` if it says something new; returns whether it did. ``now`` is monotonic. ``StorageError``."""
        last = self._written
        if last is not None and now - self._written_at < REFRESH_S and _essence(status) == _essence(last):
            return False
        status = replace(status, updated_at=wall_now, peak_rss_bytes=peak_rss_bytes())
        text = json.dumps({"format": _FORMAT, **asdict(status)}, indent=1)
        write_unsynced(self._ops, self._path, (text + "\n").encode())
        self._written, self._written_at = status, now
        return True


def read_status(path: Path) -> Status | None:
    """The last status, None when the agent never ran here. Raises ``StorageError`` for a damaged file."""
    raw = read_if_there(path)
    if raw is None:
        return None
    try:
        body = json.loads(raw)
        if body.pop("format") != _FORMAT:
            raise ValueError("of another format")
        body["calls"] = {name: Traffic(**counts) for name, counts in body["calls"].items()}
        body["traffic"] = {name: PurposeTraffic(**counts) for name, counts in body["traffic"].items()}
        body["releases"] = tuple(body["releases"])
        return Status(**body)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise StorageError(f"{path} cannot be read ({error}); a running agent soon writes it anew") from error


def by_call(traffic: dict[tuple[str, str], Traffic]) -> dict[str, Traffic]:
    """A client's traffic, summed by call."""
    sums: dict[str, Traffic] = {}
    for (call, _), part in traffic.items():
        old = sums.get(call, Traffic())
        sums[call] = Traffic(
            old.calls + part.calls, old.sent_bytes + part.sent_bytes, old.received_bytes + part.received_bytes
        )
    return sums


def by_purpose(traffic: dict[tuple[str, str], Traffic]) -> dict[str, PurposeTraffic]:
    """A client's traffic, summed by what it served."""
    sums: dict[str, PurposeTraffic] = {}
    for (call, purpose), part in traffic.items():
        old = sums.get(purpose, PurposeTraffic())
        sums[purpose] = PurposeTraffic(
            old.reports + part.calls * (call == "report"),
            old.report_bytes + part.sent_bytes * (call in ("report", "upload")),
            old.sent_bytes + part.sent_bytes,
            old.received_bytes + part.received_bytes,
        )
    return sums


def without_digits(reason: str) -> str:
    """What of a server's reason is news: its counts and times come and go."""
    return "".join(character for character in reason if not character.isdigit())


def _essence(status: Status) -> Status:
    """What is written at once. The next try counts where something is wrong, not while the agent waits for work."""
    return replace(
        status,
        phase="waiting" if status.phase in QUIET else status.phase,
        no_work=without_digits(status.no_work),
        next_try_at=status.next_try_at if status.last_error else 0.0,
        calls={},
        traffic={},
        peak_rss_bytes=0,
        updated_at=0.0,
    )
