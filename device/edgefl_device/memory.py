"""What this device remembers of its tasks (``Plan.memory_bytes``): proposed with an update, adopted if it counted.

::

    outbox ──accepted──> variates/TASK.proposed ──counted──> variates/TASK.adopted
                                        └──not counted──> removed

Each step renames one file; the bytes have been durable since they were the outbox. A rename is not synced at once: a
power cut may undo it, and its step is then taken again, for the outbox is reported once more and ``ALREADY_ACCEPTED``,
the proposal is asked for once more. Before another outbox is written the renames are made durable (``secure``), for
then nothing would lead to their steps again. A step that failed is owed: it comes before all that would overtake it.

A file that cannot be used is put aside. Without its memory a device begins again like a new one.
The folder is called ``variates`` since release 0.1, which had no other memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

from edgefl.errors import StorageError
from edgefl.protocol.messages import ClientUpdate, RoundKey
from edgefl_device.files import FileOps, make_folder, put_aside, read_if_there, storage_errors

log = logging.getLogger("edgefl.device")

PROPOSED = ".proposed"
ADOPTED = ".adopted"

Unpack = Callable[[bytes], tuple[ClientUpdate, int]]


class DeviceMemory:
    """The folder ``path``, which is made when it is first needed. ``unpack`` reads an outbox entry."""

    def __init__(self, path: Path, ops: FileOps, unpack: Unpack) -> None:
        self._path = path
        self._ops = ops
        self._unpack = unpack
        self._owed: list[tuple[Path, Path]] = []
        self._synced = False

    def proposals(self) -> tuple[RoundKey, ...]:
        """The rounds whose fate is not known, by task. Raises ``StorageError``."""
        found = (self._read(file) for file in sorted(self._path.glob(f"*{PROPOSED}")))
        return tuple(RoundKey(update.task, update.round_num) for update in found if update is not None)

    def propose(self, task: str, outbox: Path) -> None:
        """Keep the memory of the file ``outbox``, which is gone then. Raises ``StorageError``."""
        self._move(outbox, self._file(task, PROPOSED))

    def adopt(self, task: str) -> None:
        """What was proposed for ``task`` is the device's own from now on. Raises ``StorageError``."""
        self._move(self._file(task, PROPOSED), self._file(task, ADOPTED))

    def drop(self, task: str) -> None:
        """Forget what was proposed for ``task``. Raises ``StorageError``."""
        self.settle()
        file = self._file(task, PROPOSED)
        with storage_errors(file, "remove"):
            self._ops.unlink(file)

    def load(self, task: str, round_num: int, size_bytes: int) -> bytes:
        """What the device remembers of ``task`` for its work in ``round_num``; b"" while it has nothing.

        One of that round or a later one, or of another size than ``size_bytes``, is of another server's task of that
        name: the device remembers nothing of this. Raises ``StorageError``.
        """
        self.settle()
        update = self._read(self._file(task, ADOPTED))
        if update is None:
            return b""
        if update.round_num >= round_num or len(update.memory) != size_bytes:
            log.warning(
                "the memory of task %s is of round %d and has %d bytes; round %d expects one of an earlier "
                "round with %d: it is of another task of that name, and this one begins without memory",
                task,
                update.round_num,
                len(update.memory),
                round_num,
                size_bytes,
            )
            return b""
        return update.memory

    def settle(self) -> None:
        """Take the steps that failed before. To be called before the outbox changes. Raises ``StorageError``."""
        while self._owed:
            source, target = self._owed[0]
            make_folder(self._path)
            with storage_errors(target, "write"):
                try:
                    self._ops.replace(source, target)
                except FileNotFoundError:
                    del self._owed[0]  # somebody else removed it
                    raise
            del self._owed[0]
            self._synced = False

    def secure(self) -> None:
        """Take the steps that failed before, and make all durable. Raises ``StorageError``."""
        self.settle()
        if self._synced or not self._path.exists():
            return
        with storage_errors(self._path, "sync"):
            self._ops.sync_dir(self._path)
        self._synced = True

    def _file(self, task: str, suffix: str) -> Path:
        return self._path / f"{task}{suffix}"  # a task's name is a file name

    def _move(self, source: Path, target: Path) -> None:
        self._owed.append((source, target))
        self.settle()

    def _read(self, file: Path) -> ClientUpdate | None:
        raw = read_if_there(file)
        if raw is None:
            return None
        try:
            return self._unpack(raw)[0]
        except StorageError as error:
            aside = put_aside(self._ops, file)
            log.warning(
                "%s cannot be used (%s); it is now %s, and the agent goes on without it", file, error, aside.name
            )
            return None
