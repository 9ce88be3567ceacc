"""Rows back into records: the snapshot that a coordinator is restored from, and the summaries that people read."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, overload

from edgefl.errors import ConfigError, StorageError
from edgefl.protocol.backoff import Setbacks
from edgefl.protocol.events import (
    FINAL,
    DeviceError,
    DeviceRecord,
    Phase,
    ReleaseRecord,
    RoundRecord,
    RoundSummary,
    Snapshot,
    TaskRecord,
    TaskStatus,
)
from edgefl.protocol.failures import FailureCount
from edgefl.protocol.messages import ClientUpdate, ReleaseInfo
from edgefl.protocol.process import ProcessState, RoundConditions
from edgefl.protocol.task import parse_task
from edgefl_server.metrics_text import read_metrics
from edgefl_server.shape_text import read_shape
from edgefl_server.sqlite_file import storage_errors

MAX_MODELS = 64
"""Models in a snapshot for each evaluation; a coordinator asks for later ones as it goes."""


def read_snapshot(db: sqlite3.Connection, source: str, wall_now: float) -> Snapshot:
    """All of it, read in one transaction. ``source`` names the database in errors (``StorageError``).

    ``wall_now``: seconds since 1970; ages are counted from it.
    """
    db.execute("BEGIN")
    try:
        tasks = tuple(_tasks(db, source))
        release_floor, last = db.execute(
            "SELECT release_floor, max(sequence_floor, (SELECT coalesce(max(sequence), 0) FROM reports)) FROM server"
        ).fetchone()
        return Snapshot(
            tasks=tasks,
            rounds=tuple(_rounds(db, source)),
            devices=tuple(_devices(db, wall_now)),
            releases=tuple(_releases(db)),
            models=dict(_models(db, tasks)),
            next_sequence=last + 1,
            release_floor=release_floor,
        )
    finally:
        db.execute("COMMIT")


def summary_of(row: tuple[Any, ...], failures: tuple[FailureCount, ...]) -> RoundSummary:
    """A row of the query in ``SqliteStore.ended_rounds``."""
    task, round_num, phase, goal, cohort, accepted, failed, version, metrics, reason, shares, base, *conditions = row
    return RoundSummary(
        task,
        round_num,
        Phase(phase),
        goal,
        cohort,
        accepted,
        failed,
        version,
        None if metrics is None else read_metrics(metrics),
        reason,
        tuple(json.loads(shares)),
        RoundConditions(*conditions),
        base if cohort else 0,  # a round that ended while it was open has no base
        failures,
    )


def _tasks(db: sqlite3.Connection, source: str) -> Iterator[TaskRecord]:
    rows = db.execute(
        "SELECT name, definition, status, next_round, tasks.version, extra, coalesce(data, x''), suspended, abandoned,"
        " fruitless, setback FROM tasks"
        " JOIN states ON states.task = name AND states.version = tasks.version"
        " LEFT JOIN content USING (sha256) ORDER BY id"
    )
    for name, definition, status, next_round, version, extra, model, reason, *setbacks in rows:
        try:
            spec = parse_task(definition, f"task {name}")
        except ConfigError as error:
            raise StorageError(f"{source}: its stored definition is refused: {error}") from None
        state = ProcessState(version, model, extra)
        yield TaskRecord(spec, definition, TaskStatus(status), state, next_round, reason, Setbacks(*setbacks))


def read_update(db: sqlite3.Connection, task: str, round_num: int, device: str) -> ClientUpdate:
    """The accepted update of a key; its ``payload`` is None where retention dropped it."""
    row = db.execute(
        "SELECT base_model, encoding, data, weight, num_examples, num_correct, loss_grid, attempt"
        " FROM reports LEFT JOIN payloads USING (sequence) WHERE task = ? AND round = ? AND device = ?",
        (task, round_num, device),
    ).fetchone()
    return ClientUpdate(task, round_num, *row)


class AcceptedReports(Sequence[tuple[int, str, ClientUpdate]]):
    """The accepted reports of a round, (sequence, device, update) in ledger order, read anew at each iteration.

    Not kept in memory together: an update may have 64 MiB, and a round hundreds of them. Valid, as the snapshot that
    it belongs to is, until the store is written.
    """

    def __init__(self, db: sqlite3.Connection, source: str, task: str, round_num: int) -> None:
        self._db = db
        self._source = Path(source)
        self._key = (task, round_num)

    def __iter__(self) -> Iterator[tuple[int, str, ClientUpdate]]:
        # Row by row by its key: to order whole rows, SQLite would have all payloads in memory.
        for sequence, device in self._order():
            with storage_errors(self._source, "cannot be read"):
                update = read_update(self._db, *self._key, device)
            yield sequence, device, update

    def __len__(self) -> int:
        return len(self._order())

    def _order(self) -> list[tuple[int, str]]:
        with storage_errors(self._source, "cannot be read"):
            return self._db.execute(
                "SELECT sequence, device FROM reports WHERE task = ? AND round = ? ORDER BY sequence", self._key
            ).fetchall()

    @overload
    def __getitem__(self, index: int) -> tuple[int, str, ClientUpdate]: ...
    @overload
    def __getitem__(self, index: slice) -> tuple[tuple[int, str, ClientUpdate], ...]: ...
    def __getitem__(self, index: int | slice) -> Any:
        return tuple(self)[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and tuple(self) == tuple(other)

    __hash__ = None  # type: ignore[assignment]


def _rounds(db: sqlite3.Connection, source: str) -> Iterator[RoundRecord]:
    rows = db.execute(
        "SELECT task, round, candidates, num_examples, cohort, base_version, remaining_s, population, learning_rate"
        " FROM rounds WHERE phase = 'collecting'"
    ).fetchall()
    for task, round_num, candidates, num_examples, cohort, base_version, remaining_s, *conditions in rows:
        failed = db.execute("SELECT device FROM failures WHERE task = ? AND round = ?", (task, round_num))
        yield RoundRecord(
            task=task,
            round_num=round_num,
            candidates=tuple(json.loads(candidates)),
            cohort=tuple(json.loads(cohort)),
            base_version=base_version,
            remaining_s=remaining_s,
            accepted=AcceptedReports(db, source, task, round_num),
            failed=tuple(device for (device,) in failed),
            conditions=RoundConditions(*conditions),
            num_examples=tuple(json.loads(num_examples)),
            failures=read_failures(db.execute, task, round_num, round_num).get(round_num, ()),
        )


def read_failures(
    execute: Callable[..., sqlite3.Cursor], task: str, first: int, last: int
) -> dict[int, tuple[FailureCount, ...]]:
    """How devices failed in the rounds ``first`` to ``last`` of a task."""
    found: dict[int, tuple[FailureCount, ...]] = {}
    for round_num, kind, count, device, message in execute(
        # SQLite takes the message from the row of the least device.
        "SELECT round, kind, count(*), min(device), message FROM failures"
        " WHERE task = ? AND round BETWEEN ? AND ? GROUP BY round, kind",
        (task, first, last),
    ):
        found[round_num] = (*found.get(round_num, ()), FailureCount(kind, count, device, message))
    return found


def _devices(db: sqlite3.Connection, wall_now: float) -> Iterator[DeviceRecord]:
    rows = db.execute(
        "SELECT device, population, agent_version, session, num_train, num_held_out, suspect, shape, running, seen_at,"
        " error_kind, error, error_at FROM devices ORDER BY device"
    )
    for row in rows:
        device, population, agent_version, session, num_train, num_held_out, suspect, shape, running, *rest = row
        seen_at, kind, message, error_at = rest
        yield DeviceRecord(
            device,
            population,
            agent_version,
            session,
            num_train,
            num_held_out,
            bool(suspect),
            shape=None if shape is None else read_shape(shape),
            running=tuple((name, version) for name, version in json.loads(running)),
            seen_ago_s=None if seen_at is None else max(0.0, wall_now - seen_at),
            error=None if error_at is None else DeviceError(kind, message, max(0.0, wall_now - error_at)),
        )


def _releases(db: sqlite3.Connection) -> Iterator[ReleaseRecord]:
    rows = db.execute(
        "SELECT name, version, sha256, size_bytes, population, task, model_version FROM releases ORDER BY name, version"
    )
    for name, version, sha256, size_bytes, population, task, model_version in rows:
        yield ReleaseRecord(ReleaseInfo(name, version, sha256, size_bytes), population, task, model_version)


def _models(db: sqlite3.Connection, tasks: tuple[TaskRecord, ...]) -> Iterator[tuple[tuple[str, int], bytes]]:
    """The versions that evaluation tasks have still to read; the last one of their training is in its own record."""
    for task in tasks:
        every = task.spec.evaluate_every
        if task.spec.evaluates and task.status not in FINAL:
            for version, data in db.execute(
                "SELECT version, data FROM states JOIN content USING (sha256)"
                " WHERE task = ?1 AND version > ?2 AND version % ?3 = 0 ORDER BY version LIMIT ?4",
                (task.spec.evaluates, task.state.version * every, every, MAX_MODELS),
            ):
                yield (task.spec.evaluates, version), data
