"""A device's card: the file operations of the agent, of which only what was synced survives a power cut.

The files are real ones, in a memory file system: they are what this boot sees. Beside them stand the content that is
durable and the changes of names that no sync of the folder has confirmed; a power cut keeps a prefix of those changes
(a journal keeps their order), and of a file's content the old, the new, a part, or nothing.
"""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgefl_device.files import FileOps


@dataclass(eq=False)
class _Inode:
    live: bytes
    synced: bytes | None = None


@dataclass(frozen=True)
class _Change:
    """In ``folder``, ``name`` now stands for ``inode`` (None: for nothing)."""

    folder: Path
    name: str
    inode: _Inode | None


class Card(FileOps):
    """``point`` is called before each operation; it may raise a crash, or an ``OSError``."""

    def __init__(self, point: Callable[[str], None], chance: random.Random) -> None:
        self._point = point
        self._chance = chance
        self._live: dict[Path, _Inode] = {}
        self._durable: dict[Path, _Inode] = {}
        self._changes: list[_Change] = []

    def write(self, path: Path, data: bytes) -> None:
        self._point(f"write {path.name}")
        super().write(path, data)
        inode = self._live.get(path)
        if inode is None:
            inode = _Inode(data)
            self._name(path, inode)
        inode.live = data

    def sync_file(self, path: Path) -> None:
        self._point(f"sync {path.name}")
        inode = self._live[path]
        inode.synced = inode.live

    def replace(self, source: Path, target: Path) -> None:
        self._point(f"rename {source.name}")
        super().replace(source, target)
        inode = self._live[source]
        self._name(target, inode)
        self._name(source, None)

    def sync_dir(self, path: Path) -> None:
        self._point("sync the folder")
        for change in self._changes:
            if change.folder == path:
                _apply(self._durable, change)
        self._changes = [change for change in self._changes if change.folder != path]

    def unlink(self, path: Path) -> None:
        self._point(f"unlink {path.name}")
        super().unlink(path)
        if path in self._live:
            self._name(path, None)

    def power_cut(self) -> None:
        """Rewrite the folder as the next boot finds it."""
        for change in self._changes[: self._chance.randrange(len(self._changes) + 1)]:
            _apply(self._durable, change)
        for path in self._live.keys() - self._durable.keys():
            path.unlink()
        self._changes = []
        self._live = {}
        for path, inode in sorted(self._durable.items()):
            raw = self._survivor(inode)
            self._live[path] = self._durable[path] = _Inode(raw, raw)
            path.write_bytes(raw)

    def _survivor(self, inode: _Inode) -> bytes:
        if inode.synced == inode.live:
            return inode.live
        cut = self._chance.randrange(len(inode.live) + 1)
        return self._chance.choice([inode.live, inode.live[:cut], b"", inode.synced or b""])

    def _name(self, path: Path, inode: _Inode | None) -> None:
        if inode is None:
            del self._live[path]
        else:
            self._live[path] = inode
        self._changes.append(_Change(path.parent, path.name, inode))


def card_error(full: bool) -> OSError:
    return OSError(errno.ENOSPC, "No space left on device") if full else OSError(errno.EIO, "Input/output error")


def _apply(names: dict[Path, _Inode], change: _Change) -> None:
    path = change.folder / change.name
    if change.inode is None:
        names.pop(path, None)
    else:
        names[path] = change.inode
