"""The device's examples: a SQLite file that applications append to and the agent reads.

Invariants
----------
- What is in the store can be trained on (``edgefl_device.example_row``).
- ``load`` gives the examples in the order in which they were appended: training is a function of that order.
- The store holds at most ``quota_bytes``; the oldest go first. What is older than ``max_age_days`` goes too.
- Any number of processes may append and read at once (write-ahead log, busy timeout).
- An example that goes is overwritten; ``remove`` and ``clear`` return when its bytes are in no file of the store.
- The names of the features are fixed by the first batch that has names, or by the configuration, and hold from then on.

Few writes: a batch is one transaction with one fsync; a single ``append`` is not synced, so that a power cut may lose
the last ones, but never the file's integrity.

Source: design §9 (example store).
"""

from __future__ import annotations

import contextlib
import io
import sqlite3
import time
from array import array
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from edgefl.errors import ConflictError, DataError
from edgefl.protocol.messages import Split
from edgefl.types import Examples
from edgefl_device.aging import Aging
from edgefl_device.config import ExampleSpec
from edgefl_device.example_file import (
    BUSY_TIMEOUT_S,
    CLASS_NAMES,
    FEATURE_NAMES,
    corrupt,
    forget_names,
    immediate,
    prepare,
    read_names,
    sqlite_errors,
    write_names,
)
from edgefl_device.example_row import Row, check_label, pack_features
from edgefl_device.example_source import Batch, RowsDigest, Sources
from edgefl_device.files import make_folder
from edgefl_device.inventory import STEP_BYTES, Group, Inventory, Selection, Touched

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Batch", "ExampleStore", "Row"]

UNNAMED = Batch()

_SPLITS = {Split.TRAIN: 0, Split.HELD_OUT: 1}


