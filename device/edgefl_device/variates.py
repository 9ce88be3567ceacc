"""The control variates that this device keeps for its tasks (SCAFFOLD): proposed with an update, adopted if it counted.

::

    outbox ──accepted──> variates/TASK.proposed ──counted──> variates/TASK.adopted
                                        └──not counted──> removed

Each step renames one file, unsynced: the bytes have been durable since they were the outbox. After a power cut a rename
may be undone; the file is then what it was before, and its step is taken again: the outbox is reported once more and
``ALREADY_ACCEPTED``, the proposal is asked for once more. A file that cannot be used is put aside: the device then
begins again at zero, like a new one.
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


class Variates:
    """The folder ``path``, which is made when it is first needed. ``unpack`` reads an outbox entry."""

    def __init__(self, path: Path, ops: FileOps, unpack: Unpack) -> None:
        self._path = path
        self._ops = ops
        self._unpack = unpack

    def proposals(self) -> tuple[RoundKey, ...]:
        """The rounds whose fate is not known, by task. Raises ``StorageError``."""
        found = []
        for file in sorted(self._path.glob(f"*{PROPOSED}")):
            update = self._read(file)
            if update is not None:
                found.append(RoundKey(update.task, update.round_num))
        return tuple(found)

    def propose(self, task: str, outbox: Path) -> None:
        """Keep the variate of the file ``outbox``, which is gone then. Raises ``StorageError``."""
        make_folder(self._path)
        self._move(outbox, self._file(task, PROPOSED))

    def adopt(self, task: str) -> None:
        """What was proposed for ``task`` is the device's own from now on. Raises ``StorageError``."""
        self._move(self._file(task, PROPOSED), self._file(task, ADOPTED))

    def drop(self, task: str) -> None:
        """Forget what was proposed for ``task``. Raises ``StorageError``."""
        file = self._file(task, PROPOSED)
        with storage_errors(file, "remove"):
            self._ops.unlink(file)

    def load(self, task: str) -> bytes:
        """The device's own variate of ``task``; b"" while it has none. Raises ``StorageError``."""
        update = self._read(self._file(task, ADOPTED))
        return b"" if update is None else update.variate

    def _file(self, task: str, suffix: str) -> Path:
        return self._path / f"{task}{suffix}"  # a task's name is a file name

    def _move(self, source: Path, target: Path) -> None:
        with storage_errors(target, "write"):
            self._ops.replace(source, target)

    def _read(self, file: Path) -> ClientUpdate | None:
        raw = read_if_there(file)
        if raw is None:
            return None
        try:
            return self._unpack(raw)[0]
        except StorageError as error:
            aside = put_aside(self._ops, file)
            log.warning("%s cannot be used (%s); it is now %s, and the task begins at zero", file, error, aside.name)
            return None
