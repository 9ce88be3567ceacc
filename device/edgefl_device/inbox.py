"""The watched folder: files of examples dropped into it are taken in before each check-in.

A file is taken once it was left alone for ``SETTLE_S``. It ends in ``done/``, or in ``refused/`` next to a ``.error``
text that says why: a wrong file, or one whose examples are there. A crash between storing and moving does neither store
nor refuse a file the second time: its identity is kept in the transaction of its rows. Under a retention rule, files in
``done/`` go when the examples in them would.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from edgefl.errors import ConflictError, DataError
from edgefl_device.config import ExampleSpec
from edgefl_device.example_store import Batch, ExampleStore
from edgefl_device.files import storage_errors
from edgefl_device.ingest import SUFFIXES, add_file

SETTLE_S = 2.0
"""A file changed more recently may still be being written; a rename into the folder avoids the question."""

MAX_FILES = 1000
"""Taken in one go, so that a full folder does not keep the device from checking in."""


@dataclass(frozen=True)
class Taken:
    """What became of one file. ``error`` is '' when its ``count`` examples were stored."""

    name: str
    count: int
    error: str = ""


def take_inbox(store: ExampleStore, spec: ExampleSpec, *, wall_now: float) -> tuple[Taken, ...]:
    """Take in the files of the inbox, in the order of their names. ``wall_now``: seconds since 1970.

    Raises ``StorageError`` when the folder or the store cannot be used; a wrong file is only refused.
    """
    inbox = spec.inbox
    if inbox is None:
        return ()
    with storage_errors(inbox, "read"):
        for folder in (inbox, inbox / "done", inbox / "refused"):
            folder.mkdir(parents=True, exist_ok=True)
        if store.trusts_clock():
            _drop_expired(inbox / "done", wall_now - spec.max_age_days * 86400)
        taken = []
        for path in sorted(inbox.iterdir())[:MAX_FILES]:
            if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
                # A time in the future means that the clock was set back: such a file is not being written.
                if 0 <= wall_now - path.stat().st_mtime < SETTLE_S:
                    continue
                taken.append(_take(store, spec, inbox, path))
    return tuple(taken)


def _take(store: ExampleStore, spec: ExampleSpec, inbox: Path, path: Path) -> Taken:
    stamp = file_stamp(path.name, path.stat())
    if store.has_stamp(stamp):
        _move(path, inbox / "done")  # stored before a crash, and not yet moved
        return Taken(path.name, 0)
    try:
        count = add_file(store, spec, path, Batch(path.name, stamp))
    except (DataError, ConflictError) as error:
        target = _move(path, inbox / "refused")
        target.with_name(target.name + ".error").write_text(f"{error}\n", encoding="utf-8")
        return Taken(path.name, 0, str(error))
    _move(path, inbox / "done")
    return Taken(path.name, count)


def done_files(spec: ExampleSpec) -> list[Path]:
    """The files that were taken in, and are still there."""
    done = None if spec.inbox is None else spec.inbox / "done"
    if done is None or not done.is_dir():
        return []
    with storage_errors(done, "read"):
        return sorted(path for path in done.iterdir() if path.is_file())


def file_stamp(name: str, stat: os.stat_result) -> str:
    """What a file keeps when it is moved within its disk. ``name``: that which it had in the inbox."""
    return f"{name} {stat.st_ino} {stat.st_size} {stat.st_mtime_ns}"


def _move(path: Path, folder: Path) -> Path:
    """Move without replacing a file of the same name."""
    target, number = folder / path.name, 1
    while target.exists():
        target, number = folder / f"{path.stem}-{number}{path.suffix}", number + 1
    os.rename(path, target)
    return target


def _drop_expired(folder: Path, horizon: float) -> None:
    for path in folder.iterdir():
        if path.is_file() and path.stat().st_mtime < horizon:
            path.unlink()
