"""What a database forgets, so that its size is bounded by its limits and not by its age.

Each ended round of a task moves three marks on, all in the transaction that ends it:

- *payloads* of the last ``retention_rounds`` rounds are kept, and those since the checkpoint before them; any version
  that they made can be computed again (I3);
- *models* of those rounds are kept where their version is a multiple of ``checkpoint_every``: the others are computed
  from the nearest one before. The latest model stays always, and so do the one that the first kept round started from
  and those that an unfinished evaluation still has to read;
- *rows* of the last ``history_rounds`` rounds are kept; older rounds, reports and failures leave nothing.

SQLite uses the pages again; the file does not shrink.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any

from edgefl.protocol.task import TaskSpec


class Retention:
    """Applies the limits through the writer's connection. Until ``add_task`` has named the tasks, no model goes."""

    def __init__(
        self, connection: sqlite3.Connection, retention_rounds: int, checkpoint_every: int, history_rounds: int
    ) -> None:
        self._run: Callable[..., sqlite3.Cursor] = connection.execute
        self._rounds = retention_rounds
        self._checkpoint_every = checkpoint_every
        self._history = max(history_rounds, retention_rounds)
        self._readers: dict[str, dict[str, int]] = {}

    def add_task(self, spec: TaskSpec) -> None:
        """The task of ``spec`` exists, and may read the models of another."""
        self._readers.setdefault(spec.name, {})
        if spec.evaluates in self._readers:
            self._readers[spec.evaluates][spec.name] = spec.evaluate_every

    def after_round(self, task: str, round_num: int) -> None:
        """``round_num`` of ``task`` has ended."""
        pruned, forgotten = self._one("SELECT pruned, forgotten FROM tasks WHERE name = ?", task)
        first, last = self._window(task, self._before(task, round_num, self._rounds))
        if last > pruned:
            self._drop_payloads(task, pruned, last)
            self._run("UPDATE tasks SET pruned = ? WHERE name = ?", (last, task))
        self._drop_models(task, first)
        last = min(last, self._before(task, round_num, self._history))
        if last > forgotten:
            self._forget(task, forgotten, last)
            self._run("UPDATE tasks SET forgotten = ? WHERE name = ?", (last, task))

    def _before(self, task: str, round_num: int, count: int) -> int:
        """The last number before the ``count`` rounds that end with ``round_num``; 0 or less: there are not so many."""
        jumps = self._run("SELECT from_round, to_round FROM jumps WHERE task = ? ORDER BY from_round DESC", (task,))
        for from_round, to_round in jumps:
            since = round_num - to_round + 1
            if count <= since:
                break
            round_num, count = from_round - 1, count - since
        return round_num - count

    def _window(self, task: str, last: int) -> tuple[int, int]:
        """The version that the kept rounds start from, and the last round whose payloads may go: ``last`` or before."""
        made_by_then = "SELECT version, round FROM states WHERE task = ? AND round <= ?"
        newest_first = " ORDER BY version DESC LIMIT 1"
        (newest, _) = self._one(made_by_then + newest_first, task, max(last, 0))
        (first, made_by) = self._one(made_by_then + " AND kept" + newest_first, task, max(last, 0))
        # What was made in between is not kept: to compute it again, and what follows, takes the payloads since.
        return first, last if first == newest else made_by

    def _drop_payloads(self, task: str, pruned: int, last: int) -> None:
        rounds = (task, pruned, last)
        self._run(
            "DELETE FROM payloads WHERE sequence IN"
            " (SELECT sequence FROM reports WHERE task = ? AND round > ? AND round <= ?)",
            rounds,
        )
        # Who might have taken part matters to a replay alone, and a large population makes it the larger part of a row.
        self._run(
            "UPDATE rounds SET candidates = '[]', num_examples = '[]' WHERE task = ? AND round > ? AND round <= ?",
            rounds,
        )

    def _drop_models(self, task: str, first: int) -> None:
        if task not in self._readers:
            return
        (latest,) = self._one("SELECT version FROM tasks WHERE name = ?", task)
        needed = min((self._next_version(*reader) for reader in self._readers[task].items()), default=latest)
        droppable = self._run(
            "SELECT version, sha256 FROM states WHERE task = ?1 AND kept AND version < ?2"
            " AND (version < ?3 OR (version > ?3 AND version % ?4 != 0))",
            (task, min(latest, needed), first, self._checkpoint_every),
        ).fetchall()
        for version, sha256 in droppable:
            self._run("UPDATE states SET kept = 0, extra = NULL WHERE task = ? AND version = ?", (task, version))
            self._run(
                "DELETE FROM content WHERE sha256 = ?1"
                " AND NOT EXISTS (SELECT 1 FROM states WHERE sha256 = ?1 AND kept)"
                " AND NOT EXISTS (SELECT 1 FROM releases WHERE sha256 = ?1)",
                (sha256,),
            )

    def _next_version(self, evaluation: str, every: int) -> int:
        """The version that ``evaluation`` reads next, or the last one before that; beyond all while it is finished."""
        version, final = self._one(
            "SELECT version, status IN ('completed', 'ended') FROM tasks WHERE name = ?", evaluation
        )
        return 1 << 62 if final else (int(version) + 1) * every

    def _forget(self, task: str, forgotten: int, last: int) -> None:
        self._run(
            "UPDATE server SET sequence_floor ="
            " max(sequence_floor, (SELECT coalesce(max(sequence), 0) FROM reports WHERE task = ?))",
            (task,),
        )
        for table in ("reports", "failures", "rounds"):
            self._run(f"DELETE FROM {table} WHERE task = ? AND round > ? AND round <= ?", (task, forgotten, last))
        # A kept state stays, whatever made it: something starts from it.
        self._run("DELETE FROM states WHERE task = ? AND round <= ? AND NOT kept", (task, last))
        self._run("DELETE FROM jumps WHERE task = ? AND to_round <= ?", (task, last))

    def _one(self, sql: str, *parameters: Any) -> tuple[Any, ...]:
        row: tuple[Any, ...] = self._run(sql, parameters).fetchone()
        return row
