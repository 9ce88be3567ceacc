"""The server's disk: SQLite's own file layer, but only what was synced survives a power cut.

Every file is a real file in a memory file system (what a reader of this boot sees) and, next to it, what is durable:
the content at the last sync and the writes since, in order. A power cut keeps any subset of those writes, and of one
that it keeps perhaps only the first sectors (a torn write). A sync that fails loses the writes it should have made
durable, while the files of this boot still show them: a second sync succeeds and repairs nothing, as on Linux.

Source: Pillai et al., "All File Systems Are Not Created Equal", OSDI 2014; Rebello et al., "Can Applications Recover
from fsync Failures?", USENIX ATC 2020.
"""

from __future__ import annotations

import contextlib
import errno
import os
import random
import shutil
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import apsw

from edgefl.faults.config import DiskFaults

SECTOR_BYTES = 512

UPLOADS = "uploads"
"""The folder of updates that wait for their reports; nothing in it is ever synced."""

VFS_NAME = "edgefl-faults"
LOST_WRITE, TORN_WRITE = "unsynced-write-lost", "torn-write"
"""What power cuts did, as a tally names it."""

Point = Callable[[str], None]
"""Called before every write and sync; may raise (a crash, a full disk, an I/O error)."""


class Crash(BaseException):
    """``Crash(where, power)``: process or machine is gone. Nothing may catch this but the world that threw it."""


@dataclass
class Durable:
    """One file as it would be after a power cut. A write is (offset, data); a truncation (size, None)."""

    synced: bytearray | None = None
    pending: list[tuple[int, bytes | None]] = field(default_factory=list)

    def sync(self) -> None:
        self.synced = _written(bytearray() if self.synced is None else self.synced, self.pending)
        self.pending = []

    def copy(self) -> Durable:
        return Durable(None if self.synced is None else bytearray(self.synced), list(self.pending))

    def after_power_cut(self, faults: DiskFaults, chance: random.Random, struck: Counter[str]) -> bytes | None:
        if self.synced is None:
            return None  # its name was never synced
        mood = chance.random()
        kept: list[tuple[int, bytes | None]] = []
        for offset, data in self.pending:
            some = mood < 1.0 - faults.lose_none
            if mood < faults.lose_all or (some and chance.random() < faults.lose):
                struck[LOST_WRITE] += 1
                continue
            if data is not None and chance.random() < faults.torn:
                struck[TORN_WRITE] += 1
                data = data[: chance.randrange(0, len(data) + 1, SECTOR_BYTES)]
            kept.append((offset, data))
        return bytes(_written(self.synced, kept))


def _written(raw: bytearray, writes: list[tuple[int, bytes | None]]) -> bytearray:
    for offset, data in writes:
        if data is None:
            del raw[offset:]
            continue
        if len(raw) < offset:
            raw.extend(bytes(offset - len(raw)))
        raw[offset : offset + len(data)] = data
    return raw


