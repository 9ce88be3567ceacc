"""The agent: one process that carries out what the session machine says.

::

    signals ──┐                       ┌── worker thread: check-in, download, training, outbox, report (jobs.py)
              ├─> queue ─> executor ──┤
    timer  ───┘   (main thread)       └── release thread: downloads alongside it

Invariants: the main thread alone touches the session, the notes and the status, and never blocks on network, training
or a sync. A signal stops a training between two batches and cancels a waiting call; the process then ends with 0.
systemd's watchdog is fed only while the job at hand is within its time.

Source: design §5 (device machine), §9 (one process; few writes).
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import signal
import time
from collections.abc import Callable

from edgefl import __version__
from edgefl.command import one_line
from edgefl.errors import InterruptedByUser, StorageError, UnavailableError
from edgefl.kernels import StopFlag
from edgefl.protocol.session import SessionMachine
from edgefl.protocol.session_events import (
    FetchModel,
    FetchRelease,
    ReleaseFailed,
    ReleaseFetched,
    SaveUpdate,
    SendCheckIn,
    SendReport,
    SessionEffect,
    SessionEvent,
    StartWork,
    StopRequested,
    TimerFired,
)
from edgefl.protocol.session_executor import Executor, JobEffect
from edgefl.protocol.session_state import SessionPhase, SessionState, Uniform
from edgefl.systemd import notify, watchdog_interval_s
from edgefl_device.config import DeviceConfig
from edgefl_device.example_store import ExampleStore
from edgefl_device.jobs import Jobs, session_config
from edgefl_device.narrator import Story, tell
from edgefl_device.rpc import FleetClient
from edgefl_device.signals import SignalWatch
from edgefl_device.state import StateDir
from edgefl_device.status import Status, StatusFile, by_call, by_purpose
from edgefl_device.worker import Crash, Job, Worker

log = logging.getLogger("edgefl.device")

JOB_GRACE_S = 60.0
"""Beyond its own limit a job may take this long (a slow card, a last batch) before the watchdog is left unfed."""

DOWNLOAD_LIMIT_S = 3600.0
"""A model that takes longer to fetch will not be reported in time by any link."""

STOP_LIMIT_S = 15.0
"""A stopping agent waits this long for the job at hand: a batch takes milliseconds, a sync of a bad card seconds."""


def system_uniform(low: float, high: float) -> float:
    """Uniform in [low, high) from the operating system's generator (without the module ``random``, for memory)."""
    return low + (high - low) * (int.from_bytes(os.urandom(7), "little") >> 3) / 2**53


