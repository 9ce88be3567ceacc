"""The simulation's store: takes the same ``Persist`` effects as the server's database, and keeps them in memory."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from edgefl.protocol.events import (
    Persist,
    SaveAbandon,
    SaveCommit,
    SaveFailure,
    SaveReport,
    SaveTask,
    SaveTaskStatus,
    TaskRecord,
)
from edgefl.protocol.messages import Fate
from edgefl.protocol.process import ProcessState
from edgefl.simulation.result import DeviceFailure

Key = tuple[str, int, str]
"""(task, round, device): the ledger's primary key."""


class MemoryRecord:
    """Everything that was persisted. Reports are kept as their sequence alone: no one replays a simulation's ledger."""

    def __init__(self) -> None:
        self.tasks: dict[str, TaskRecord] = {}
        self.failures: list[DeviceFailure] = []
        self._content: dict[str, bytes] = {}
        self._versions: dict[tuple[str, int], bytes] = {}
        self._sequences: dict[Key, int] = {}
        self._counted: set[Key] = set()
        self._ended: set[tuple[str, int]] = set()

    def apply(self, effect: Persist) -> None:
        match effect:
            case SaveTask(record):
                self.tasks[record.spec.name] = record
                self._keep_model(record.spec.name, record.state)
            case SaveTaskStatus(task, status):
                self.tasks[task] = replace(self.tasks[task], status=status)
            case SaveReport(sequence, device, update):
                self._sequences[(update.task, update.round_num, device)] = sequence
            case SaveFailure(device, failure):
                self.failures.append(DeviceFailure(device, failure))
            case SaveCommit():
                self._commit(effect)
            case SaveAbandon(task, round_num):
                self._end(task, round_num)
            case _:  # selections, devices and releases matter only to a server that restarts
                pass

    def content(self, digest: str) -> bytes | None:
        """The model of that SHA-256, as ``Download`` would give it."""
        return self._content.get(digest)

    def version(self, task: str, version: int) -> bytes | None:
        return self._versions.get((task, version))

    def sequence(self, task: str, round_num: int, device: str) -> int | None:
        return self._sequences.get((task, round_num, device))

    def fate(self, task: str, round_num: int, device: str) -> Fate:
        """What became of the report of ``device`` in that round."""
        if (task, round_num, device) in self._counted:
            return Fate.COUNTED
        return Fate.NOT_COUNTED if (task, round_num) in self._ended else Fate.OPEN

    def models(self, task: str) -> tuple[bytes, ...]:
        """All versions of a task's model from 1 on."""
        last = self.tasks[task].state.version
        return tuple(self._versions[(task, v)] for v in range(1, last + 1) if (task, v) in self._versions)

    def _commit(self, commit: SaveCommit) -> None:
        record = self.tasks[commit.task]
        self.tasks[commit.task] = replace(record, state=commit.state, status=commit.status)
        self._counted.update((commit.task, commit.round_num, device) for device in commit.counted)
        self._keep_model(commit.task, commit.state)
        self._end(commit.task, commit.round_num)

    def _end(self, task: str, round_num: int) -> None:
        self._ended.add((task, round_num))
        self.tasks[task] = replace(self.tasks[task], next_round=round_num + 1)

    def _keep_model(self, task: str, state: ProcessState) -> None:
        if state.model:
            self._versions[(task, state.version)] = state.model
            self._content[hashlib.sha256(state.model).hexdigest()] = state.model
