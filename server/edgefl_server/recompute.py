"""Committed versions computed again from the ledger: the state before, and the reports that were counted.

``model[r] = finalize(model[r-1], optimizer state, aggregate(recorded set))``, bit for bit (design §5, I3). It works for
every version whose round is within retention: older rounds have no payloads any more.

All reads are of the ledger of a server that does not run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

from edgefl.errors import NotFoundError, StorageError
from edgefl.learning.build import LearningProcess, build_process
from edgefl.protocol.dependencies import results_for
from edgefl.protocol.messages import ClientUpdate
from edgefl.protocol.process import ProcessState, RoundMetrics, fold_recorded
from edgefl.protocol.task import TaskSpec, parse_task
from edgefl.wording import name_hint
from edgefl_server.ledger import Ledger, StoredTask
from edgefl_server.metrics_text import is_text_of


@dataclasses.dataclass(frozen=True)
class Recomputed:
    """A version as computed again; the ``stored_*`` are what the ledger says of it (``stored_metrics``: JSON)."""

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
    """Computes versions again from ``ledger``; processes are built once a task."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._processes: dict[str, LearningProcess] = {}

    def version(self, task: str, version: int) -> Recomputed:
        """``version`` (1 or more) of ``task``, from the nearest kept state before it.

        Raises ``NotFoundError`` when the task, the version, or what it is computed from is not there (any more), and
        what the process raises for reports that it cannot take.
        """
        pruned = self._task(task).pruned
        states = self._ledger.states(task)
        made = next((state for state in states if state.version == version), None)
        if made is None or version < 1:
            raise NotFoundError(f"task {task!r} has no committed version {version}; list its models to see which exist")
        if made.round_num <= pruned:
            raise NotFoundError(
                f"version {version} of task {task!r} was made by round {made.round_num}; the reports of rounds up to "
                f"{pruned} fell out of retention; choose a later version"
            )
        start = max((state.version for state in states if state.version < version and state.startable), default=0)
        state = self.state(task, start)
        for number in range(start + 1, version):
            state = self.following(task, number, state).state
        return self.following(task, version, state)

    def following(self, task: str, version: int, before: ProcessState) -> Recomputed:
        """``version`` from the state ``before`` it and the recorded reports of its round. Raises as ``version``."""
        process = self.process(task)
        stored = self._ledger.version(task, version)
        if stored is None:
            raise NotFoundError(f"task {task!r} has no committed version {version}; list its models to see which exist")
        accumulator = process.new_accumulator()
        fold_recorded(process, accumulator, self._counted(task, stored.round_num))
        state, computed = process.finalize(before, accumulator, stored.conditions)
        return Recomputed(stored.round_num, state, computed, stored.model_digest, stored.extra, stored.metrics)

    def latest(self, task: str) -> int:
        """The number of the task's last version. Raises ``NotFoundError``."""
        return self._task(task).version

    def _task(self, name: str) -> StoredTask:
        tasks = {task.name: task for task in self._ledger.tasks()}
        if name not in tasks:
            raise NotFoundError(f"no task {name!r}{name_hint(name, tasks)}")
        return tasks[name]

    def state(self, task: str, version: int) -> ProcessState:
        """A stored state that a round can start from. Raises ``NotFoundError``."""
        return self._ledger.state(task, version)

    def spec(self, task: str) -> TaskSpec:
        """Raises ``NotFoundError``."""
        return parse_task(self._task(task).definition, f"task {task}")

    def process(self, task: str) -> LearningProcess:
        """The task's process, with the results that it depends on."""
        if task not in self._processes:
            spec = self.spec(task)
            self._processes[task] = build_process(spec, *results_for(spec, self._process_and_state))
        return self._processes[task]

    def _process_and_state(self, task: str) -> tuple[LearningProcess, ProcessState]:
        states = self._ledger.states(task)
        if not states:
            raise StorageError(f"no state of task {task!r}; restore the database from a backup")
        return self.process(task), self.state(task, states[-1].version)

    def _counted(self, task: str, round_num: int) -> Iterator[tuple[str, ClientUpdate]]:
        for report in self._ledger.reports(task, round_num):
            if not report.counted:
                continue
            update = self._ledger.update(task, round_num, report.device)
            if update is None:
                raise NotFoundError(
                    f"the payload of device {report.device!r} in round {round_num} of task {task!r} is missing"
                )
            yield report.device, update
