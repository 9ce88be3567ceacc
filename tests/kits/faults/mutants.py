"""Defects that were put in on purpose, each a patch of what runs in a simulation: they show that the checks can fail.

A mutant is a context manager in which worlds are made and run.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

import apsw

from edgefl.errors import InvalidUpdateError, StorageError
from edgefl.faults.disk import Disk
from edgefl.faults.world import World
from edgefl.protocol import coordinator, delivery, roundkeeper
from edgefl.protocol import round as round_module
from edgefl.protocol.catalogue import Catalogue
from edgefl.protocol.coordinator import Coordinator
from edgefl.protocol.events import Draining, Phase, SaveReport
from edgefl.protocol.messages import Accepted, AlreadyAccepted, Fate, Late
from edgefl.protocol.process import BEFORE_ROUND
from edgefl.protocol.session_state import SessionState
from edgefl.sums.running import Contribution
from edgefl_device import content, state
from edgefl_device.files import write_unsynced
from edgefl_device.state import StateDir
from edgefl_server import sqlite_file, sqlite_store, sqlite_write
from edgefl_server.batcher import Batcher
from edgefl_server.sqlite_store import SqliteStore
from edgefl_server.sqlite_write import Writer
from edgefl_server.uploads import Uploads

Mutant = Callable[[], AbstractContextManager[None]]


def _patched(owner: Any, name: str, make: Callable[[Any], Any]) -> Mutant:
    """``owner.name`` replaced by ``make`` of what it was."""

    @contextlib.contextmanager
    def mutant() -> Iterator[None]:
        with patch.object(owner, name, make(getattr(owner, name))):
            yield

    return mutant


def _all(*mutants: Mutant) -> Mutant:
    @contextlib.contextmanager
    def together() -> Iterator[None]:
        with contextlib.ExitStack() as stack:
            for mutant in mutants:
                stack.enter_context(mutant())
            yield

    return together


def _rewriting(name: str, value: str) -> Mutant:
    """A pragma with another value."""

    def make(sql: Any) -> Any:
        def mutant(self: World, text: str) -> Any:
            return f"PRAGMA {name} = {value}" if text.startswith(f"PRAGMA {name} =") else sql(self, text)

        return mutant

    return _patched(World, "sql", make)


def _retried_sync(sync: Any) -> Any:
    """A sync that failed is tried again, and succeeds: the kernel has forgotten the writes."""

    def mutant(self: Disk, name: str) -> None:
        with contextlib.suppress(apsw.IOError):
            sync(self, name)
            return
        self.file(name).sync()

    return mutant


# ------------------------------------------------------------------------------------------------ the server


def _no_dedupe_admit(admit: Any) -> Any:
    def mutant(state: Any, device: str, update: Any) -> Any:
        receipt = admit(state, device, update)
        again = isinstance(receipt, AlreadyAccepted) and state.phase is Phase.COLLECTING
        return None if again else receipt

    return mutant


def _no_dedupe_step(step: Any) -> Any:
    def mutant(state: Any, event: Any, now: float) -> Any:
        if isinstance(event, round_module.UpdateAccepted) and event.device in state.accepted:
            return state, (SaveReport(event.sequence, event.device, event.update),)
        return step(state, event, now)

    return mutant


def _replacing_report(report: Any) -> Any:
    def mutant(self: Writer, effect: SaveReport) -> None:
        update = effect.update
        key = (update.task, update.round_num, effect.device)
        self._run("DELETE FROM reports WHERE task = ? AND round = ? AND device = ?", key)
        report(self, effect)

    return mutant


def _receipt_first(_: Any) -> Any:
    def mutant(self: Batcher, batch: Any) -> None:
        self._deliver(batch)
        self._persist(batch)

    return mutant


def _close_in_two(end: Any) -> Any:
    def mutant(db: Any, *arguments: Any, **words: Any) -> None:
        db.execute("COMMIT")
        db.execute("BEGIN IMMEDIATE")
        end(db, *arguments, **words)

    return mutant


def _late_is_accepted(receive: Any) -> Any:
    def mutant(self: Any, device: str, update: Any, now: float) -> Any:
        receipt = receive(self, device, update, now)
        if not isinstance(receipt, Late):
            return receipt
        sequence, self.next_sequence = self.next_sequence, self.next_sequence + 1
        self.out.append(SaveReport(sequence, device, update))
        return Accepted(sequence)

    return mutant


def _swallows_errors(apply: Any) -> Any:
    def mutant(self: SqliteStore, *arguments: Any) -> None:
        with contextlib.suppress(StorageError):
            apply(self, *arguments)
        self._failed = False

    return mutant


def _forgets_the_sum(_: Any) -> Any:
    def mutant(self: Any, run: Any, record: Any, ready: Any, now: float) -> None:
        run.round = round_module.restore(record, run.spec.seed, run.spec.round, ready.base, now)
        self.advance(run, round_module.TimePassed(), now)

    return mutant


def _sequences_start_anew(read: Any) -> Any:
    def mutant(db: Any, source: str, wall_now: float) -> Any:
        return replace(read(db, source, wall_now), next_sequence=1)

    return mutant


def _drains_in_words_only(_: Any) -> Any:
    def mutant(self: Coordinator, event: Any, now: float) -> None:  # noqa: ARG001
        self._dismiss("the server is stopping", self._pace.drain_window())

    return mutant


def _handling(event: type, make: Callable[[Any], Any]) -> Mutant:
    """The coordinator handles ``event`` otherwise."""

    @contextlib.contextmanager
    def mutant() -> Iterator[None]:
        with patch.dict(coordinator.HANDLERS, {event: make(coordinator.HANDLERS[event])}):
            yield

    return mutant


# ------------------------------------------------------------------------------------------------ the device


def _offers_any(_: Any) -> Any:
    def mutant(self: Catalogue, release: Any) -> None:
        """A restart reads the newest first, and the last one read is offered."""
        self._releases.append(release)
        self._newest.setdefault((release.population, release.info.name), release)

    return mutant


def _takes_any(_: Any) -> Any:
    def mutant(self: SessionState, releases: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(info for info in releases if info not in (*self.releases, *self.fetching))

    return mutant


def _installs_any(install: Any) -> Any:
    def mutant(self: content.ReleaseStore, info: Any, fetch: Any) -> None:
        for release in self.installed():
            if release.info.name == info.name and release.info.version > info.version:
                self._ops.unlink(self._folder / f"{info.name}.json")
        install(self, info, fetch)

    return mutant


def _not_synced(name: str) -> Callable[[Any], Any]:
    def make(durable: Any) -> Any:
        return lambda ops, path, data: (write_unsynced if path.name == name else durable)(ops, path, data)

    return make


def _nothing(_: Any) -> Any:
    return lambda *_: None


def _from_the_start(upload_from: Any) -> Any:
    """An upload begins at the first byte, whatever the server has of it."""
    return lambda _: upload_from(0)


def _gives_up(_: Any) -> Any:
    def mutant() -> Any:
        """A report whose bytes the server lacks has failed for good."""
        return (yield delivery.ReportBySha256())

    return mutant


def _folds_unchecked(receive: Any) -> Any:
    def mutant(self: Any, device: str, update: Any, now: float) -> Any:
        """The gate's last check comes after the sum has taken the update in."""
        run = self._board.find(update.task)
        ready = None if run is None else run.ready
        collects = ready is not None and run.round.phase is Phase.COLLECTING
        if not collects or self._admit(run, device, update) is not None:
            return receive(self, device, update, now)
        try:
            ready.process.take(device, update)
        except InvalidUpdateError as error:
            if error.reason not in BEFORE_ROUND:  # the simulated codecs are payloads as they are
                counts = (update.weight, update.num_examples, update.num_correct, update.loss_grid)
                ready.process.fold(ready.accumulator, Contribution(update.payload, *counts, device=device))
        return receive(self, device, update, now)

    return mutant


