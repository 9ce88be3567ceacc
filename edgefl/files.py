"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from edgefl.errors import ConflictError, StorageError


def write_file(path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` in one step: a reader sees the old file or the new one.

    When this returns, a power cut cannot undo it. Raises ``StorageError``.
    """
    check_regular(path)
    temporary: str | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f".{path.name}.", delete=False) as file:
            temporary = file.name
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
        temporary = None
        _sync_folder(path.parent)
    except OSError as error:
        raise StorageError(f"{path}: cannot be written: {error.strerror}") from None
    finally:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)


def check_regular(path: Path) -> None:
    """Refuse what is there and is not a file: a device would be read for ever, and replaced for good where root asks.

    Raises ``StorageError``.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return  # not there, or reported when it is opened
    if not stat.S_ISREG(mode):
        what = "a folder" if stat.S_ISDIR(mode) else "a device, a pipe or a socket"
        raise StorageError(f"{path} is {what}; expected a file, or a path where there is nothing: choose another")


def check_folder(path: Path) -> None:
    """Make the folder and try to write in it: said before hours of work, not after. Raises ``StorageError``."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise StorageError(f"{path}: no file can be written there: {error.strerror}; choose another folder") from None


def lock(file: IO[Any], path: Path) -> None:
    """Refuse a file that another process holds open and locked; a kill gives it free. Raises ``ConflictError``."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise ConflictError(f"{path} is in use by another run; wait for its end, or choose another") from None


@contextlib.contextmanager
def used_alone(path: Path) -> Iterator[None]:
    """Hold ``path``, which ``write_file`` replaces, against other processes, by a lock on a file next to it.

    The file goes with the lock; one that a killed process left stops nobody. Raises ``ConflictError`` when another
    process holds it, ``StorageError`` where no file can be made.
    """
    lock_file = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = lock_file.open("ab")
    except OSError as error:
        raise StorageError(f"{lock_file}: cannot be written: {error.strerror}; choose another folder") from None
    with file:
        lock(file, path)
        try:
            yield
        finally:
            lock_file.unlink(missing_ok=True)


def remove_leftovers(path: Path) -> None:
    """Remove what a process that was killed in ``write_file(path)`` left; for the only writer of ``path``."""
    for temporary in path.parent.glob(f".{glob.escape(path.name)}.????????"):
        temporary.unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