class Disk:
    """The files of one folder, from one boot of the machine to the next. ``point``: see ``Point``."""

    def __init__(self, folder: Path, point: Point) -> None:
        self.folder = folder
        self.point = point
        self.dead = False
        self.failed_file = ""
        self._files: dict[str, Durable] = {}
        folder.mkdir(parents=True)
        DISKS[str(folder)] = self

    @classmethod
    def with_files(cls, folder: Path, point: Point, files: Mapping[str, bytes]) -> Disk:
        """A disk on which ``files`` are durable."""
        disk = cls(folder, point)
        for name, raw in files.items():
            (folder / name).write_bytes(raw)
            disk._files[name] = Durable(bytearray(raw))
        return disk

    def file(self, name: str) -> Durable:
        return self._files.setdefault(name, Durable())

    def power_cut(self, faults: DiskFaults, chance: random.Random, struck: Counter[str]) -> dict[str, bytes]:
        """What the next boot finds; ``struck`` counts. From here on this boot's files are nobody's business."""
        self.dead = True
        found = {name: file.after_power_cut(faults, chance, struck) for name, file in sorted(self._files.items())}
        return {name: raw for name, raw in found.items() if raw is not None}

    def uploads_after_power_cut(
        self, folder: Path, faults: DiskFaults, chance: random.Random, struck: Counter[str]
    ) -> None:
        """Leave in ``folder`` what the cut leaves of the uploads: nothing, or files in which bytes are missing."""
        mood = chance.random()
        for path in sorted((self.folder / UPLOADS).glob("*")):
            if mood < faults.lose_all:
                struck[LOST_WRITE] += 1
                continue
            raw = path.read_bytes()
            if mood < 1.0 - faults.lose_none and chance.random() < faults.lose:
                struck[LOST_WRITE] += 1
                raw = bytes(len(raw))  # its length was durable
            elif chance.random() < faults.torn:
                struck[TORN_WRITE] += 1
                raw = raw[: len(raw) // 2] + bytes(len(raw) - len(raw) // 2)
            (folder / UPLOADS).mkdir(exist_ok=True)
            (folder / UPLOADS / path.name).write_bytes(raw)

    def killed(self, folder: Path) -> Disk:
        """The process is gone, the machine is not: the next process sees all that was written, synced or not."""
        self.dead = True
        after = Disk(folder, self.point)
        if (self.folder / UPLOADS).exists():
            shutil.copytree(self.folder / UPLOADS, folder / UPLOADS)
        for name, file in self._files.items():
            path = self.folder / name
            if path.exists():
                (folder / name).write_bytes(path.read_bytes())
                after._files[name] = file.copy()
        return after

    def forget(self) -> None:
        del DISKS[str(self.folder)]

    # What the file layer calls ------------------------------------------------------------------------

    def wrote(self, name: str, offset: int, data: bytes | None) -> None:
        if not self.dead:
            self.failed_file = name
            self.point(f"write {name}")
            self.file(name).pending.append((offset, data))

    def sync(self, name: str) -> None:
        if self.dead:
            return
        try:
            self.failed_file = name
            self.point(f"sync {name}")
        except apsw.IOError:
            self.file(name).pending.clear()  # the kernel marks the pages clean: nobody will write them again
            raise
        self.file(name).sync()

    def rewritten(self, path: Path, rewrite: Callable[[Path, Callable[[int], None]], None]) -> None:
        """``rewrite`` writes the bytes of a database's log anew past SQLite, and syncs them by its second argument."""
        name = path.name + "-wal"
        log, written = self.folder / name, self.file(name)
        raw = log.read_bytes() if log.exists() else None

        def sync(_descriptor: int) -> None:
            try:
                self.point(f"sync {name}")
            except apsw.IOError as error:
                written.pending.clear()
                raise OSError(errno.EIO, "Input/output error") from error
            written.sync()

        if raw is not None:
            written.pending += [(len(raw), None), (0, raw)]
        rewrite(path, sync)

    @contextlib.contextmanager
    def undisturbed(self) -> Iterator[None]:
        """No fault strikes meanwhile."""
        point, self.point = self.point, lambda _: None
        try:
            yield
        finally:
            self.point = point

    def deleted(self, name: str) -> None:
        if not self.dead:
            self._files.pop(name, None)


DISKS: dict[str, Disk] = {}
"""The disk of each folder: SQLite knows files by path."""


class _File(apsw.VFSFile):
    def __init__(self, filename: Any, flags: Any) -> None:
        super().__init__("unix", filename, flags)
        path = filename if isinstance(filename, str) else filename.filename() if filename else ""
        folder, self._name = os.path.split(path)
        self._disk = DISKS.get(folder)

    def xWrite(self, data: Any, offset: int) -> None:
        if self._disk is not None:
            self._disk.wrote(self._name, offset, bytes(data))
        super().xWrite(data, offset)

    def xTruncate(self, newsize: int) -> None:
        if self._disk is not None:
            self._disk.wrote(self._name, newsize, None)
        super().xTruncate(newsize)

    def xSync(self, flags: int) -> None:  # noqa: ARG002
        if self._disk is not None:
            self._disk.sync(self._name)


class _Vfs(apsw.VFS):
    def __init__(self) -> None:
        super().__init__(VFS_NAME, "unix")

    def xOpen(self, name: Any, flags: Any) -> _File:
        return _File(name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:
        folder, name = os.path.split(filename)
        if folder in DISKS:
            DISKS[folder].deleted(name)
        super().xDelete(filename, syncdir)


_VFS = _Vfs()

# ---------------------------------------------------------------------------------------------- as ``sqlite3``


class _Rows:
    """A finished statement: its rows, and how many it changed."""

    def __init__(self, rows: list[tuple[Any, ...]], rowcount: int) -> None:
        self._rows = rows
        self._next = 0
        self.rowcount = rowcount

    def fetchone(self) -> tuple[Any, ...] | None:
        self._next += 1
        return self._rows[self._next - 1] if self._next <= len(self._rows) else None

    def fetchall(self) -> list[tuple[Any, ...]]:
        return self._rows[self._next :]

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        return iter(self.fetchall())


Rewrite = Callable[[str], str]


class Connection:
    """As much of ``sqlite3.Connection`` as a store needs, over the faulty disk. ``rewrite`` may alter a statement."""

    def __init__(self, path: Path, rewrite: Rewrite) -> None:
        self._disk = DISKS[str(path.parent)]
        self._rewrite = rewrite
        self._db = apsw.Connection(str(path), vfs=VFS_NAME)

    def execute(self, sql: str, parameters: tuple[Any, ...] = ()) -> _Rows:
        if self._disk.dead:
            raise Crash("used after the crash", False)
        sql = self._rewrite(sql)
        try:
            rows = self._db.execute(sql, parameters).fetchall()
        except apsw.Error as error:
            # A checkpoint that fails after a COMMIT is not an error of the COMMIT: SQLite tries again later.
            if sql != "COMMIT" or self._disk.failed_file.endswith("-wal"):
                raise _translated(error) from error
            return _Rows([], 0)
        return _Rows(rows, self._db.changes())

    def close(self) -> None:
        with contextlib.suppress(
            apsw.Error
        ):  # as ``sqlite3`` does: a checkpoint that fails here is made at the next start
            self._db.close(True)


def connection_factory(rewrite: Rewrite) -> Callable[[Path], sqlite3.Connection]:
    return lambda path: cast(sqlite3.Connection, Connection(path, rewrite))


def _translated(error: apsw.Error) -> sqlite3.Error:
    kind: type[sqlite3.Error] = sqlite3.OperationalError
    if isinstance(error, apsw.ConstraintError):
        kind = sqlite3.IntegrityError
    elif isinstance(error, apsw.CorruptError | apsw.NotADBError):
        kind = sqlite3.DatabaseError
    return kind(str(error))
