"""What the server knows of its devices and its releases.

Invariants: a session counter is kept at its highest, and one that goes back marks the device as suspect for good (a
cloned card, design §7); the version of a release only grows, for each name in a population, and is above
``release_floor`` if it is new (I7).
"""

from __future__ import annotations

from edgefl.errors import ConflictError
from edgefl.protocol.events import DeviceRecord, ReleaseRecord
from edgefl.protocol.messages import CheckIn, ReleaseInfo
from edgefl.protocol.taskboard import TaskRun, lacks_examples


class Registry:
    def __init__(self) -> None:
        self.release_floor = 0
        self._devices: dict[str, DeviceRecord] = {}
        self._releases: list[ReleaseRecord] = []
        self._newest: dict[tuple[str, str], ReleaseRecord] = {}

    def __len__(self) -> int:
        """How many devices are known."""
        return len(self._devices)

    @property
    def devices(self) -> tuple[DeviceRecord, ...]:
        return tuple(self._devices.values())

    @property
    def releases(self) -> tuple[ReleaseRecord, ...]:
        return tuple(self._releases)

    def num_able(self, run: TaskRun) -> int:
        """Known devices of the task's population that said to have the examples which it reads."""
        return sum(
            record.population == run.spec.population and not lacks_examples(run.spec, record) for record in self.devices
        )

    def add_device(self, record: DeviceRecord) -> None:
        self._devices[record.device] = record

    def note(self, device: str, check_in: CheckIn) -> DeviceRecord | None:
        """What a check-in tells; the new record when it differs from the one before, else None."""
        known = self._devices.get(device)
        seen = 0 if known is None else known.session
        record = DeviceRecord(
            device=device,
            population=check_in.population,
            agent_version=check_in.agent_version,
            session=max(seen, check_in.session),
            num_train=check_in.num_train,
            num_held_out=check_in.num_held_out,
            suspect=check_in.session < seen or (known is not None and known.suspect),
        )
        if record == known:
            return None
        self._devices[device] = record
        return record

    def next_release_version(self, name: str) -> int:
        """A version that no device has seen of ``name``, in any population."""
        highest = max((record.info.version for record in self._releases if record.info.name == name), default=0)
        return 1 + max(highest, self.release_floor)

    def add_release(self, release: ReleaseRecord) -> None:
        """Raises ``ConflictError`` unless the version is above every one of its name in the population."""
        key = (release.population, release.info.name)
        newest = self._newest.get(key)
        if newest is not None and release.info.version <= newest.info.version:
            raise ConflictError(
                f"release {release.info.name!r} version {release.info.version} for population {release.population!r}; "
                f"expected more than {newest.info.version}: a rollback is old bytes under a higher version"
            )
        self._releases.append(release)
        self._newest[key] = release

    def newest(self, population: str) -> tuple[ReleaseInfo, ...]:
        """The latest release of each name."""
        return tuple(record.info for (where, _), record in self._newest.items() if where == population)