def _abandoned_is_counted(fate: Any) -> Any:
    def mutant(self: SqliteStore, *key: Any) -> Fate:
        found: Fate = fate(self, *key)
        return Fate.COUNTED if found is Fate.NOT_COUNTED else found

    return mutant


def _shared_lock(_: Any) -> Any:
    return lambda descriptor, _path: fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)


MUTANTS: dict[str, Mutant] = {
    "no dedupe": _all(
        _patched(roundkeeper, "admit", _no_dedupe_admit),
        _patched(roundkeeper, "step", _no_dedupe_step),
        _patched(Writer, "_report", _replacing_report),
    ),
    "receipt before commit": _patched(Batcher, "_carry_out", _receipt_first),
    "close in two transactions": _patched(sqlite_write, "end_round", _close_in_two),
    "stale epoch writes": _patched(SqliteStore, "_compare_epoch", _nothing),
    "late report accepted": _patched(roundkeeper.RoundKeeper, "receive", _late_is_accepted),
    "synchronous = NORMAL": _rewriting("synchronous", "NORMAL"),
    "journal in memory": _rewriting("journal_mode", "MEMORY"),
    "sync retried after an error": _patched(Disk, "sync", _retried_sync),
    # After a failed sync the next process takes what the kernel shows for what is on the disk.
    "recovery trusts the log of a failed sync": _patched(World, "rewrite_log", _nothing),
    "a lock that two can hold": _patched(sqlite_file, "_hold", _shared_lock),
    "goes on after a failed commit": _patched(SqliteStore, "apply", _swallows_errors),
    "refused update is folded": _patched(roundkeeper.RoundKeeper, "receive", _folds_unchecked),
    "abandoned round is told as counted": _patched(SqliteStore, "fate", _abandoned_is_counted),
    "uploaded bytes are not verified": _patched(Uploads, "_check", _nothing),
    "restart forgets the sum": _patched(roundkeeper.RoundKeeper, "restore", _forgets_the_sum),
    "restart begins the sequences anew": _patched(sqlite_store, "read_snapshot", _sequences_start_anew),
    "restart forgets a pause": _patched(Writer, "_task_status", _nothing),
    "draining server draws a cohort": _handling(Draining, _drains_in_words_only),
    "upload begins anew": _patched(delivery, "UploadFrom", _from_the_start),
    "report without its bytes is given up": _patched(delivery, "_deliver", _gives_up),
    "forgotten outbox": _patched(StateDir, "save_update", _nothing),
    "outbox not synced": _patched(state, "write_durable", _not_synced("outbox")),
    "session not synced": _patched(state, "write_durable", _not_synced("session")),
    "release version falls on the server": _patched(Catalogue, "add_release", _offers_any),
    "release version falls on the device": _all(
        _patched(SessionState, "unseen", _takes_any), _patched(content.ReleaseStore, "install", _installs_any)
    ),
}
"""By name. Each must be caught (``tests/faults/test_faults.py``)."""
