"""What is in the example store, counted; and its erasure.

Invariants of an erasure
------------------------
- Examples go in steps of ``STEP_BYTES``, so that the log stays small: a card that is nearly full can be cleared. What
  one step removed is removed, whatever becomes of the next.
- When it returns, the bytes are in no file of the store: deleted rows are overwritten with zeros (``secure_delete``),
  the file is written anew without what pages may keep of rows that were moved (``VACUUM``), and the log is emptied.
- That the file is still to be written anew is noted in the transaction of the rows: a process that dies in between
  leaves the rest to the next erasure, or to the agent's next check-in.

What freed blocks of the disk and the spare cells of a card keep is out of a program's reach.

Source: SQLite documentation, "PRAGMA secure_delete", "VACUUM", "Write-Ahead Logging".
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from edgefl.errors import StorageError
from edgefl.protocol.messages import Split
from edgefl_device.aging import CLOCK_WAS_SET

UNNAMED_SOURCE = "unnamed"
"""Examples that an application appended without a source, and those that a store of version 1 had."""

UNKNOWN_AGE = "unknown"
"""The clock was not set when they were added."""

AGES = ("up to a day", "up to a week", "up to a month", "up to a year", "older", UNKNOWN_AGE)
"""Groups by age."""

KEYS = ("source", "label", "split", "age")
"""What examples are grouped by."""

STEP_BYTES = 128 << 10
LOG_PAGES = 128
"""The log holds every page that a transaction changed; while examples go, it is emptied at so many (0.5 MB)."""

DEFAULT_LOG_PAGES = 1000
"""SQLite's own, for all other work: emptying the log costs two syncs."""

_DAY_S = 86_400
_ERASE_DUE = "erase_due"
_SPLITS = {0: Split.TRAIN.value, 1: Split.HELD_OUT.value}
_COLUMNS = {"source": f"coalesce(name, '{UNNAMED_SOURCE}')", "label": "label", "split": "split"}


@dataclass(frozen=True)
class Selection:
    """Which examples: those that meet every condition that is given; without one, all.

    ``added_before``: seconds since 1970. Examples that were added while the clock was not set have no age, and are
    not among them.
    """

    source: str | None = None
    label: int | None = None
    added_before: int | None = None


@dataclass(frozen=True)
class Group:
    """Examples that are alike in what they were grouped by; None in the other fields. Times: seconds since 1970."""

    count: int
    first_added: int
    last_added: int
    source: str | None = None
    label: int | None = None
    split: str | None = None
    age: str | None = None


@dataclass(frozen=True)
class Touched:
    """A source with examples in a selection. ``whole``: all that are left of it are."""

    name: str
    stamp: str
    whole: bool


