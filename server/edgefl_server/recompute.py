"""Committed versions computed again from the ledger: the state before, and the reports that were counted.

``model[r] = finalize(model[r-1], optimizer state, aggregate(recorded set))``, bit for bit (design §5, I3). It works for
every version whose round is within retention: older rounds have no payloads any more.

All reads are of a closed server's database.
"""

from __future__ import annotations

import dataclasses
import sqlite3
from collections.abc import Iterator

from edgefl.errors import NotFoundError, StorageError
from edgefl.learning.build import LearningProcess, build_process
from edgefl.protocol.dependencies import results_for
from edgefl.protocol.messages import ClientUpdate
from edgefl.protocol.process import ProcessState, RoundConditions, RoundMetrics, fold_recorded
from edgefl.protocol.task import TaskSpec, parse_task
from edgefl.wording import name_hint
from edgefl_server.metrics_text import is_text_of
from edgefl_server.sqlite_read import read_update


@dataclasses.dataclass(frozen=True)
class Recomputed:
    """A version as computed again; the ``stored_*`` are what the database says of it (``stored_metrics``: JSON)."""

    round_num: int
    state: ProcessState
    metrics: RoundMetrics
    stored_digest: str
    stored_extra: bytes | None
    stored_metrics: str

    @property
    def differences(self) -> tuple[str, ...]:
        """What is not the same, for people; empty when every bit is."""
        found = []
        if self.state.model_digest != self.stored_digest:
            found.append(f"the model: computed {self.state.model_digest or 'none'}, stored {self.stored_digest}")
        if self.stored_extra is not None and self.state.extra != self.stored_extra:
            found.append("the optimizer's state or the sums")
        if not is_text_of(self.stored_metrics, self.metrics):
            found.append("the metrics")
        return tuple(found)


class Recomputer:
    """Computes versions again from ``db``; processes are built once a task."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._processes: dict[str, LearningProcess] = {}

    def version(self, task: str, version: int) -> Recomputed:
        """``version`` (1 or more) of ``task``, from the nearest kept state before it.

        Raises ``NotFoundError`` when the task, the version, or what it is computed from is not there (any more), and
        what the process raises for reports that it cannot take.
        """
        self.spec(task)
        row = self._db.execute(
            "SELECT round, pruned FROM states JOIN tasks ON tasks.name = task WHERE task = ? AND states.version = ?",
            (task, version),
        ).fetchone()
        if row is None or version < 1:
            raise NotFoundError(f"task {task!r} has no committed version {version}; list its models to see which exist")
        round_num, pruned = row
        if round_num <= pruned:
            raise NotFoundError(
                f"version {version} of task {task!r} was made by round {round_num}; the reports of rounds up to "
                f"{pruned} fell out of retention; choose a later version"
            )
        (start,) = self._db.execute(
            "SELECT coalesce(max(version), 0) FROM states"
            " WHERE task = ? AND version < ? AND kept AND extra IS NOT NULL",
            (task, version),
        ).fetchone()
        state = self.state(task, start)
        for number in range(start + 1, version):
            state = self.following(task, number, state).state
        return self.following(task, version, state)

    def following(self, task: str, version: int, before: ProcessState) -> Recomputed:
        """``version`` from the state ``before`` it and the recorded reports of its round. Raises as ``version``."""
        process = self.process(task)
        row = self._db.execute(
            "SELECT round, sha256, extra, kept, metrics, population, learning_rate"
            " FROM states JOIN rounds USING (task, round)"
            " WHERE task = ? AND states.version = ?",
            (task, version),
        ).fetchone()
        if row is None:
            raise NotFoundError(f"task {task!r} has no committed version {version}; list its models to see which exist")
        round_num, digest, extra, kept, metrics, *conditions = row
        accumulator = process.new_accumulator()
        fold_recorded(process, accumulator, self._counted(task, round_num))
        state, computed = process.finalize(before, accumulator, RoundConditions(*conditions))
        return Recomputed(round_num, state, computed, digest, extra if kept else None, metrics)

    def latest(self, task: str) -> int:
        """The number of the task's last version. Raises ``NotFoundError``."""
        row = self._db.execute("SELECT version FROM tasks WHERE name = ?", (task,)).fetchone()
        if row is None:
            raise self._no_task(task)
        return int(row[0])

    def _no_task(self, task: str) -> NotFoundError:
        names = [name for (name,) in self._db.execute("SELECT name FROM tasks")]
        return NotFoundError(f"no task {task!r}{name_hint(task, names)}")

    def state(self, task: str, version: int) -> ProcessState:
        """A stored state that a round can start from. Raises ``NotFoundError``."""
        row = self._db.execute(
            "SELECT sha256, extra, data FROM states LEFT JOIN content USING (sha256) WHERE task = ? AND version = ?",
            (task, version),
        ).fetchone()
        if row is None or row[1] is None or (row[0] and row[2] is None):
            raise NotFoundError(f"the state of version {version} of task {task!r} is not kept; choose a later version")
        return ProcessState(version, row[2] or b"", row[1])

    def spec(self, task: str) -> TaskSpec:
        """Raises ``NotFoundError``."""
        row = self._db.execute("SELECT definition FROM tasks WHERE name = ?", (task,)).fetchone()
        if row is None:
            raise self._no_task(task)
        return parse_task(row[0], f"task {task}")

    def process(self, task: str) -> LearningProcess:
        """The task's process, with the results that it depends on."""
        if task not in self._processes:
            spec = self.spec(task)
            self._processes[task] = build_process(spec, *results_for(spec, self._process_and_state))
        return self._processes[task]

    def _process_and_state(self, task: str) -> tuple[LearningProcess, ProcessState]:
        (version,) = self._db.execute("SELECT max(version) FROM states WHERE task = ?", (task,)).fetchone()
        if version is None:
            raise StorageError(f"no state of task {task!r}; restore the database from a backup")
        return self.process(task), self.state(task, version)

    def _counted(self, task: str, round_num: int) -> Iterator[tuple[str, ClientUpdate]]:
        # By its key, one at a time: to order whole rows, SQLite would have all payloads in memory.
        devices = self._db.execute(
            "SELECT device, data IS NULL FROM reports LEFT JOIN payloads USING (sequence)"
            " WHERE task = ? AND round = ? AND counted ORDER BY sequence",
            (task, round_num),
        ).fetchall()
        for device, missing in devices:
            if missing:
                raise NotFoundError(
                    f"the payload of device {device!r} in round {round_num} of task {task!r} is missing"
                )
            yield device, read_update(self._db, task, round_num, device)
