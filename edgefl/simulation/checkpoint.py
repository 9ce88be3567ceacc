"""Checkpoints of a simulation: when one is written, and how a run goes on from one.

A resumed run is equal to one that was never broken, in every bit of its result: see ``edgefl.simulation.past``. What
that costs: the events of the past are walked through again, without work and arithmetic: about 0.2 ms for a report.

A checkpoint is written when so many rounds have ended, as soon as no device is on its way to work for a round that has
ended: what it would answer is not known yet.
"""

from __future__ import annotations

import difflib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgefl._version import __version__
from edgefl.errors import ConfigError, ConflictError, VerificationError
from edgefl.files import remove_leftovers
from edgefl.models.model import Model
from edgefl.protocol.events import Phase, RoundSummary
from edgefl.protocol.messages import Assignment, Fate, Receipt, Refused, Report, WorkFailure
from edgefl.protocol.process import Process, ProcessFactory, ProcessState
from edgefl.protocol.task import TaskSpec
from edgefl.settings import to_toml
from edgefl.simulation.checkpoint_file import Origin, read_checkpoint, write_checkpoint
from edgefl.simulation.holdings import Holdings
from edgefl.simulation.past import KnownProcess, Past
from edgefl.simulation.record import Key, MemoryRecord
from edgefl.simulation.workers import Workers
from edgefl.types import Examples, Standardization, check_kind, check_whole


@dataclass(frozen=True)
class Checkpoint:
    """Where a simulation keeps what it has done, so that it can go on after its process was killed.

    ``every``: a new one replaces the file after so many rounds of whatever task, and at the end.
    ``resume``: go on from the file; where there is none, begin. Without it a file that is there is refused.
    """

    path: Path
    every: int = 10
    resume: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.path, Path):
            raise ConfigError(f"path is {self.path!r:.80}; expected a pathlib.Path")
        check_whole("every", self.every)
        if self.every < 1:
            raise ConfigError(f"a checkpoint every {self.every} rounds; expected 1 or more")


class Keeper:
    """Is told what happens in a simulation, knows its past, and writes checkpoints; nothing of it without options.

    Raises ``ConflictError`` for a file that is there, or of another run, and ``StorageError`` for one not whole.
    """

    def __init__(self, options: Checkpoint | None, tasks: Sequence[TaskSpec], fleet: Sequence[Holdings]) -> None:
        self._options = options
        self.past = Past()
        self._rounds: list[RoundSummary] = []
        self._states: dict[str, list[ProcessState]] = {spec.name: [] for spec in tasks}
        self._ended: set[tuple[str, int]] = set()
        self._failures: dict[Key, WorkFailure] = {}
        self._refusals: dict[Key, Refused] = {}
        self._memories: dict[tuple[str, str], tuple[int, bytes]] = {}
        self._proposed: dict[Key, bytes] = {}
        self._expected: set[Key] = set()
        self._saved = 0
        if options is not None:
            check_kind("checkpoint", options, Checkpoint, "an edgefl.simulation.Checkpoint")
            self._origin = origin_of(tasks, fleet)
            self.past = _load(options, self._origin)
            self._saved = len(self.past.rounds)

    def factory(self, build: ProcessFactory) -> ProcessFactory:
        """``build``, for processes that know the past."""
        if not self.past.rounds:
            return build

        def known(spec: TaskSpec, found: Standardization | None, evaluated: Model | None) -> Process:
            return KnownProcess(build(spec, found, evaluated), self.past, spec.name)

        return known

    def workers(self, workers: Workers) -> Workers:
        """``workers``, who do no work of the past."""
        return workers if self._options is None else _KeptWorkers(workers, self)

    # ------------------------------------------------------------------------------------------ what happens

    def note_assignment(self, device: str, assignment: Assignment) -> None:
        """An assignment leaves the server: ``device`` will work."""
        if self._options is not None:
            self._expected.add((assignment.task, assignment.round_num, device))

    def note_work(self, devices: Sequence[str], assignment: Assignment, reports: Sequence[Report]) -> None:
        """What came of the work is known."""
        for device, report in zip(devices, reports, strict=True):
            key = (assignment.task, assignment.round_num, device)
            self._expected.discard(key)
            if isinstance(report, WorkFailure):
                self._failures[key] = report
            elif report.memory:
                self._proposed[key] = report.memory

    def note_receipt(self, device: str, report: Report, receipt: Receipt) -> None:
        if self._options is not None and isinstance(receipt, Refused):
            self._refusals[report.task, report.round_num, device] = receipt

    def note_round(self, summary: RoundSummary, record: MemoryRecord) -> None:
        """A round has ended, as ``record`` has it. Raises ``VerificationError`` when the past says something else."""
        if self._options is None:
            return
        at = len(self._rounds)
        if at < len(self.past.rounds) and summary != self.past.rounds[at]:
            raise VerificationError(
                f"checkpoint {self._options.path} has {_short(self.past.rounds[at])}, and this run comes to "
                f"{_short(summary)}: other code wrote it; remove it to start again"
            )
        self._rounds.append(summary)
        self._ended.add((summary.task, summary.round_num))
        if summary.phase is Phase.COMMITTED:
            states = self._states[summary.task]
            if states and states[-1].model:
                states[-1] = replace(states[-1], extra=b"")  # the next round has used it
            states.append(record.tasks[summary.task].state)
        for key in [key for key in self._proposed if key[:2] == (summary.task, summary.round_num)]:
            memory, (task, round_num, device) = self._proposed.pop(key), key
            if record.fate(task, round_num, device) is Fate.COUNTED:
                self._memories[task, device] = (round_num, memory)

    # ------------------------------------------------------------------------------------------ what is kept

    def save_if_due(self) -> None:
        """After each event."""
        if self._options is None or len(self._rounds) - self._saved < self._options.every:
            return
        if not any(key[:2] in self._ended for key in self._expected):
            self.save()

    def save(self) -> None:
        """Write what has changed since the last time. Raises ``StorageError``."""
        if self._options is None or len(self._rounds) <= self._saved:
            return
        past = Past(
            rounds=tuple(self._rounds),
            states={task: tuple(states) for task, states in self._states.items()},
            failures={key: failure for key, failure in self._failures.items() if key[:2] in self._ended},
            refusals={key: refused for key, refused in self._refusals.items() if key[:2] in self._ended},
            memories=self._memories,
        )
        write_checkpoint(self._options.path, self._origin, past)
        self._saved = len(self._rounds)


