"""Persist effects as SQL, one function for each kind. Runs inside the store's transaction and never commits."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from edgefl.errors import LocalProtocolError
from edgefl.protocol.events import (
    Persist,
    Phase,
    SaveAbandon,
    SaveCommit,
    SaveDevice,
    SaveFailure,
    SaveRelease,
    SaveReport,
    SaveSelection,
    SaveSetbacks,
    SaveTask,
    SaveTaskStatus,
)
from edgefl.protocol.process import ProcessState
from edgefl_server.metrics_text import write_metrics
from edgefl_server.shape_text import write_shape
from edgefl_server.sqlite_retention import Retention


class Writer:
    """Writes effects through one connection, and forgets by ``retention`` when a round ends.

    ``clock``: seconds since 1970, for what people see of devices and nothing else.
    """

    def __init__(self, connection: sqlite3.Connection, retention: Retention, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._db = connection
        self._run = connection.execute
        self._retention = retention
        self._handlers: dict[type[Any], Callable[[Any], None]] = {
            SaveTask: self._task,
            SaveTaskStatus: self._task_status,
            SaveSetbacks: self._setbacks,
            SaveSelection: self._selection,
            SaveReport: self._report,
            SaveFailure: self._failure,
            SaveCommit: self._commit,
            SaveAbandon: self._abandon,
            SaveDevice: self._device,
            SaveRelease: self._release,
        }

    def write(self, effects: Sequence[Persist]) -> None:
        for effect in effects:
            self._handlers[type(effect)](effect)

    def put_content(self, sha256: str, data: bytes) -> None:
        self._run("INSERT INTO content VALUES (?, ?) ON CONFLICT DO NOTHING", (sha256, data))

    def _task(self, effect: SaveTask) -> None:
        record = effect.record
        name = record.spec.name
        self._run(
            "INSERT INTO tasks (name, definition, status, goal, next_round, version) VALUES (?, ?, ?, ?, ?, ?)",
            (
                name,
                record.definition,
                record.status.value,
                record.spec.round.goal,
                record.next_round,
                record.state.version,
            ),
        )
        self._state(name, 0, record.state)
        self._retention.add_task(record.spec)

    def _state(self, task: str, round_num: int, state: ProcessState) -> None:
        if state.model:
            self.put_content(state.model_digest, state.model)
        self._run(
            "INSERT INTO states (task, version, round, sha256, extra) VALUES (?, ?, ?, ?, ?)",
            (task, state.version, round_num, state.model_digest, state.extra),
        )

    def _task_status(self, effect: SaveTaskStatus) -> None:
        self._one(
            "UPDATE tasks SET status = ?, suspended = ? WHERE name = ?",
            (effect.status.value, effect.reason, effect.task),
        )

    def _setbacks(self, effect: SaveSetbacks) -> None:
        kept = effect.setbacks
        self._one(
            "UPDATE tasks SET abandoned = ?, fruitless = ?, setback = ? WHERE name = ?",
            (kept.abandoned, kept.fruitless, kept.reason, effect.task),
        )

    def _selection(self, effect: SaveSelection) -> None:
        chosen = effect.round
        self._run(
            "INSERT INTO rounds (task, round, phase, base_version, remaining_s, cohort_size, cohort, candidates,"
            " population, learning_rate, num_examples) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                chosen.task,
                chosen.round_num,
                Phase.COLLECTING.value,
                chosen.base_version,
                chosen.remaining_s,
                len(chosen.cohort),
                json.dumps(chosen.cohort),
                json.dumps(chosen.candidates),
                chosen.conditions.population,
                chosen.conditions.learning_rate,
                json.dumps(chosen.num_examples),
            ),
        )

    def _report(self, effect: SaveReport) -> None:
        update = effect.update
        self._run(
            "INSERT INTO reports (task, round, device, sequence, attempt, base_model, encoding, weight, num_examples,"
            " num_correct, loss_grid, payload_sha256) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                update.task,
                update.round_num,
                effect.device,
                effect.sequence,
                update.attempt,
                update.base_model_digest,
                update.encoding,
                update.weight,
                update.num_examples,
                update.num_correct,
                update.loss_grid,
                update.payload_digest,
            ),
        )
        self._run("INSERT INTO payloads VALUES (?, ?)", (effect.sequence, update.payload))

    def _failure(self, effect: SaveFailure) -> None:
        failure = effect.failure
        self._run(
            "INSERT INTO failures VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",  # the first failure tells the most
            (failure.task, failure.round_num, effect.device, failure.kind, failure.message),
        )
        self._run(
            "UPDATE devices SET error_kind = ?, error = ?, error_at = ? WHERE device = ?",
            (failure.kind, failure.message, self._clock(), effect.device),
        )

    def _commit(self, effect: SaveCommit) -> None:
        task, round_num, state = effect.task, effect.round_num, effect.state
        for device in effect.counted:
            self._one(
                "UPDATE reports SET counted = 1 WHERE task = ? AND round = ? AND device = ?", (task, round_num, device)
            )
        self._state(task, round_num, state)
        end_round(
            self._db,
            task,
            round_num,
            Phase.COMMITTED,
            version=state.version,
            metrics=write_metrics(effect.metrics),
            latency_shares=effect.latency_shares,
        )
        self._one(
            "UPDATE tasks SET status = ?, version = ?, next_round = ? WHERE name = ?",
            (effect.status.value, state.version, round_num + 1, task),
        )
        self._retention.after_round(task, round_num)

    def _abandon(self, effect: SaveAbandon) -> None:
        end_round(self._db, effect.task, effect.round_num, Phase.ABANDONED, effect.reason)
        self._one("UPDATE tasks SET next_round = ? WHERE name = ?", (effect.round_num + 1, effect.task))
        self._retention.after_round(effect.task, effect.round_num)

    def _device(self, effect: SaveDevice) -> None:
        record = effect.record
        names = "device, population, agent_version, session, num_train, num_held_out, suspect, shape, running, seen_at"
        self._run(
            f"INSERT INTO devices ({names}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
            f" ({names}) = ({', '.join(f'excluded.{name}' for name in names.split(', '))})",
            (
                record.device,
                record.population,
                record.agent_version,
                record.session,
                record.num_train,
                record.num_held_out,
                record.suspect,
                None if record.shape is None else write_shape(record.shape),
                json.dumps(record.running),
                self._clock(),
            ),
        )

    def _release(self, effect: SaveRelease) -> None:
        release = effect.release
        info = release.info
        self._run(
            "INSERT INTO releases VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                info.name,
                info.version,
                info.sha256,
                info.size_bytes,
                release.population,
                release.task,
                release.model_version,
            ),
        )

    def _one(self, sql: str, parameters: tuple[Any, ...]) -> None:
        _change_one(self._db, sql, parameters)


def end_round(
    db: sqlite3.Connection,
    task: str,
    round_num: int,
    phase: Phase,
    reason: str = "",
    *,
    version: int = 0,
    metrics: str | None = None,
    latency_shares: Sequence[float] = (),
) -> None:
    """Put a round into its final ``phase``, inside the caller's transaction."""
    # A round that ends while it is OPEN has no row yet; it consumes its number all the same.
    db.execute(
        "INSERT INTO rounds (task, round, phase, base_version, remaining_s, cohort_size, cohort, candidates)"
        " SELECT name, ?, 'open', version, 0, 0, '[]', '[]' FROM tasks WHERE name = ? ON CONFLICT DO NOTHING",
        (round_num, task),
    )
    _change_one(
        db,
        "UPDATE rounds SET phase = ?, reason = ?, version = ?, metrics = ?, latency_shares = ?,"
        " accepted = (SELECT count(*) FROM reports WHERE task = rounds.task AND round = rounds.round),"
        " failed = (SELECT count(*) FROM failures WHERE task = rounds.task AND round = rounds.round)"
        " WHERE task = ? AND round = ? AND phase NOT IN ('committed', 'abandoned')",
        (phase.value, reason, version, metrics, json.dumps(latency_shares), task, round_num),
    )


def _change_one(db: sqlite3.Connection, sql: str, parameters: tuple[Any, ...]) -> None:
    """Run an UPDATE that must meet exactly one row; anything else is a coordinator and a store that disagree."""
    changed = db.execute(sql, parameters).rowcount
    if changed != 1:
        raise LocalProtocolError(f"{sql.split(' WHERE')[0]} changed {changed} rows, expected 1: {parameters!r:.200}")
