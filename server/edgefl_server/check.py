"""The ledger of a stopped server, held against every promise that can be seen in it (design §5, I1 to I4).

A finding says what is wrong, where, and what to do. Nothing is changed.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edgefl.errors import EdgeFLError, LocalProtocolError, NotFoundError
from edgefl.protocol.process import ProcessState
from edgefl.protocol.sampling import draw_cohort
from edgefl.protocol.task import TaskKind, TaskSpec
from edgefl_server.ledger import Ledger, StoredRound, StoredState, StoredTask
from edgefl_server.recompute import Recomputer
from edgefl_server.sqlite_ledger import stopped_ledger

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


def check(data_dir: Path, progress: Progress | None = None) -> Verdict:
    """The database in ``data_dir``. Raises as ``stopped_ledger`` does, also when SQLite's own check fails."""
    with stopped_ledger(data_dir, verify_pages=True) as ledger:
        return check_ledger(ledger, progress)


def check_ledger(ledger: Ledger, progress: Progress | None = None) -> Verdict:
    """Everything that can be seen in ``ledger``. Raises ``StorageError`` when it cannot be read."""
    checker = _Checker(ledger, progress)
    checker.run()
    return Verdict(tuple(checker.findings), checker.rounds, checker.recomputed)


class _Checker:
    def __init__(self, ledger: Ledger, progress: Progress | None) -> None:
        self._ledger = ledger
        self._progress = progress
        self._recomputer = Recomputer(ledger)
        self._computed: ProcessState | None = None
        self._computed_of = ("", 0)
        self.findings: list[Finding] = []
        self.rounds = 0
        self.recomputed = 0

    def run(self) -> None:
        self._content()
        self._releases()
        tasks = [(task, self._ledger.rounds(task.name)) for task in self._ledger.tasks()]
        total = sum(len(rounds) for _, rounds in tasks)
        for task, rounds in tasks:
            where = f"task {task.name}"
            try:
                spec = self._recomputer.spec(task.name)
            except EdgeFLError as error:
                self._find(f"its definition is refused ({error})", where, _RESTORE)
                continue
            if spec.round.goal != task.goal:
                self._find(f"the goal is {task.goal}, its definition says {spec.round.goal}", where, _RESTORE)
            states = self._ledger.states(task.name)
            self._initial(spec, states)
            self._versions(task, states, rounds)
            self._numbers(task, rounds)
            self._task_rounds(spec, task.pruned, rounds, total)

    def _find(self, what: str, where: str, do: str) -> None:
        self.findings.append(Finding(what, where, do))

    def _content(self) -> None:
        for sha256, data in self._ledger.contents():
            found = hashlib.sha256(data).hexdigest()
            if found != sha256:
                self._find(f"its bytes have the digest {found}", f"content {sha256}", _RESTORE)
        for task, version, sha256 in self._ledger.missing_models():
            self._find(f"no content {sha256}", f"version {version} of task {task}", _RESTORE)
        for sequence in self._ledger.payloads_without_report():
            self._find("a payload without a report", f"sequence {sequence}", _REPORT)

    def _releases(self) -> None:
        for release in self._ledger.releases():
            found = release.found_bytes
            if found != release.size_bytes:
                what = (
                    f"no content {release.sha256}" if found is None else f"{found} bytes; expected {release.size_bytes}"
                )
                self._find(what, f"release {release.name} version {release.version}", _RESTORE)

    def _initial(self, spec: TaskSpec, states: Sequence[StoredState]) -> None:
        """Version 0, while it is there, is where the definition begins."""
        found = _digest_of(states, 0)
        if spec.model is None or spec.kind is not TaskKind.TRAINING or found is None:
            return
        initial = spec.model.initial
        if initial is None:
            expected = spec.model.build().initial_weights().digest
        else:
            expected = initial.sha256 or (_digest_of(self._ledger.states(initial.task), initial.version) or found)
        if found != expected:
            self._find(f"it begins at the model {found}; its definition at {expected}", f"task {spec.name}", _RESTORE)

    def _versions(self, task: StoredTask, states: Sequence[StoredState], rounds: Sequence[StoredRound]) -> None:
        """Versions are dense up to the last, one of each committed round that is not forgotten."""
        first, where = task.forgotten + 1 if task.forgotten else 0, f"task {task.name}"
        found = [(state.version, state.round_num) for state in states if state.round_num >= first]
        committed = [(ended.version, ended.round_num) for ended in rounds if ended.phase == "committed"]
        expected = committed if task.forgotten else [(0, 0), *committed]
        versions = [version for version, _ in found]
        if found != expected or versions != list(range(task.version + 1 - len(found), task.version + 1)):
            what = f"version {task.version}, {len(committed)} committed rounds, {len(found)} states"
            self._find(f"{what}; expected one of each, in order", where, _REPORT)
        if not any(state.version == task.version and state.startable for state in states):
            self._find(f"the state of version {task.version}, the last, is not kept", where, _RESTORE)

    def _numbers(self, task: StoredTask, rounds: Sequence[StoredRound]) -> None:
        """Rounds are dense but for what a restored backup jumped over, and ended before the next began."""
        where = f"task {task.name}"
        ended = [stored.round_num for stored in rounds if stored.phase in ("committed", "abandoned")]
        expected: list[int] = []
        number = task.forgotten + 1
        for start, end in [*self._ledger.jumps(task.name), (task.next_round, task.next_round)]:
            expected.extend(range(number, start))
            number = max(number, end)
        if ended != expected:
            what = f"round {task.next_round} is next, and {len(ended)} of {len(expected)} have ended"
            self._find(what, where, _REPORT)
        last = 0
        for stored in rounds:
            sequences = [report.sequence for report in self._ledger.reports(task.name, stored.round_num)]
            if sequences and sequences[0] <= last:
                what = f"sequence {sequences[0]} after {last}"
                self._find(what, f"round {stored.round_num} of task {task.name}", _REPORT)
            last = sequences[-1] if sequences else last

    def _task_rounds(self, spec: TaskSpec, pruned: int, rounds: Sequence[StoredRound], total: int) -> None:
        for stored in rounds:
            number, phase = stored.round_num, stored.phase
            where = f"round {number} of task {spec.name}"
            if number > pruned and stored.cohort != _drawn(spec, stored):
                self._find("its cohort is not what its candidates and seed give", where, _REPORT)
            counts = self._reports(spec, number, phase, set(stored.cohort), where, kept=number > pruned)
            if phase != "collecting" and counts != (stored.accepted, stored.failed):
                what = f"{stored.accepted} accepted and {stored.failed} failed; the ledger has {counts}"
                self._find(what, where, _REPORT)
            if phase == "committed" and number > pruned:
                self._recompute(spec.name, stored.version, where)
            self.rounds += 1
            if self._progress is not None:
                self._progress(self.rounds, total)

    def _reports(
        self, spec: TaskSpec, number: int, phase: str, members: set[str], where: str, *, kept: bool
    ) -> tuple[int, int]:
        """The reports of a round; returns how many were accepted, and how many failures noted."""
        order, counted = [], []
        for report in self._ledger.reports(spec.name, number):
            device = report.device
            payload = self._ledger.payload(report.sequence)  # one at a time: all of a round may not fit the memory
            order.append(device)
            if report.counted:
                counted.append(device)
            if device not in members:
                self._find(f"device {device} is not in its cohort", where, _REPORT)
            if not kept and payload is not None:
                self._find(f"the payload of device {device} is older than retention", where, _REPORT)
            if kept and (payload is None or hashlib.sha256(payload).hexdigest() != report.payload_digest):
                what = "is missing" if payload is None else "is not what was accepted"
                self._find(f"the payload of device {device} {what}", where, _RESTORE)
        expected = order[: spec.round.goal] if phase == "committed" else []
        if counted != expected:
            self._find(f"{phase}, and counts {counted}; expected {expected}", where, _REPORT)
        return len(order), self._ledger.num_failures(spec.name, number)

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


def _digest_of(states: Sequence[StoredState], version: int) -> str | None:
    return next((state.model_digest for state in states if state.version == version), None)


def _drawn(spec: TaskSpec, stored: StoredRound) -> tuple[str, ...] | None:
    """The cohort drawn again; None where the sizes of the candidates are not there."""
    if not stored.candidates:
        return ()  # a round that ended while it was open
    with contextlib.suppress(LocalProtocolError):
        size, sampling = spec.round.cohort_size, spec.round.sampling
        return tuple(draw_cohort(spec.seed, stored.round_num, stored.candidates, size, sampling, stored.num_examples))
    return None
