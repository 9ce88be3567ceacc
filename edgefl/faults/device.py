"""A device: the real session machine, its executor, state folder and releases; the jobs are done in virtual time.

Its clock is its own and starts anew at each boot of the machine. ``Crash`` may come at every operation of the card and
before every effect; the world then calls ``down``.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import edgefl.protocol.session_events as on
from edgefl._version import __version__
from edgefl.errors import ConfigError, NotFoundError, StorageError
from edgefl.faults.card import Card
from edgefl.faults.checks import require
from edgefl.faults.disk import Crash
from edgefl.faults.fleet import Member
from edgefl.protocol.messages import (
    Assignment,
    CheckIn,
    ClientUpdate,
    ReleaseInfo,
    Report,
    WorkFailure,
)
from edgefl.protocol.session import SessionMachine
from edgefl.protocol.session_executor import Executor, JobEffect
from edgefl_device.content import ReleaseStore
from edgefl_device.state import StateDir

if TYPE_CHECKING:
    from edgefl.faults.world import World

RESTART_S = 2.0
"""The service manager starts an agent that ended by itself again after this time."""


class SimDevice:
    """``copy`` 1 is a second device of the same name, as a cloned card makes."""

    def __init__(self, world: World, member: Member, copy: int, folder: Path, chance: random.Random) -> None:
        name = member.name
        self.name, self.copy, self.who = name, copy, f"{name}.{copy}"
        self._member = member
        self.life = 0
        self.up = False
        self._world = world
        self._folder = folder
        self._chance = chance
        self._card = Card(lambda where: world.device_point(self, where), chance)
        self._releases = ReleaseStore(folder / "releases", self._card)
        self._state: StateDir | None = None
        self._clock_base = 0.0
        self._session = 0
        self._saved: dict[tuple[str, int], ClientUpdate] = {}
        self._highest: dict[str, int] = {}
        self._queue: list[ReleaseInfo] = []
        self._model = b""

    @property
    def monotonic(self) -> float:
        return self._world.now - self._clock_base

    # Life and death -------------------------------------------------------------------------------------

    def boot(self) -> None:
        """Start the agent, as ``Agent`` does."""
        self.life += 1
        self.up = True
        self._queue = []
        try:
            self._state = StateDir.open(self._folder, self.name, self._card)
            self._run_releases()
        except StorageError as error:
            self._world.say(self.who, f"cannot start: {error}")
            self.end()
            self._world.later(RESTART_S, self._boot_if_down)
            return
        require(self._state.session > self._session, f"{self.who}: session {self._state.session} after {self._session}")
        self._session = self._state.session
        self._executor = self._new_executor(self._state)
        self._world.say(self.who, f"session {self._session}, outbox {_short(self._state.found_outbox)}")
        self._executor.start(tuple(release.info for release in self._releases.installed()))

    def _new_executor(self, state: StateDir) -> Executor:
        life = self.life

        def later(delay_s: float, action: Callable[[], None]) -> None:
            self._world.later(delay_s, lambda: self.act(life, action))

        return Executor(
            SessionMachine(self._world.fleet.session, self._chance.uniform),
            state,
            self,
            clock=lambda: self.monotonic,
            warn=lambda text: self._world.say(self.who, text),
            later=later,
            on_effect=lambda effect: self._world.device_point(self, type(effect).__name__),
        )

    def guarded_boot(self) -> None:
        self._guard(self.boot)

    def _boot_if_down(self) -> None:
        if not self.up:
            self._guard(self.boot)

    def down(self, power: bool) -> None:
        """The process is gone, and with ``power`` all that was not synced."""
        self.end()
        self._world.link.died(self)
        if power:
            self._card.power_cut()
            self._clock_base = self._world.now - self._chance.uniform(0.0, 5.0)

    def end(self) -> None:
        self.up = False
        self.life += 1
        if self._state is not None:
            self._state.close()
            self._state = None

    def _run_releases(self) -> None:
        """I7: what this device runs never falls. It asks for each release as an application does that runs it."""
        installed = {release.info.name for release in self._releases.installed()}
        for name in sorted(installed | self._highest.keys()):
            try:
                found = self._releases.get(name).info.version
            except NotFoundError:
                found = 0
            except StorageError as error:
                self._world.say(self.who, f"does not run {name}: {error}")
                continue
            highest = self._highest.get(name, 0)
            require(found >= highest, f"I7: {self.who} ran {name} {highest}, now {found}")
            self._highest[name] = found

    # Events and effects ---------------------------------------------------------------------------------

    def event(self, life: int, event: Any) -> None:
        """Something happened to the run ``life`` of this device."""
        self.act(life, lambda: self._handle(event))

    def act(self, life: int, action: Callable[[], None]) -> None:
        """Run ``action`` if this device still lives ``life``; a crash inside it is this device's."""
        if life == self.life:
            self._guard(action)

    def _guard(self, action: Callable[[], None]) -> None:
        """Run ``action``; a crash inside it is this device's and nobody else's."""
        try:
            action()
        except Crash as crash:
            self._world.say(self.who, f"dies: {crash}")
            self.down(power=bool(crash.args[1]))
            self._world.later(self._chance.uniform(0.3, 4.0), self._boot_if_down)

    def _handle(self, event: Any) -> None:
        if isinstance(event, on.ReceiptReceived) or (isinstance(event, on.RpcFailed) and not event.transient):
            self._answered(self._executor.state.report)
        self._executor.handle(event)

    def _answered(self, report: Report | None) -> None:
        if isinstance(report, ClientUpdate):
            self._saved.pop((report.task, report.round_num), None)

    def begin(self, effect: JobEffect) -> None:
        """Start a job, as ``Agent`` hands it to a thread."""
        world, life, state = self._world, self.life, self._state
        assert state is not None
        match effect:
            case on.SendCheckIn(last_task, last_round, timeout_s):
                world.link.call(self, self._check_in(state.session, last_task, last_round), timeout_s)
            case on.SendReport(report, timeout_s):
                self._check_outbox(report)
                world.link.report(self, report, timeout_s)
            case on.FetchModel(digest):
                world.link.fetch(self, digest, lambda got: self.event(life, self._fetched(got)))
            case on.StartWork(assignment):
                key = (assignment.task, assignment.round_num)
                require(key not in self._saved, f"I2: {self.who} saved its update of {key}, and works on it again")
                done = self._work(assignment)
                world.later(self._chance.uniform(*world.config.work_s), lambda: self.event(life, done))
            case on.SaveUpdate(update):
                world.later(0.02, lambda: self.act(life, lambda: self._save(state, update)))
            case on.FetchRelease(info):
                self._queue.append(info)
                if len(self._queue) == 1:
                    self._next_release(life)

    def stop_work(self) -> None:
        """The work is short: it ends by itself."""

    def _check_in(self, session: int, last_task: str, last_round: int) -> CheckIn:
        config = self._world.fleet.session
        return CheckIn(
            population=self._world.population,
            agent_version=__version__,
            session=session,
            num_train=self._member.num_train,
            num_held_out=self._member.num_held_out,
            kinds=config.kinds,
            encodings=config.encodings,
            last_task=last_task,
            last_round=last_round,
            instance=2 * self.life + self.copy + 1,  # no two agents of a run have the same
        )

    def _fetched(self, got: bytes | str) -> Any:
        if isinstance(got, str):
            return on.RpcFailed(got, transient=True)
        self._model = got
        return on.ModelReady()

    def _work(self, assignment: Assignment) -> on.WorkDone | on.WorkFailed:
        model = self._model if assignment.model_digest else b""
        assert self._state is not None
        memory = self._state.memory.load(assignment.task, assignment.round_num, assignment.plan.memory_bytes)
        report = self._world.fleet.work(assignment, model, self.name, self.copy, memory)
        if isinstance(report, WorkFailure):
            return on.WorkFailed(report)
        self._world.promises.computed(self.name, report)
        if not self._world.is_cloned(self.name):
            self._world.memory.worked(self.name, report, memory)
        return on.WorkDone(report)

    def _check_outbox(self, report: Report) -> None:
        """A saved update is what is reported, until it has its answer."""
        saved = self._saved.get((report.task, report.round_num))
        same = saved is None or (isinstance(report, ClientUpdate) and report.payload == saved.payload)
        require(same, f"I2: {self.who} saved its update of {report.task} {report.round_num} and reports {report}")

    def _save(self, state: StateDir, update: ClientUpdate) -> None:
        try:
            state.save_update(update)
        except StorageError as error:
            self._handle(on.SaveFailed(str(error)))
            return
        self._saved[update.task, update.round_num] = update
        self._handle(on.UpdateSaved())

    # Releases -------------------------------------------------------------------------------------------

    def _next_release(self, life: int) -> None:
        info = self._queue[0]
        self._world.link.fetch(self, info.sha256, lambda got: self._guard(lambda: self._install(life, info, got)))

    def _install(self, life: int, info: ReleaseInfo, got: bytes | str) -> None:
        if life != self.life:
            return
        outcome: Any = on.ReleaseFetched(info)
        if isinstance(got, str):
            outcome = on.ReleaseFailed(info, got)
        else:
            try:
                self._releases.install(info, lambda _sha256, _size, part: self._card.write(part, got))
                self._world.say(self.who, f"runs {info.name} {info.version}")
            except ConfigError as error:
                self._world.say(self.who, str(error))
            except (StorageError, OSError) as error:
                outcome = on.ReleaseFailed(info, str(error))
            self._run_releases()
        self._queue.pop(0)
        self._handle(outcome)
        if self._queue and life == self.life:
            self._next_release(life)


def _short(report: Report | None) -> str:
    return "empty" if report is None else f"{type(report).__name__} {report.task} {report.round_num}"