class Inventory:
    """The examples behind ``db``, a connection to the store at ``path``."""

    def __init__(self, db: sqlite3.Connection, path: Path) -> None:
        self._db = db
        self._path = path

    def groups(self, by: tuple[str, ...], now: int) -> list[Group]:
        """The examples, counted ``by`` some of ``KEYS``, in their order."""
        columns = [_age_column(now) if key == "age" else _COLUMNS[key] for key in by]
        listed = ", ".join(columns)
        numbers = ", ".join(str(place + 1) for place in range(len(by)))
        query = (
            f"SELECT {listed}, count(*), min(added), max(added) FROM examples "
            f"LEFT JOIN (SELECT id AS known, name FROM sources) ON known = source GROUP BY {numbers} ORDER BY {numbers}"
        )
        found = []
        for *values, count, first, last in self._db.execute(query):
            fields = dict(zip(by, values, strict=True))
            if "split" in fields:
                fields["split"] = _SPLITS[fields["split"]]
            if "age" in fields:
                fields["age"] = AGES[fields["age"]]
            found.append(Group(count, first, last, **fields))
        return found

    def source_names(self) -> tuple[str, ...]:
        """The names of sources that have examples."""
        return tuple(str(group.source) for group in self.groups(("source",), 0))

    def count(self, selection: Selection) -> int:
        """How many examples ``selection`` has."""
        where, values = _condition(selection)
        return int(self._db.execute(f"SELECT count(*) FROM examples WHERE {where}", values).fetchone()[0])

    def touched(self, selection: Selection) -> list[Touched]:
        """The named sources that have examples in ``selection``."""
        where, values = _condition(selection)
        chosen = f"SELECT source, count(*) AS chosen FROM examples WHERE {where} GROUP BY source"
        query = f"SELECT name, stamp, num_left = chosen FROM sources JOIN ({chosen}) ON source = id ORDER BY id"
        return [Touched(name, stamp, bool(whole)) for name, stamp, whole in self._db.execute(query, values)]

    def delete(self, selection: Selection, limit: int) -> int:
        """Delete at most ``limit``; returns how many. Inside a transaction, after which ``erase`` is due."""
        where, values = _condition(selection)
        chosen = f"SELECT id FROM examples WHERE {where} ORDER BY id LIMIT ?"
        count = self._db.execute(f"DELETE FROM examples WHERE id IN ({chosen})", [*values, limit]).rowcount
        if count:
            self._db.execute("INSERT OR REPLACE INTO meta VALUES (?, '1')", (_ERASE_DUE,))
        return count

    def keep_log_small(self, small: bool) -> None:
        self._db.execute(f"PRAGMA wal_autocheckpoint = {LOG_PAGES if small else DEFAULT_LOG_PAGES}")

    def erase_is_due(self) -> bool:
        return self._db.execute("SELECT 1 FROM meta WHERE key = ?", (_ERASE_DUE,)).fetchone() is not None

    def erase(self) -> None:
        """Let the bytes of deleted examples leave the files, if that is due. Outside a transaction.

        Takes twice as much free disk as the examples that stay. Raises ``StorageError`` without it, or when another
        process reads the store for too long; the erasure is then still due.
        """
        if not self.erase_is_due():
            return
        self._empty_log()  # zeros reach the file itself, before it shrinks
        before = os.environ.get("SQLITE_TMPDIR")
        os.environ["SQLITE_TMPDIR"] = str(self._path.parent)  # what stays is copied within this folder, nowhere else
        try:
            self._db.execute("VACUUM")
        except sqlite3.OperationalError as error:
            raise StorageError(
                f"the examples are removed and overwritten, but {self._path} cannot be written anew ({error}): make "
                "room and give the command again (a running agent does it at its next check-in)"
            ) from error
        finally:
            if before is None:
                del os.environ["SQLITE_TMPDIR"]
            else:
                os.environ["SQLITE_TMPDIR"] = before
        self._empty_log()
        self._db.execute("DELETE FROM meta WHERE key = ?", (_ERASE_DUE,))

    def _empty_log(self) -> None:
        busy = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        if busy:
            raise StorageError(
                f"the examples are removed, but another process reads {self._path}, so its log still holds their "
                "bytes: end that process and give the command again (a running agent does it at its next check-in)"
            )


def _condition(selection: Selection) -> tuple[str, list[str | int]]:
    parts, values = ["1"], list[str | int]()
    if selection.source is not None:
        unnamed = "source = 0 OR " if selection.source == UNNAMED_SOURCE else ""
        parts.append(f"({unnamed}source IN (SELECT id FROM sources WHERE name = ?))")
        values.append(selection.source)
    if selection.label is not None:
        parts.append("label = ?")
        values.append(selection.label)
    if selection.added_before is not None:
        parts.append("added >= ? AND added < ?")
        values += [CLOCK_WAS_SET, selection.added_before]
    return " AND ".join(parts), values


def _age_column(now: int) -> str:
    """The place in ``AGES``, as an SQL expression."""
    limits = "".join(f" WHEN added >= {now - days * _DAY_S} THEN {n}" for n, days in enumerate((1, 7, 30, 365)))
    return f"CASE WHEN added < {CLOCK_WAS_SET} THEN 5{limits} ELSE 4 END"