class Agent:
    """One run of the agent, from ``run`` to its return. ``once``: end after one check-in and what follows from it."""

    def __init__(
        self,
        config: DeviceConfig,
        *,
        once: bool = False,
        clock: Callable[[], float] = time.monotonic,
        uniform: Uniform = system_uniform,
    ) -> None:
        self._config = config
        self._once = once
        self._clock = clock
        self._queue: queue.SimpleQueue[SessionEvent | Crash] = queue.SimpleQueue()
        self._worker = Worker("session", self._queue)
        self._releases = Worker("releases", self._queue)
        session = session_config()
        with contextlib.ExitStack() as stack:
            self._state = StateDir.open(config.device.state_dir, config.device.name)
            stack.callback(self._state.close)
            self._store = ExampleStore.open(config.store_path, config.examples)
            stack.callback(self._store.close)
            self._client = FleetClient(config.server.address, config.device.name)
            stack.callback(self._client.close)
            self._jobs = Jobs(config, session, self._client, self._state, self._store)
            self._status_file = StatusFile(self._state.path / "status.json")
            stack.pop_all()
        self._executor = Executor(
            SessionMachine(session, uniform), self._state, self, clock=clock, warn=log.warning, on_step=self._tell
        )
        self._stop = StopFlag()
        self._job_until: float | None = None
        self._interrupted = False
        self._went = False
        self._story = Story(self._state.notes.last_task, self._state.notes.last_round)

    def run(self) -> int:
        """Work until a signal. Returns the exit status. To be called by the main thread.

        Raises ``UnavailableError`` with ``once`` when the check-in failed.
        """
        watch = SignalWatch((signal.SIGTERM, signal.SIGINT), self._on_signal)
        address = self._config.server.address
        log.info("device %s, session %d, server %s", self._config.device.name, self._state.session, address)
        try:
            self._executor.start(tuple(one.info for one in self._jobs.releases.installed()), at_once=self._once)
            self._show()
            notify("READY=1")
            while self._executor.state.phase is not SessionPhase.HALTED:
                self._handle(self._next())
        finally:
            notify("STOPPING=1")
            self._close()
            watch.close()
        if self._once and self._executor.state.failures:
            raise UnavailableError(self._executor.state.last_error)
        return InterruptedByUser.exit_code if self._interrupted else 0

    # -------------------------------------------------------------------------------------------- events

    def _on_signal(self, number: int) -> None:
        self._interrupted = number == signal.SIGINT
        self._queue.put(StopRequested())

    def _next(self) -> SessionEvent:
        """Wait for an event, feeding the watchdog. Raises what a job left by."""
        interval = watchdog_interval_s()
        while True:
            now, timer_at = self._clock(), self._executor.state.timer_at
            if timer_at is not None and now >= timer_at:
                return TimerFired()
            if interval is not None and (self._job_until is None or now < self._job_until):
                notify("WATCHDOG=1")
            waits = [interval, None if timer_at is None else timer_at - now]
            timeout = min((wait for wait in waits if wait is not None), default=None)
            try:
                item = self._queue.get(timeout=timeout)
            except queue.Empty:
                continue
            if isinstance(item, Crash):
                raise item.error
            if not isinstance(item, ReleaseFetched | ReleaseFailed | StopRequested):
                self._job_until = None  # the job at hand ended with this
            return item

    def _handle(self, event: SessionEvent) -> None:
        before = self._executor.state.phase
        self._executor.handle(event)
        after = self._executor.state
        self._show()
        self._went |= before is not SessionPhase.IDLE
        if self._once and self._went and after.phase is SessionPhase.IDLE and not after.fetching:
            self._queue.put(StopRequested())

    # -------------------------------------------------------------------------------------------- jobs

    def begin(self, effect: JobEffect) -> None:
        """Hand a job to the worker thread, a release to its own; called by the executor."""
        jobs = self._jobs
        match effect:
            case SendCheckIn():
                self._submit(lambda: jobs.check_in(effect), effect.timeout_s)
            case FetchModel():
                self._submit(lambda: jobs.fetch_model(effect), DOWNLOAD_LIMIT_S)
            case StartWork():
                self._stop = stop = StopFlag()
                self._submit(lambda: jobs.work(effect, stop), effect.assignment.deadline_s)
            case SaveUpdate():
                self._submit(lambda: jobs.save_update(effect), JOB_GRACE_S)
            case SendReport():
                self._submit(lambda: jobs.report(effect), effect.timeout_s)
            case FetchRelease():
                self._releases.submit(lambda: jobs.fetch_release(effect))

    def stop_work(self) -> None:
        """Stop a training between two batches; called by the executor."""
        self._stop.set()

    def _submit(self, job: Job, limit_s: float) -> None:
        self._job_until = self._clock() + limit_s + JOB_GRACE_S
        self._worker.submit(job)

    def _close(self) -> None:
        self._stop.set()
        self._client.close()
        ended = self._worker.join(STOP_LIMIT_S) and self._releases.join(STOP_LIMIT_S)
        if not ended:
            log.warning("a job did not end within %g s; the agent ends without it", STOP_LIMIT_S)
        else:
            self._executor.ended()
        self._show()
        if ended:
            self._store.close()
        self._state.close()

    # -------------------------------------------------------------------------------------------- for people

    def _tell(
        self, event: SessionEvent, before: SessionState, after: SessionState, effects: tuple[SessionEffect, ...]
    ) -> None:
        self._story, lines = tell(self._story, event, before, after, effects, time.time())
        for line in lines:
            log.log(logging.WARNING if line.warning else logging.INFO, "%s", one_line(line.text))

    def _show(self) -> None:
        state, story, traffic = self._executor.state, self._story, self._client.traffic
        status = Status(
            device=self._config.device.name,
            population=self._config.device.population,
            agent_version=__version__,
            pid=os.getpid(),
            session=self._state.session,
            phase=state.phase.value,
            last_error=state.last_error,
            no_work=story.no_work,
            next_try_at=story.next_try_at,
            last_task=story.task,
            last_round=story.round_num,
            last_outcome=story.outcome or ("reported by an earlier session" if story.task else ""),
            last_failure=story.failure,
            last_failure_at=story.failure_at,
            rounds_reported=story.accepted,
            rounds_failed=story.failed,
            num_train=self._jobs.counts.num_train,
            num_held_out=self._jobs.counts.num_held_out,
            releases=self._jobs.running,
            refused_release=self._jobs.refused_release,
            calls=by_call(traffic),
            traffic=by_purpose(traffic),
        )
        try:
            self._status_file.show(status, self._clock(), wall_now=time.time())
        except StorageError as error:
            log.debug("%s", error)  # what keeps the status from being written is told where it matters
