"""What the server knows of its devices: what they said, when they were heard of, and what went wrong on them.

Times are the coordinator's monotonic seconds. Between two runs of a server they travel as ages (``seen_ago_s``), which
the store counts by its own clock: nothing here depends on a wall clock.

Invariants: a session counter is kept at its highest, and one that goes back marks the device as suspect for good (a
cloned card, design §7). ``num_able`` is counted as devices come, not over the population. That a device was heard of is
persisted seldom (``SEEN_EVERY_S``): disks wear.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from edgefl.protocol.events import DeviceError, DeviceRecord
from edgefl.protocol.fitness import Needs, lack
from edgefl.protocol.messages import CheckIn, RetryWindow, WorkFailure

SEEN_EVERY_S = 900.0
"""A device that waits is written as seen so often: a quarter of an hour is near enough for one that is missing."""

GRACE_S = 30.0
"""A device may come that much after its window before it is away: a Pi's link needs time to be there again."""

MAX_SHARED = 256
"""More kinds of agents than a fleet has; bounds what odd check-ins make the server keep."""

TWINS_S = 600.0
"""So long after two agents of one name were last seen the name counts as used twice."""


@dataclass(slots=True)
class Known:
    """A device as it is known now.

    ``abilities``: kinds and encodings of its agent; None since the start of this server. ``expected_by``: later it is
    away. ``noted_at``: as of when the store knows that it was seen. ``instance``, ``before``: of the agent that checked
    in last, and of another one before it. ``failing``: its last report was a failure.
    """

    record: DeviceRecord
    seen_at: float | None
    expected_by: float
    noted_at: float
    abilities: tuple[tuple[str, ...], tuple[str, ...]] | None = None
    instance: int = 0
    before: int = 0
    twins_at: float | None = None
    failing: bool = False
    error: WorkFailure | None = None
    error_at: float = 0.0

    def seen(self, now: float, window: RetryWindow | None = None) -> None:
        """It spoke, or was told to come back within ``window``."""
        self.seen_at = now
        self.expected_by = now + GRACE_S + (0.0 if window is None else window.max_s)

    def twins(self, now: float) -> bool:
        return self.twins_at is not None and now - self.twins_at < TWINS_S

    def described(self, now: float) -> DeviceRecord:
        """The record with its ages as of ``now``."""
        error = None
        if self.error is not None:
            error = DeviceError(self.error.kind, self.error.message, max(0.0, now - self.error_at))
        ago = None if self.seen_at is None else max(0.0, now - self.seen_at)
        return replace(self.record, seen_ago_s=ago, error=error)


class KnownDevices:
    def __init__(self) -> None:
        self._devices: dict[str, Known] = {}
        self._populations: dict[str, dict[str, Known]] = {}
        self._needs: dict[str, Needs] = {}
        self._able: dict[str, int] = {}
        self._abilities: dict[tuple[tuple[str, ...], tuple[str, ...]], tuple[tuple[str, ...], tuple[str, ...]]] = {}

    def __len__(self) -> int:
        """How many devices are known."""
        return len(self._devices)

    def __iter__(self) -> Iterator[Known]:
        return iter(self._devices.values())

    def find(self, device: str) -> Known | None:
        return self._devices.get(device)

    def population(self, name: str) -> Mapping[str, Known]:
        """The devices that named this population last."""
        return self._populations.get(name, {})

    def populations(self) -> tuple[str, ...]:
        return tuple(name for name, devices in self._populations.items() if devices)

    # ------------------------------------------------------------------------------------------ who can do a task

    def watch(self, task: str, needs: Needs) -> None:
        """Count from now on which devices can do ``task``."""
        self._needs[task] = needs
        self._able[task] = sum(not lack(needs, known.record) for known in self.population(needs.population).values())

    def unwatch(self, task: str) -> None:
        """``task`` has ended."""
        self._needs.pop(task, None)
        self._able.pop(task, None)

    def num_able(self, task: str) -> int:
        """Known devices of the task's population whose examples are what it reads."""
        return self._able.get(task, 0)

    # ------------------------------------------------------------------------------------------ what devices do

    def add_device(self, record: DeviceRecord, now: float) -> None:
        """A device from the store: it has ``GRACE_S`` to come back to this server."""
        seen_at = None if record.seen_ago_s is None else now - record.seen_ago_s
        known = Known(record, seen_at, now + GRACE_S, now if seen_at is None else seen_at)
        if record.error is not None:
            known.error = WorkFailure("", 0, record.error.kind, record.error.message)
            known.error_at = now - record.error.ago_s
        self._keep(known)

    def note(self, device: str, check_in: CheckIn, now: float) -> DeviceRecord | None:
        """What a check-in tells; a record to persist when it says something new, or nothing was noted for long."""
        known = self._devices.get(device)
        highest = 0 if known is None else known.record.session
        record = DeviceRecord(
            device=device,
            population=check_in.population,
            agent_version=check_in.agent_version,
            session=max(highest, check_in.session),
            num_train=check_in.num_train,
            num_held_out=check_in.num_held_out,
            suspect=check_in.session < highest or (known is not None and known.record.suspect),
            shape=check_in.shape,
            running=check_in.running,
        )
        if known is None:
            known = Known(record, now, now, now)
            self._keep(known)
            new = True
        else:
            new = record != known.record
            self._note_instance(known, check_in, now)
            if new:
                self._replace(known, record)
        known.abilities = self._shared((check_in.kinds, check_in.encodings))
        known.instance = check_in.instance
        known.seen(now)
        if not new and now - known.noted_at < SEEN_EVERY_S:
            return None
        known.noted_at = now
        return record

    def heard(self, device: str, now: float, window: RetryWindow) -> None:
        """The device was there until now, and was told to come back within ``window``."""
        known = self._devices.get(device)
        if known is not None:
            known.seen(now, window)

    def failed(self, device: str, failure: WorkFailure, now: float) -> None:
        known = self._devices.get(device)
        if known is not None:
            known.failing, known.error, known.error_at = True, failure, now

    def delivered(self, device: str) -> None:
        """Its work was good, or came too late."""
        known = self._devices.get(device)
        if known is not None:
            known.failing = False

    def unnoted(self, now: float) -> Iterator[DeviceRecord]:
        """Those seen since the store was told so; for a server that stops."""
        for known in self._devices.values():
            if known.seen_at is not None and known.seen_at > known.noted_at:
                known.noted_at = now
                yield known.record

    # -------------------------------------------------------------------------------------------- privately

    def _note_instance(self, known: Known, check_in: CheckIn, now: float) -> None:
        """Two agents: one came back after another had come, or one started anew without a new session counter."""
        if not check_in.instance or check_in.instance == known.instance:
            return
        if known.instance and (check_in.instance == known.before or check_in.session <= known.record.session):
            known.twins_at = now
        known.before = known.instance

    def _keep(self, known: Known) -> None:
        self._devices[known.record.device] = known
        self._populations.setdefault(known.record.population, {})[known.record.device] = known
        self._count(known.record, 1)

    def _replace(self, known: Known, record: DeviceRecord) -> None:
        self._count(known.record, -1)
        del self._populations[known.record.population][record.device]
        known.record = record
        self._keep(known)

    def _count(self, record: DeviceRecord, by: int) -> None:
        for task, needs in self._needs.items():
            if needs.population == record.population and not lack(needs, record):
                self._able[task] += by

    def _shared(self, abilities: tuple[tuple[str, ...], tuple[str, ...]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Agents of one version know the same: one copy for all of them."""
        if len(self._abilities) > MAX_SHARED:
            self._abilities.clear()
        return self._abilities.setdefault(abilities, abilities)
