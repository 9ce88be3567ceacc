"""The task files of ``edgefl simulate``, and the values that ``--set`` and ``--seed`` put in place of theirs.

    --set client.learning_rate=0.05      in every task of a kind that has the key
    --set shoulder:rounds=10             in the task of that name alone

Invariant: a task that was changed has the definition, as text, that a file with the new values has. So a checkpoint, a
server and a digest know nothing of options: they know the definition.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefl.errors import ConfigError
from edgefl.protocol.task import TaskKind, TaskSpec, parse_task
from edgefl.settings import check_key, from_table, parse_table, read_toml, to_toml
from edgefl.wording import name_hint

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
"""A text that a shell leaves as it is, while it takes the quotes of TOML away."""

_NO_WORDS = ("true", "false", "inf", "nan")

_KINDS = {
    "evaluates": (TaskKind.EVALUATION, TaskKind.PERSONALIZATION),
    "evaluate_every": (TaskKind.EVALUATION, TaskKind.PERSONALIZATION),
    "model": (TaskKind.TRAINING, TaskKind.STATISTICS),
    "client": (TaskKind.TRAINING, TaskKind.PERSONALIZATION),
    "server_optimizer": (TaskKind.TRAINING,),
    "statistics": (TaskKind.STATISTICS,),
    "rounds": (TaskKind.TRAINING, TaskKind.EVALUATION, TaskKind.PERSONALIZATION),
}
"""The kinds of task that a key without a task's name is for; every kind for the others. Statistics always take two
rounds."""


@dataclass(frozen=True)
class _Change:
    """``task``: '' for every task of a kind that has the key."""

    option: str
    task: str
    key: str
    value: Any

    def fits(self, table: dict[str, Any]) -> bool:
        if self.task:
            return bool(table.get("name") == self.task)
        kinds = _KINDS.get(self.key.split(".")[0])
        return kinds is None or table.get("kind") in [kind.value for kind in kinds]

    def apply(self, table: dict[str, Any]) -> None:
        *tables, last = self.key.split(".")
        for name in tables:
            inner = table.setdefault(name, {})
            if not isinstance(inner, dict):
                return  # the file is wrong there, and is refused for it
            table = inner
        table[last] = self.value


def read_tasks(files: Sequence[str], settings: Sequence[str], seed: int | None) -> list[tuple[TaskSpec, str]]:
    """Each file's definition and its text, with ``settings`` ([TASK:]KEY=VALUE) and ``seed`` in place of its values.

    Raises ``ConfigError`` for a file that is wrong, a key that no definition has, and a change that no task takes.
    """
    changes = [_change(text) for text in settings]
    if seed is not None:
        changes.append(_Change(f"--seed {seed}", "", "seed", seed))
    texts = [(name, read_toml(Path(name))) for name in files]
    if not changes:
        return [(parse_task(text, name), text) for name, text in texts]
    tables = [(name, text, parse_table(text, name)) for name, text in texts]
    for change in changes:
        _check_target(change, [table for _, _, table in tables])
    return [_changed(name, text, table, [one for one in changes if one.fits(table)]) for name, text, table in tables]


def changes_of(settings: Iterable[str], seed: int | None) -> list[str]:
    """The options that make these changes again."""
    options = [part for text in settings for part in ("--set", text)]
    return options if seed is None else [*options, "--seed", str(seed)]


def _changed(source: str, text: str, table: dict[str, Any], changes: Sequence[_Change]) -> tuple[TaskSpec, str]:
    if not changes:
        return parse_task(text, source), text
    for change in changes:
        change.apply(table)
    spec = from_table(table, TaskSpec, f"{source} with {' '.join(change.option for change in changes)}")
    return spec, to_toml(spec)


def _change(text: str) -> _Change:
    option = f"--set {text}"
    left, equals, right = text.partition("=")
    task, colon, key = left.strip().rpartition(":")
    if not equals or not key or bool(task) != bool(colon):
        raise ConfigError(f"{option}: expected KEY=VALUE or TASK:KEY=VALUE, as client.learning_rate=0.05")
    try:
        check_key(TaskSpec, key)
    except ConfigError as error:
        raise ConfigError(f"{option}: {error}") from None
    value = right.strip()
    if _WORD.fullmatch(value) and value not in _NO_WORDS:
        return _Change(option, task, key, value)
    table = parse_table(f"value = {value}", option)
    if list(table) != ["value"]:  # a line break, and another key
        raise ConfigError(f"{option}: expected one TOML value")
    return _Change(option, task, key, table["value"])


def _check_target(change: _Change, tables: Sequence[dict[str, Any]]) -> None:
    if any(change.fits(table) for table in tables):
        return
    names = [str(table.get("name")) for table in tables]
    if change.task:
        raise ConfigError(f"{change.option}: no task {change.task!r}{name_hint(change.task, names)}")
    kinds = " or ".join(kind.value for kind in _KINDS[change.key.split(".")[0]])
    raise ConfigError(f"{change.option}: no task takes it; it is for tasks of kind {kinds}")
