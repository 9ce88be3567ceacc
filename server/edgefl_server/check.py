"""The database of a stopped server, held against every promise that can be seen in it (design §5, I1 to I4).

A finding says what is wrong, where, and what to do. Nothing is changed.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgefl.errors import EdgeFLError, LocalProtocolError, NotFoundError, StorageError
from edgefl.protocol.process import ProcessState
from edgefl.protocol.sampling import draw_cohort
from edgefl.protocol.task import TaskKind, TaskSpec
from edgefl_server.recompute import Recomputer
from edgefl_server.schema import MIGRATIONS
from edgefl_server.sqlite_file import (
    DATABASE_NAME,
    check_application,
    check_tables,
    connect,
    damaged,
    open_reader,
    storage_errors,
    take_lock,
)

Progress = Callable[[int, int], None]
"""``progress(done, total)`` in rounds."""

_RESTORE = "restore a backup"
_REPORT = "report it with the server's log: it is a defect"


@dataclass(frozen=True)
class Finding:
    what: str
    where: str
    do: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.do}"


@dataclass(frozen=True)
class Verdict:
    """``rounds``: ended rounds looked at; ``recomputed``: versions computed again."""

    findings: tuple[Finding, ...]
    rounds: int
    recomputed: int


@contextlib.contextmanager
def stopped(data_dir: Path) -> Iterator[sqlite3.Connection]:
    """A reading connection to the database of a server that does not run, for as long as the context lasts.

    Raises ``NotFoundError`` without a database, ``FencedError`` while a server runs, ``StorageError`` for a damaged
    file or one of another version.
    """
    path = data_dir / DATABASE_NAME
    if not path.exists():
        raise NotFoundError(f"no database {path}; check data_dir in the configuration")
    lock = take_lock(data_dir)
    try:
        with storage_errors(path, "cannot be read"), contextlib.closing(open_reader(path, connect)) as db:
            _check_layout(db, path)
            yield db
    finally:
        os.close(lock)


def _check_layout(db: sqlite3.Connection, path: Path) -> None:
    check_application(db, path)
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version != len(MIGRATIONS):
        raise StorageError(
            f"{path}: schema version {version}; expected {len(MIGRATIONS)}; a server of this version migrates an older "
            "one when it starts"
        )
    check_tables(db, path)


def check(data_dir: Path, progress: Progress | None = None) -> Verdict:
    """Everything. Raises as ``stopped`` does, and ``StorageError`` when SQLite's own check fails."""
    with stopped(data_dir) as db:
        (verdict,) = db.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise damaged(data_dir / DATABASE_NAME, verdict)
        checker = _Checker(db, progress)
        checker.run()
        return Verdict(tuple(checker.findings), checker.rounds, checker.recomputed)


