"""Where examples came from: one source for each batch that was added under a name.

Invariants: a source is written in the transaction of its examples, and goes with the last of them. So "the same
examples are there" is true of what is there, whatever was dropped, removed or lost in between, and the table never
grows beyond the examples.

A batch is known again by its content: the SHA-256 of its rows as they are stored, in their order. A file whose columns
were reordered, or that was written in another format, holds the same examples.
"""

from __future__ import annotations

import hashlib
import sqlite3
import time
from dataclasses import dataclass

from edgefl.errors import ConflictError


@dataclass(frozen=True)
class Batch:
    """What is said of rows that are appended together.

    ``name``: their source, a file's or an application's; without it nothing of the following is kept or compared.
    ``stamp``: identifies the file itself, whatever its content: see ``Sources.has_stamp``.
    ``feature_names``: of the values in the order of the rows; none for a source that does not name them.
    ``again``: store them even if the same examples are there.
    """

    name: str = ""
    stamp: str = ""
    feature_names: tuple[str, ...] = ()
    again: bool = False


class Sources:
    """The table of sources behind ``db``. ``add`` is called inside the transaction that stores the examples."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db

    def has_stamp(self, stamp: str) -> bool:
        """Whether the examples of the file of that stamp are there."""
        return self._db.execute("SELECT 1 FROM sources WHERE stamp = ?", (stamp,)).fetchone() is not None

    def add(self, batch: Batch, digest: RowsDigest, now: int) -> int:
        """Note ``batch``, stored at ``now``, and return its id: 0 for one without a name.

        Raises ``ConflictError`` when the same examples are there, unless ``batch.again``.
        """
        if not batch.name or not digest.count:
            return 0
        raw = digest.digest()
        found = self._db.execute("SELECT name, added FROM sources WHERE digest = ? ORDER BY id", (raw,)).fetchone()
        if found is not None and not batch.again:
            day = time.strftime("%Y-%m-%d", time.gmtime(found[1]))
            raise ConflictError(
                f"the same {digest.count} examples were added on {day} from {found[0]!r}; "
                "'edgefl-device add --again' adds them once more"
            )
        cursor = self._db.execute(
            "INSERT INTO sources (name, added, digest, stamp, num_left) VALUES (?, ?, ?, ?, ?)",
            (batch.name, now, raw, batch.stamp, digest.count),
        )
        return int(cursor.lastrowid or 0)


class RowsDigest:
    """The digest of rows, of which ``add`` takes one after another. Their number and sizes are part of it."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()
        self.count = 0

    def add(self, split: int, label: int, features: bytes) -> None:
        self._hash.update(b"%d %d %d " % (split, label, len(features)))
        self._hash.update(features)
        self.count += 1

    def digest(self) -> bytes:
        return self._hash.digest()
