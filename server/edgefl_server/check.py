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

from edgefl.errors import EdgeFLError, NotFoundError, StorageError
from edgefl.protocol.selection import draw_cohort
from edgefl.protocol.task import TaskSpec
from edgefl_server.recompute import Recomputer
from edgefl_server.schema import APPLICATION_ID, MIGRATIONS, TABLES
from edgefl_server.sqlite_file import DATABASE_NAME, connect, damaged, open_reader, storage_errors, take_lock

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
    if db.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise damaged(path, "its application id is another program's")
    (version,) = db.execute("PRAGMA user_version").fetchone()
    if version != len(MIGRATIONS):
        raise StorageError(
            f"{path}: schema version {version}; expected {len(MIGRATIONS)}; a server of this version migrates an older "
            "one when it starts"
        )
    missing = set(TABLES) - {name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if missing:
        raise damaged(path, f"no table {', '.join(sorted(missing))}")


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
        self.findings: list[Finding] = []
        self.rounds = 0
        self.recomputed = 0

    def run(self) -> None:
        self._content()
        self._releases()
        (total,) = self._db.execute("SELECT count(*) FROM rounds").fetchone()
        for name, goal, next_round, version, pruned in self._db.execute(
            "SELECT name, goal, next_round, version, pruned FROM tasks ORDER BY id"
        ).fetchall():
            where = f"task {name}"
            try:
                spec = self._recomputer.spec(name)
            except EdgeFLError as error:
                self._find(f"its definition is refused ({error})", where, _RESTORE)
                continue
            if spec.round.goal != goal:
                self._find(f"the goal is {goal}, its definition says {spec.round.goal}", where, _RESTORE)
            self._versions(name, next_round, version)
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
            " WHERE states.sha256 != '' AND data IS NULL"
        ):
            self._find(f"no content {sha256}", f"version {version} of task {task}", _RESTORE)

    def _releases(self) -> None:
        for name, version, sha256, size, length in self._db.execute(
            "SELECT name, version, sha256, size_bytes, length(data) FROM releases LEFT JOIN content USING (sha256)"
        ):
            if length != size:
                what = f"no content {sha256}" if length is None else f"{length} bytes; expected {size}"
                self._find(what, f"release {name} version {version}", _RESTORE)

    def _versions(self, task: str, next_round: int, version: int) -> None:
        """Versions are dense, one of each committed round; rounds are dense, and ended before the next began."""
        where = f"task {task}"
        states = self._db.execute(
            "SELECT version, round FROM states WHERE task = ? ORDER BY version", (task,)
        ).fetchall()
        committed = self._db.execute(
            "SELECT version, round FROM rounds WHERE task = ? AND phase = 'committed' ORDER BY round", (task,)
        ).fetchall()
        if states != [(0, 0), *committed] or [v for v, _ in states] != list(range(version + 1)):
            what = f"version {version}, {len(committed)} committed rounds, {len(states)} states; expected one of each"
            self._find(f"{what}, in order", where, _REPORT)
        ended = self._db.execute(
            "SELECT round FROM rounds WHERE task = ? AND phase IN ('committed', 'abandoned') ORDER BY round", (task,)
        ).fetchall()
        if [number for (number,) in ended] != list(range(1, next_round)):
            self._find(f"round {next_round} is next, and {len(ended)} have ended", where, _REPORT)
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
            "SELECT round, phase, version, accepted, failed, candidates, cohort FROM rounds WHERE task = ?"
            " ORDER BY round",
            (spec.name,),
        ).fetchall()
        for number, phase, version, accepted, failed, candidates, cohort in rows:
            where = f"round {number} of task {spec.name}"
            members = json.loads(cohort)
            if members != list(draw_cohort(spec.seed, number, json.loads(candidates), spec.round.cohort_size)):
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
            "SELECT device, counted, payload_sha256 FROM reports WHERE task = ? AND round = ? ORDER BY sequence",
            (spec.name, number),
        ).fetchall()
        for device, is_counted, digest in rows:  # payloads by their key, one at a time: ordered, all would be in memory
            (payload,) = self._db.execute(
                "SELECT payload FROM reports WHERE task = ? AND round = ? AND device = ?", (spec.name, number, device)
            ).fetchone()
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
        try:
            differences = self._recomputer.version(task, version).differences
        except EdgeFLError as error:
            self._find(f"version {version} cannot be computed again: {error}", where, _RESTORE)
            return
        self.recomputed += 1
        if differences:
            self._find(f"version {version} computed again differs in {', '.join(differences)}", where, _RESTORE)