class _Checker:
    def __init__(self, db: sqlite3.Connection, progress: Progress | None) -> None:
        self._db = db
        self._progress = progress
        self._recomputer = Recomputer(db)
        self._computed: ProcessState | None = None
        self._computed_of = ("", 0)
        self.findings: list[Finding] = []
        self.rounds = 0
        self.recomputed = 0

    def run(self) -> None:
        self._content()
        self._releases()
        (total,) = self._db.execute("SELECT count(*) FROM rounds").fetchone()
        for name, goal, next_round, version, pruned, forgotten in self._db.execute(
            "SELECT name, goal, next_round, version, pruned, forgotten FROM tasks ORDER BY id"
        ).fetchall():
            where = f"task {name}"
            try:
                spec = self._recomputer.spec(name)
            except EdgeFLError as error:
                self._find(f"its definition is refused ({error})", where, _RESTORE)
                continue
            if spec.round.goal != goal:
                self._find(f"the goal is {goal}, its definition says {spec.round.goal}", where, _RESTORE)
            self._initial(spec)
            self._versions(name, version, forgotten)
            self._numbers(name, next_round, forgotten)
            self._task_rounds(spec, pruned, total)

    def _find(self, what: str, where: str, do: str) -> None:
        self.findings.append(Finding(what, where, do))

    def _content(self) -> None:
        for sha256, data in self._db.execute("SELECT sha256, data FROM content"):
            found = hashlib.sha256(data).hexdigest()
            if found != sha256:
                self._find(f"its bytes have the digest {found}", f"content {sha256}", _RESTORE)
        for task, version, sha256 in self._db.execute(
            "SELECT task, version, states.sha256 FROM states LEFT JOIN content USING (sha256)"
            " WHERE kept AND states.sha256 != '' AND data IS NULL"
        ):
            self._find(f"no content {sha256}", f"version {version} of task {task}", _RESTORE)
        for (sequence,) in self._db.execute(
            "SELECT sequence FROM payloads WHERE sequence NOT IN (SELECT sequence FROM reports)"
        ):
            self._find("a payload without a report", f"sequence {sequence}", _REPORT)

    def _releases(self) -> None:
        for name, version, sha256, size, length in self._db.execute(
            "SELECT name, version, sha256, size_bytes, length(data) FROM releases LEFT JOIN content USING (sha256)"
        ):
            if length != size:
                what = f"no content {sha256}" if length is None else f"{length} bytes; expected {size}"
                self._find(what, f"release {name} version {version}", _RESTORE)

    def _initial(self, spec: TaskSpec) -> None:
        """Version 0, while it is there, is where the definition begins."""
        found = self._digest(spec.name, 0)
        if spec.model is None or spec.kind is not TaskKind.TRAINING or found is None:
            return
        initial = spec.model.initial
        if initial is None:
            expected = spec.model.build().initial_weights().digest
        else:
            expected = initial.sha256 or (self._digest(initial.task, initial.version) or found)
        if found != expected:
            self._find(f"it begins at the model {found}; its definition at {expected}", f"task {spec.name}", _RESTORE)

    def _digest(self, task: str, version: int) -> str | None:
        row = self._db.execute("SELECT sha256 FROM states WHERE task = ? AND version = ?", (task, version)).fetchone()
        return None if row is None else str(row[0])

    def _versions(self, task: str, version: int, forgotten: int) -> None:
        """Versions are dense up to the last, one of each committed round that is not forgotten."""
        states = self._db.execute(
            "SELECT version, round FROM states WHERE task = ? AND round >= ? ORDER BY version",
            (task, forgotten + 1 if forgotten else 0),
        ).fetchall()
        committed = self._db.execute(
            "SELECT version, round FROM rounds WHERE task = ? AND phase = 'committed' ORDER BY round", (task,)
        ).fetchall()
        expected = committed if forgotten else [(0, 0), *committed]
        versions = [number for number, _ in states]
        if states != expected or versions != list(range(version + 1 - len(states), version + 1)):
            what = f"version {version}, {len(committed)} committed rounds, {len(states)} states; expected one of each"
            self._find(f"{what}, in order", f"task {task}", _REPORT)
        (latest,) = self._db.execute(
            "SELECT count(*) FROM states WHERE task = ? AND version = ? AND kept AND extra IS NOT NULL", (task, version)
        ).fetchone()
        if not latest:
            self._find(f"the state of version {version}, the last, is not kept", f"task {task}", _RESTORE)

    def _numbers(self, task: str, next_round: int, forgotten: int) -> None:
        """Rounds are dense but for what a restored backup jumped over, and ended before the next began."""
        where = f"task {task}"
        jumps = self._db.execute("SELECT from_round, to_round FROM jumps WHERE task = ?", (task,)).fetchall()
        rows = self._db.execute(
            "SELECT round FROM rounds WHERE task = ? AND phase IN ('committed', 'abandoned') ORDER BY round", (task,)
        )
        ended = [number for (number,) in rows]
        expected: list[int] = []
        number = forgotten + 1
        for start, end in [*sorted(jumps), (next_round, next_round)]:
            expected.extend(range(number, start))
            number = max(number, end)
        if ended != expected:
            self._find(f"round {next_round} is next, and {len(ended)} of {len(expected)} have ended", where, _REPORT)
        last = 0
        for number, first, highest in self._db.execute(
            "SELECT round, min(sequence), max(sequence) FROM reports WHERE task = ? GROUP BY round ORDER BY round",
            (task,),
        ):
            if first <= last:
                self._find(f"sequence {first} after {last}", f"round {number} of task {task}", _REPORT)
            last = highest

    def _task_rounds(self, spec: TaskSpec, pruned: int, total: int) -> None:
        rows = self._db.execute(
            "SELECT round, phase, version, accepted, failed, candidates, num_examples, cohort FROM rounds"
            " WHERE task = ? ORDER BY round",
            (spec.name,),
        ).fetchall()
        for number, phase, version, accepted, failed, candidates, num_examples, cohort in rows:
            where = f"round {number} of task {spec.name}"
            members = json.loads(cohort)
            if number > pruned and members != _drawn(spec, number, json.loads(candidates), json.loads(num_examples)):
                self._find("its cohort is not what its candidates and seed give", where, _REPORT)
            counts = self._reports(spec, number, phase, set(members), where, kept=number > pruned)
            if phase != "collecting" and counts != (accepted, failed):
                self._find(f"{accepted} accepted and {failed} failed; the ledger has {counts}", where, _REPORT)
            if phase == "committed" and number > pruned:
                self._recompute(spec.name, version, where)
            self.rounds += 1
            if self._progress is not None:
                self._progress(self.rounds, total)

    def _reports(
        self, spec: TaskSpec, number: int, phase: str, members: set[str], where: str, *, kept: bool
    ) -> tuple[int, int]:
        """The reports of a round; returns how many were accepted, and how many failures noted."""
        order, counted = [], []
        rows = self._db.execute(
            "SELECT sequence, device, counted, payload_sha256 FROM reports WHERE task = ? AND round = ?"
            " ORDER BY sequence",
            (spec.name, number),
        ).fetchall()
        for sequence, device, is_counted, digest in rows:  # payloads one at a time: ordered, all would be in memory
            row = self._db.execute("SELECT data FROM payloads WHERE sequence = ?", (sequence,)).fetchone()
            payload = None if row is None else row[0]
            order.append(device)
            if is_counted:
                counted.append(device)
            if device not in members:
                self._find(f"device {device} is not in its cohort", where, _REPORT)
            if not kept and payload is not None:
                self._find(f"the payload of device {device} is older than retention", where, _REPORT)
            if kept and (payload is None or hashlib.sha256(payload).hexdigest() != digest):
                what = "is missing" if payload is None else "is not what was accepted"
                self._find(f"the payload of device {device} {what}", where, _RESTORE)
        expected = order[: spec.round.goal] if phase == "committed" else []
        if counted != expected:
            self._find(f"{phase}, and counts {counted}; expected {expected}", where, _REPORT)
        (failed,) = self._db.execute(
            "SELECT count(*) FROM failures WHERE task = ? AND round = ?", (spec.name, number)
        ).fetchone()
        return len(order), failed

    def _recompute(self, task: str, version: int, where: str) -> None:
        """Compute ``version`` from the state before it: the stored one if it is kept, else the one computed last."""
        try:
            before = self._computed if self._computed_of == (task, version - 1) else None
            with contextlib.suppress(NotFoundError):
                before = self._recomputer.state(task, version - 1)
            result = (
                self._recomputer.version(task, version)
                if before is None
                else self._recomputer.following(task, version, before)
            )
        except EdgeFLError as error:
            self._find(f"version {version} cannot be computed again: {error}", where, _RESTORE)
            return
        self._computed, self._computed_of = result.state, (task, version)
        self.recomputed += 1
        if result.differences:
            self._find(f"version {version} computed again differs in {', '.join(result.differences)}", where, _RESTORE)


def _drawn(spec: TaskSpec, round_num: int, candidates: list[str], num_examples: list[int]) -> list[str] | None:
    """The cohort drawn again; None where the sizes of the candidates are not there."""
    if candidates == []:
        return []  # a round that ended while it was open
    with contextlib.suppress(LocalProtocolError):
        size = spec.round.cohort_size
        return list(draw_cohort(spec.seed, round_num, candidates, size, spec.round.sampling, num_examples))
    return None