class _KeptWorkers:
    """Hands out what is known, has the rest done, and tells the keeper."""

    def __init__(self, workers: Workers, keeper: Keeper) -> None:
        self._workers = workers
        self._keeper = keeper

    def work(
        self, assignment: Assignment, model: bytes, devices: Sequence[str], memories: Mapping[str, bytes]
    ) -> list[Report]:
        reports = self._keeper.past.reports(assignment, devices)
        if reports is None:
            reports = self._workers.work(assignment, model, devices, memories)
        self._keeper.note_work(devices, assignment, reports)
        return reports


def origin_of(tasks: Sequence[TaskSpec], fleet: Sequence[Holdings]) -> Origin:
    """What the run of ``tasks``, in the order of their creation, on ``fleet``, sorted by id, is of."""
    digest = hashlib.sha256()
    for one in fleet:
        # Every part has a fixed size, so no two fleets give the same bytes.
        digest.update(hashlib.sha256(one.device.encode()).digest())
        digest.update(_digest(one.train) + _digest(one.held_out))
    return Origin(__version__, tuple((spec.name, to_toml(spec)) for spec in tasks), len(fleet), digest.hexdigest())


def _digest(examples: Examples) -> bytes:
    kind = f"{examples.num_features} {examples.dtype.value} {examples.quantization!r}".encode()
    parts = (kind, examples.features, examples.labels)
    return hashlib.sha256(b"".join(hashlib.sha256(part).digest() for part in parts)).digest()


def _load(options: Checkpoint, mine: Origin) -> Past:
    found = read_checkpoint(options.path)
    if found is not None and not options.resume:
        raise ConflictError(f"checkpoint {options.path} exists; go on from it (resume), or choose another file")
    remove_leftovers(options.path)
    if found is None:
        return Past()
    origin, past = found
    difference = _difference(origin, mine)
    if difference:
        raise ConflictError(f"checkpoint {options.path} is of another run: {difference}; choose another file")
    return past


def _difference(its: Origin, mine: Origin) -> str:
    """The first thing that differs, for people; '' when nothing does."""
    if its.edgefl != mine.edgefl:
        return f"EdgeFL {its.edgefl} wrote it, and this is {mine.edgefl}"
    names = [[name for name, _ in one.tasks] for one in (its, mine)]
    if names[0] != names[1]:
        return f"its tasks are {', '.join(names[0])}, and here they are {', '.join(names[1])}"
    for (name, old), (_, new) in zip(its.tasks, mine.tasks, strict=True):
        if old != new:
            return f"task {name!r} had {_changed(old, new)}, and has {_changed(new, old)}"
    if its.devices != mine.devices:
        return f"it has {its.devices} clients, and here are {mine.devices}"
    return "its clients had other ids or examples" if its.data != mine.data else ""


def _changed(text: str, other: str) -> str:
    """The first line of ``text`` that ``other`` does not have."""
    changes = difflib.ndiff(other.splitlines(), text.splitlines())
    return next((line[2:] for line in changes if line.startswith("+ ") and line[2:]), "a default in its place")


def _short(summary: RoundSummary) -> str:
    digits = f"{summary.accepted} reports, version {summary.version}"
    return f"round {summary.round_num} of {summary.task!r} {summary.phase.value} with {digits}"
