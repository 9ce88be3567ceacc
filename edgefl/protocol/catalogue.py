"""The releases, of which devices are offered the newest.

Invariant: the version of a release only grows, for each name in a population, and is above ``floor`` if it is new (I7).
"""

from __future__ import annotations

from edgefl.errors import ConflictError
from edgefl.protocol.events import ReleaseRecord
from edgefl.protocol.messages import ReleaseInfo


class Catalogue:
    """``floor``: versions up to it may have been seen from a server that is lost."""

    def __init__(self) -> None:
        self.floor = 0
        self._releases: list[ReleaseRecord] = []
        self._newest: dict[tuple[str, str], ReleaseRecord] = {}

    @property
    def releases(self) -> tuple[ReleaseRecord, ...]:
        return tuple(self._releases)

    def next_release_version(self, name: str) -> int:
        """A version that no device has seen of ``name``, in any population."""
        highest = max((record.info.version for record in self._releases if record.info.name == name), default=0)
        return 1 + max(highest, self.floor)

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
