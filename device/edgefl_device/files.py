"""Writing files so that a crash or a power cut leaves the old content or the new, never a mixture.

A *durable* write is: temporary file, fsync, rename, fsync of the folder. An *unsynced* one leaves out both fsyncs: it
spares the card, and after a power cut the file may be old, missing or empty; so every reader verifies it.
The operations stand behind ``FileOps``, so that a test can stop between any two of them.

Source: design §9 (few writes; one durable write a round).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from edgefl.errors import StorageError

TEMPORARY_SUFFIX = ".tmp"
"""One writer a folder (the agent holds the lock), so one fixed name a file; a leftover is overwritten."""

ASIDE_SUFFIX = ".corrupt"
"""A file that cannot be used is renamed to this, so that a person can look; only the last one is kept."""


class FileOps:
    """The file operations of a write, one method per step."""

    def write(self, path: Path, data: bytes) -> None:
        """Create or truncate ``path`` (mode 0600) and write ``data``; nothing is synced."""
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "wb", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]

    def sync_file(self, path: Path) -> None:
        self._sync(path, os.O_RDONLY)

    def replace(self, source: Path, target: Path) -> None:
        os.replace(source, target)

    def sync_dir(self, path: Path) -> None:
        self._sync(path, os.O_RDONLY | os.O_DIRECTORY)

    def unlink(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def _sync(self, path: Path, flags: int) -> None:
        fd = os.open(path, flags | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def write_durable(ops: FileOps, path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data``: when this returns, a power cut cannot undo it. Raises ``StorageError``."""
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with storage_errors(path, "write"):
        ops.write(temporary, data)
        ops.sync_file(temporary)
        ops.replace(temporary, path)
        ops.sync_dir(path.parent)


def adopt_durable(ops: FileOps, source: Path, path: Path) -> None:
    """Move the complete file ``source`` to ``path`` (same folder or file system), durably. Raises ``StorageError``."""
    with storage_errors(path, "write"):
        ops.sync_file(source)
        ops.replace(source, path)
        ops.sync_dir(path.parent)


def write_unsynced(ops: FileOps, path: Path, data: bytes) -> None:
    """Replace ``path`` by ``data`` for readers of this boot; a power cut may lose it. Raises ``StorageError``."""
    temporary = path.with_name(path.name + TEMPORARY_SUFFIX)
    with storage_errors(path, "write"):
        ops.write(temporary, data)
        ops.replace(temporary, path)


def read_if_there(path: Path) -> bytes | None:
    """The content of ``path``, or None when there is no such file. Raises ``StorageError``."""
    with storage_errors(path, "read"):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return None


def put_aside(ops: FileOps, path: Path) -> Path:
    """Rename a file that cannot be used, and return its new name. Raises ``StorageError``."""
    aside = path.with_name(path.name + ASIDE_SUFFIX)
    with storage_errors(path, "move"):
        ops.replace(path, aside)
    return aside


def make_folder(path: Path) -> None:
    """Make ``path`` (mode 0700) where it is missing. Raises ``StorageError``."""
    with storage_errors(path, "make"):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)


@contextlib.contextmanager
def storage_errors(path: Path, verb: str) -> Iterator[None]:
    """``OSError`` inside becomes ``StorageError`` that names the file and the cause."""
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"cannot {verb} {path}: {error.strerror or error}; check free space, permissions and the card"
        ) from error
