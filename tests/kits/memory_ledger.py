"""A ledger in memory, filled by the effects that a store takes: the second implementation under the ledger's contract.

It forgets nothing, so a test of retention is SQLite's own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace

from edgefl.errors import NotFoundError
from edgefl.protocol.events import (
    Persist,
    ReleaseRecord,
    SaveAbandon,
    SaveCommit,
    SaveFailure,
    SaveRelease,
    SaveReport,
    SaveSelection,
    SaveTask,
)
from edgefl.protocol.messages import ClientUpdate
from edgefl.protocol.process import ProcessState, RoundConditions
from edgefl_server.ledger import StoredRelease, StoredReport, StoredRound, StoredState, StoredTask, StoredVersion
from edgefl_server.metrics_text import write_metrics


class MemoryLedger:
    """``edgefl_server.ledger.Ledger`` over dictionaries."""

    def __init__(self) -> None:
        self._tasks: dict[str, StoredTask] = {}
        self._states: dict[tuple[str, int], tuple[int, ProcessState]] = {}
        self._rounds: dict[tuple[str, int], StoredRound] = {}
        self._recorded: dict[tuple[str, int], tuple[str, RoundConditions]] = {}
        self._conditions: dict[tuple[str, int], RoundConditions] = {}
        self._reports: dict[tuple[str, int], dict[str, StoredReport]] = {}
        self._updates: dict[tuple[str, int, str], ClientUpdate] = {}
        self._failures: dict[tuple[str, int], set[str]] = {}
        self._content: dict[str, bytes] = {}
        self._releases: list[ReleaseRecord] = []

    def apply(self, effects: Sequence[Persist], content: Sequence[bytes] = ()) -> None:
        self._content |= {hashlib.sha256(data).hexdigest(): data for data in content}
        for effect in effects:
            match effect:
                case SaveTask(record):
                    name, goal = record.spec.name, record.spec.round.goal
                    self._tasks[name] = StoredTask(name, record.definition, goal, record.next_round, 0, 0, 0)
                    self._keep(name, 0, record.state)
                case SaveSelection(chosen):
                    key = (chosen.task, chosen.round_num)
                    self._conditions[key] = chosen.conditions
                    members = (chosen.candidates, chosen.num_examples, chosen.cohort)
                    self._rounds[key] = StoredRound(chosen.round_num, "collecting", 0, 0, 0, *members)
                case SaveReport(sequence, device, update):
                    report = StoredReport(sequence, device, False, update.payload_digest)
                    self._reports.setdefault((update.task, update.round_num), {})[device] = report
                    self._updates[update.task, update.round_num, device] = update
                case SaveFailure(device, failure):
                    self._failures.setdefault((failure.task, failure.round_num), set()).add(device)
                case SaveCommit():
                    self._commit(effect)
                case SaveAbandon(task, round_num):
                    self._end(task, round_num, "abandoned", 0)
                case SaveRelease(release):
                    self._releases.append(release)

    def _keep(self, task: str, round_num: int, state: ProcessState) -> None:
        self._states[task, state.version] = (round_num, state)
        if state.model:
            self._content[state.model_digest] = state.model

    def _commit(self, commit: SaveCommit) -> None:
        key, version = (commit.task, commit.round_num), commit.state.version
        for device in commit.counted:
            self._reports[key][device] = replace(self._reports[key][device], counted=True)
        self._keep(commit.task, commit.round_num, commit.state)
        self._recorded[commit.task, version] = (write_metrics(commit.metrics), self._conditions[key])
        self._tasks[commit.task] = replace(self._tasks[commit.task], version=version)
        self._end(*key, "committed", version)

    def _end(self, task: str, round_num: int, phase: str, version: int) -> None:
        key = (task, round_num)
        begun = self._rounds.get(key) or StoredRound(round_num, "open", 0, 0, 0, (), (), ())
        counts = {"accepted": len(self._reports.get(key, ())), "failed": self.num_failures(*key)}
        self._rounds[key] = replace(begun, phase=phase, version=version, **counts)
        self._tasks[task] = replace(self._tasks[task], next_round=round_num + 1)

    def tasks(self) -> tuple[StoredTask, ...]:
        return tuple(self._tasks.values())

    def states(self, task: str) -> tuple[StoredState, ...]:
        found = sorted((key[1], *kept) for key, kept in self._states.items() if key[0] == task)
        return tuple(StoredState(version, made_by, state.model_digest, True) for version, made_by, state in found)

    def state(self, task: str, version: int) -> ProcessState:
        if (task, version) not in self._states:
            raise NotFoundError(f"the state of version {version} of task {task!r} is not kept; choose a later version")
        return self._states[task, version][1]

    def version(self, task: str, version: int) -> StoredVersion | None:
        if (task, version) not in self._recorded:
            return None
        round_num, state = self._states[task, version]
        return StoredVersion(round_num, state.model_digest, state.extra, *self._recorded[task, version])

    def rounds(self, task: str) -> tuple[StoredRound, ...]:
        return tuple(stored for key, stored in sorted(self._rounds.items()) if key[0] == task)

    def jumps(self, task: str) -> tuple[tuple[int, int], ...]:  # noqa: ARG002
        return ()

    def reports(self, task: str, round_num: int) -> tuple[StoredReport, ...]:
        found = self._reports.get((task, round_num), {})
        return tuple(sorted(found.values(), key=lambda report: report.sequence))

    def update(self, task: str, round_num: int, device: str) -> ClientUpdate | None:
        return self._updates.get((task, round_num, device))

    def payload(self, sequence: int) -> bytes | None:
        for key, reports in self._reports.items():
            for device, report in reports.items():
                if report.sequence == sequence:
                    return self._updates[*key, device].payload
        return None

    def num_failures(self, task: str, round_num: int) -> int:
        return len(self._failures.get((task, round_num), ()))

    def contents(self) -> Iterator[tuple[str, bytes]]:
        yield from self._content.items()

    def missing_models(self) -> tuple[tuple[str, int, str], ...]:
        return ()

    def payloads_without_report(self) -> tuple[int, ...]:
        return ()

    def releases(self) -> tuple[StoredRelease, ...]:
        found = []
        for release in self._releases:
            info, data = release.info, self._content.get(release.info.sha256)
            size = None if data is None else len(data)
            found.append(StoredRelease(info.name, info.version, info.sha256, info.size_bytes, size))
        return tuple(found)