class ExampleStore:
    """An open example store. One object belongs to one thread at a time; processes need no agreement.

    ``with ExampleStore.open(path, spec) as store: store.append(features, label)``
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, spec: ExampleSpec, clock: Callable[[], float]):
        self._db = connection
        self._path = path
        self._spec = spec
        self._clock = clock
        self._aging = Aging(connection, spec.max_age_days)
        self._sources = Sources(connection)
        self._inventory = Inventory(connection, path)

    @classmethod
    def open(cls, path: Path, spec: ExampleSpec, *, clock: Callable[[], float] = time.time) -> ExampleStore:
        """Open the store at ``path``, making it where there is none. ``clock`` gives seconds since 1970.

        Raises ``ConfigError`` when the store holds examples of another kind than ``spec``; ``StorageError`` when it is
        corrupt, of a newer version, or cannot be opened.
        """
        make_folder(path.parent)
        with sqlite_errors(path):
            # The owner may hand the store from thread to thread; it never uses it from two at once.
            db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False)
            try:
                prepare(db, path, spec)
            except BaseException:
                db.close()
                raise
        return cls(db, path, spec, clock)

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> ExampleStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def append(self, features: Buffer, label: int, split: Split = Split.TRAIN) -> None:
        """Append one example. Raises ``DataError`` (nothing is stored) or ``StorageError``."""
        packed = pack_features(self._spec, features)
        check_label(self._spec, label)
        with self._transaction():
            self._db.execute(
                "INSERT INTO examples (split, added, label, features) VALUES (?, ?, ?, ?)",
                (_SPLITS[split], self._now(), label, packed),
            )
            self._drop_old()

    def append_many(self, rows: Iterable[Row], batch: Batch = UNNAMED) -> int:
        """Append all ``rows`` or none, durably; returns how many. ``batch`` says where they come from.

        Rows are taken one at a time and staged outside the store, so neither memory nor other writers are held up.
        Raises ``DataError`` that names the first wrong row, counted from 0, or its ``where``; ``ConflictError`` when
        the same examples of a named batch are there, or when the features have other names than those of the batch.
        """
        digest = RowsDigest()
        with sqlite_errors(self._path):
            self._db.execute("CREATE TEMP TABLE staged (split INTEGER, label INTEGER, features BLOB)")
            try:
                self._db.execute("BEGIN")  # touches the temporary file only: no lock on the store
                for row in rows:
                    self._stage(row, digest)
                self._db.execute("COMMIT")
                self._db.execute("PRAGMA synchronous = FULL")
                with self._transaction():
                    self._take_staged(batch, digest)
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")
                self._db.execute("PRAGMA synchronous = NORMAL")
                self._db.execute("DROP TABLE temp.staged")
        return digest.count

    @property
    def feature_names(self) -> tuple[str, ...]:
        """The names of the features in the order of the stored values; none while they are not fixed."""
        with sqlite_errors(self._path):
            return read_names(self._db, FEATURE_NAMES) or self._spec.features

    def has_stamp(self, stamp: str) -> bool:
        """Whether a batch with that ``stamp`` was stored, and some of it is still there."""
        with sqlite_errors(self._path):
            return self._sources.has_stamp(stamp)

    def count(self, split: Split) -> int:
        """How many examples of ``split`` there are."""
        with sqlite_errors(self._path):
            row = self._db.execute("SELECT count(*) FROM examples WHERE split = ?", (_SPLITS[split],)).fetchone()
        return int(row[0])

    def load(self, split: Split) -> Examples:
        """All examples of ``split``, in the order in which they were appended."""
        features, labels = io.BytesIO(), array("i")
        with sqlite_errors(self._path):
            query = "SELECT features, label FROM examples WHERE split = ? ORDER BY id"
            for raw, label in self._db.execute(query, (_SPLITS[split],)):
                if not isinstance(raw, bytes) or len(raw) != self._spec.row_bytes:
                    raise corrupt(self._path, "an example has a wrong size")
                features.write(raw)
                labels.append(label)
        # getvalue() hands over the buffer without a copy.
        return Examples(
            self._spec.num_features, features.getvalue(), labels.tobytes(), self._spec.dtype, self._spec.quantization
        )

    def enforce_retention(self) -> int:
        """Drop what is too old; returns how many. Writes nothing when nothing is, but now and then what time it is.

        An erasure that did not come to its end is brought there first.
        """
        with sqlite_errors(self._path):
            self._inventory.erase()
            if not self._aging.is_due(self._now()):
                return 0
            with self._transaction():
                return self._aging.drop_expired(self._now())

    def groups(self, by: tuple[str, ...]) -> list[Group]:
        """The examples, counted by some of ``edgefl_device.inventory.KEYS``."""
        with sqlite_errors(self._path):
            return self._inventory.groups(by, self._now())

    def source_names(self) -> tuple[str, ...]:
        """The names of sources that have examples."""
        with sqlite_errors(self._path):
            return self._inventory.source_names()

    def count_selected(self, selection: Selection) -> int:
        """How many examples ``selection`` has."""
        with sqlite_errors(self._path):
            return self._inventory.count(selection)

    def touched(self, selection: Selection) -> list[Touched]:
        """The named sources that have examples in ``selection``."""
        with sqlite_errors(self._path):
            return self._inventory.touched(selection)

    def remove(self, selection: Selection) -> int:
        """Remove the examples of ``selection``; returns how many. Their bytes are in no file of the store then.

        Raises ``StorageError``, also when they are removed and their bytes are not gone yet: it says so.
        """
        count, limit = 0, max(1, STEP_BYTES // self._spec.example_cost_bytes)
        deleted = limit
        with sqlite_errors(self._path):
            self._inventory.keep_log_small(True)
            try:
                while deleted == limit:
                    with immediate(self._db):
                        deleted = self._inventory.delete(selection, limit)
                    count += deleted
                self._inventory.erase()
            finally:
                self._inventory.keep_log_small(False)
        return count

    def clear(self) -> int:
        """Remove all examples, as ``remove`` does, and the names of the features, which the next file fixes anew."""
        count = self.remove(Selection())
        with self._transaction():
            if not self._inventory.count(Selection()):  # nothing was added in the meantime
                forget_names(self._db, FEATURE_NAMES)
        return count

    def trusts_clock(self) -> bool:
        """Whether examples have a greatest age, and the clock may be believed (``edgefl_device.aging``)."""
        with sqlite_errors(self._path):
            return self._aging.trusts(self._now())

    def _stage(self, row: Row, digest: RowsDigest) -> None:
        try:
            packed = pack_features(self._spec, row.features)
            check_label(self._spec, row.label)
        except DataError as error:
            raise DataError(f"{row.where or f'row {digest.count}'}: {error}") from None
        split = _SPLITS[row.split]
        self._db.execute("INSERT INTO staged VALUES (?, ?, ?)", (split, row.label, packed))
        digest.add(split, row.label, packed)

    def _take_staged(self, batch: Batch, digest: RowsDigest) -> None:
        for key, names in ((FEATURE_NAMES, batch.feature_names), (CLASS_NAMES, self._spec.classes)):
            if names:
                write_names(self._db, key, names)
                if read_names(self._db, key) != names:
                    what = key.replace("_", " ")
                    raise ConflictError(
                        f"another process changed the {what} of the store in the meantime; add it again"
                    )
        source = self._sources.add(batch, digest, self._now())
        self._db.execute(
            "INSERT INTO examples (split, added, label, features, source) "
            "SELECT split, ?, label, features, ? FROM staged ORDER BY rowid",
            (self._now(), source),
        )
        self._drop_old()

    def _drop_old(self) -> None:
        if self._aging.is_due(self._now()):
            self._aging.drop_expired(self._now())
        total = int(self._db.execute("SELECT count(*) FROM examples").fetchone()[0])
        if total > self._spec.max_examples:
            self._db.execute(
                "DELETE FROM examples WHERE id IN (SELECT id FROM examples ORDER BY id LIMIT ?)",
                (total - self._spec.max_examples,),
            )

    def _now(self) -> int:
        return int(self._clock())

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with sqlite_errors(self._path), immediate(self._db):
            yield
