"""Runs seeds and shrinks a failure: leaves faults out as long as the same invariant still breaks."""

from __future__ import annotations

import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgefl.errors import InterruptedByUser
from edgefl.faults.checks import Violation
from edgefl.faults.config import FaultsConfig
from edgefl.faults.disk import Disk, connection_factory
from edgefl.faults.fleet import Fleet
from edgefl.faults.scenario import Kind, only, scenario
from edgefl.faults.world import World
from edgefl_server.sqlite_store import SqliteStore

FleetOf = Callable[[int], Fleet]
"""The fleet of a seed."""


@dataclass(frozen=True)
class Failure:
    """A seed that broke an invariant. ``lost``: how many acknowledged updates; ``until``: None for the file's."""

    seed: int
    message: str
    trace: tuple[str, ...]
    lost: int
    without: tuple[Kind, ...] = ()
    until: float | None = None

    @property
    def options(self) -> str:
        """Command-line options that replay it."""
        kinds = f" --only {only(self.without)}" if self.without else ""
        return f"--run {self.seed}{kinds}" + ("" if self.until is None else f" --until {self.until:g}")


class Runner:
    """Runs seeds below the folder ``root``. ``poll``: see ``World``."""

    def __init__(
        self, root: Path, fleet: FleetOf, config: FaultsConfig, poll: Callable[[], None] = lambda: None
    ) -> None:
        self._root = root
        self._fleet = fleet
        self._config = config
        self._poll = poll
        self._template = _new_database(root)

    def run(
        self, seed: int, without: tuple[Kind, ...] = (), until: float | None = None
    ) -> tuple[World, Failure | None]:
        """The world after the run of ``seed``, and what it violated."""
        folder = self._root / "run"
        folder.mkdir()
        try:
            wanted = scenario(seed, self._config, without, until)
            world = World(wanted, self._fleet(seed), folder, self._template, self._poll)
            try:
                world.run()
            except Violation as violation:
                message = str(violation)
            except InterruptedByUser:
                raise
            except Exception as error:
                world.trace.extend(traceback.format_exception(error))
                message = f"{type(error).__name__}: {error}"
            else:
                return world, None
        finally:
            shutil.rmtree(folder)
        message = message.replace(f"{folder}/", "")
        lost = len(world.promises.lost)
        return world, Failure(seed, message, tuple(world.trace), lost, without, until)

    def shrunk(self, failure: Failure) -> Failure:
        """Leave kinds of faults out, then end them earlier, as long as the same invariant still breaks."""
        for kind in Kind:
            if kind not in failure.without:
                failure = self._smaller(failure, (*failure.without, kind), failure.until)
        end = self._config.until_s if failure.until is None else failure.until
        for share in (0.25, 0.5, 0.75):
            until = round(end * share, 3)
            if failure.until is None or until < failure.until:
                failure = self._smaller(failure, failure.without, until)
        return failure

    def _smaller(self, failure: Failure, without: tuple[Kind, ...], until: float | None) -> Failure:
        _, found = self.run(failure.seed, without, until)
        same = found is not None and found.message[:3] == failure.message[:3]
        return found if found is not None and same else failure


@contextmanager
def runner(fleet: FleetOf, config: FaultsConfig, poll: Callable[[], None] = lambda: None) -> Iterator[Runner]:
    """In a memory file system where there is one: no run needs what is on a disk, and each syncs a thousand times."""
    shared = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="edgefl-faults-", dir=shared if shared.is_dir() else None) as root:
        yield Runner(Path(root), fleet, config, poll)


def run_range(run: Runner, first: int, last: int) -> Failure | None:
    """Seeds ``first`` to ``last`` - 1; the first failure, shrunk."""
    for seed in range(first, last):
        _, failure = run.run(seed)
        if failure is not None:
            return run.shrunk(failure)
    return None


def _new_database(root: Path) -> dict[str, bytes]:
    """The files of a database that a server has just made."""
    disk = Disk(root / "new", lambda _: None)
    SqliteStore(disk.folder, retention_rounds=1, factory=connection_factory(lambda text: text)).close()
    files = {path.name: path.read_bytes() for path in disk.folder.iterdir() if path.name == "edgefl.db"}
    disk.forget()
    return files
