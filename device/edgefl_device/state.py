"""What the agent knows over restarts: session counter, outbox, and the notes that a power cut may take.

::

    state_dir/
      lock          held by the one agent of this folder; its text is the agent's process id
      session       durable: how often the agent started, and whose folder this is
      outbox        durable: the update that has no receipt yet (the one durable write of a round)
      variates/     device memory: each file was an outbox once; durable with the next one (edgefl_device.memory)
      notes.json    unsynced: the assignment, the last accepted round, the last retry window
      status.json   unsynced: for people (edgefl_device.status)
      examples.db   models/  releases/

Invariants
----------
- Every file is versioned and checksummed. One that cannot be used is put aside with a line in the log, and the agent
  goes on without it: a corrupt file never makes a crash loop.
- The session counter grows at each start: it is the highest that any file remembers, plus one.
- Losing ``notes.json`` is harmless: the device trains again, and the server's key (task, round, device) absorbs it.

Source: design §5 (receipts), §7 (cloned cards), §9 (few writes).
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import struct
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from google.protobuf.message import DecodeError

from edgefl.errors import ConfigError, EdgeFLError, FencedError, StorageError
from edgefl.proto.v1 import fleet_pb2
from edgefl.protocol.messages import ClientUpdate, Report, RoundKey, WorkFailure
from edgefl.protocol.session_executor import Notes
from edgefl.wire import report_from_proto, report_to_proto
from edgefl_device.files import (
    FileOps,
    make_folder,
    put_aside,
    read_if_there,
    storage_errors,
    write_durable,
    write_unsynced,
)
from edgefl_device.memory import DeviceMemory

log = logging.getLogger("edgefl.device")

FORMAT_VERSION = 1

OUTBOX_VERSION = 2
"""Since version 2 an entry holds the memory that its update proposes; one of version 1 has none."""

_OUTBOX_MAGIC = b"EFLO"
_OUTBOX_HEAD = struct.Struct("<4sHxxQI")
_MEMORY_HEAD = struct.Struct("<I")
_DIGEST_BYTES = 32


class StateDir:
    """The state folder of one running agent. Made by ``open``, which takes the lock."""

    def __init__(
        self,
        path: Path,
        ops: FileOps,
        lock_fd: int,
        session: int,
        outbox: Report | None,
        notes: Notes,
        memory: DeviceMemory,
    ) -> None:
        self.path = path
        self.session = session
        self.notes = notes
        self.found_outbox = outbox
        self.memory = memory
        self._ops = ops
        self._lock_fd = lock_fd

    @classmethod
    def open(cls, path: Path, device: str, ops: FileOps | None = None) -> StateDir:
        """Take the folder for the agent of ``device``, and count this start.

        Raises ``FencedError`` when another agent has it, ``ConfigError`` when it belongs to another device,
        ``StorageError`` when it cannot be used.
        """
        ops = ops or FileOps()
        make_folder(path)
        lock_fd = _lock(path / "lock")
        try:
            notes = _read_notes(ops, path / "notes.json")
            session = _read_session(ops, path / "session", device)
            outbox, outbox_session = _read_outbox(ops, path / "outbox")
            session = 1 + max(session, outbox_session, notes.session)
            memory = DeviceMemory(path / "variates", ops, unpack_outbox)
            memory.secure()  # what an outbox became, before the next sync of this folder makes the outbox disappear
            write_durable(ops, path / "session", _pack_json({"device": device, "session": session}))
        except BaseException:
            os.close(lock_fd)
            raise
        return cls(path, ops, lock_fd, session, outbox, notes, memory)

    def close(self) -> None:
        """Give the folder back."""
        os.close(self._lock_fd)

    def save_update(self, update: ClientUpdate) -> None:
        """Make the outbox entry durable: the one durable write of a round. Raises ``StorageError``."""
        self.memory.secure()
        write_durable(self._ops, self.path / "outbox", pack_outbox(update, self.session))

    def clear_outbox(self, proposal: RoundKey | None = None) -> None:
        """Forget the outbox entry, unsynced: if it comes back, the server answers ALREADY_ACCEPTED.

        With ``proposal`` the entry's memory is kept under it.
        """
        if proposal is not None:
            self.memory.propose(proposal.task, self.path / "outbox")
            return
        self.memory.settle()
        with storage_errors(self.path / "outbox", "remove"):
            self._ops.unlink(self.path / "outbox")

    def note(self, notes: Notes) -> None:
        """Replace the notes, unsynced; nothing is written when they are the same. Raises ``StorageError``."""
        if notes != self.notes:
            write_unsynced(self._ops, self.path / "notes.json", _pack_json(asdict(notes)))
            self.notes = notes


def agent_is_running(path: Path) -> bool:
    """True while an agent holds the state folder ``path``."""
    try:
        fd = os.open(path / "lock", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(fd)


def pack_outbox(update: ClientUpdate, session: int) -> bytes:
    """``EFLO``, version, session, length, a serialized ReportRequest, length, memory, SHA-256 of all before it."""
    body = report_to_proto(update).SerializeToString()
    head = _OUTBOX_HEAD.pack(_OUTBOX_MAGIC, OUTBOX_VERSION, session, len(body))
    parts = (head, body, _MEMORY_HEAD.pack(len(update.memory)), update.memory)
    digest = hashlib.sha256()
    for part in parts:  # an update may be large: no second copy of it for the digest
        digest.update(part)
    return b"".join((*parts, digest.digest()))


def unpack_outbox(raw: bytes) -> tuple[ClientUpdate, int]:
    """The update and the session that saved it. Raises ``StorageError`` for anything else."""
    if len(raw) < _OUTBOX_HEAD.size + _DIGEST_BYTES:
        raise StorageError(f"{len(raw)} bytes; expected an outbox entry")
    magic, version, session, length = _OUTBOX_HEAD.unpack_from(raw)
    if magic != _OUTBOX_MAGIC or version not in (1, OUTBOX_VERSION):
        raise StorageError(f"starts with {magic!r} version {version}; expected {_OUTBOX_MAGIC!r} {OUTBOX_VERSION}")
    body, rest = raw[_OUTBOX_HEAD.size : -_DIGEST_BYTES][:length], raw[_OUTBOX_HEAD.size + length : -_DIGEST_BYTES]
    memory = _read_memory(rest) if version == OUTBOX_VERSION else b""
    if len(body) != length or hashlib.sha256(raw[:-_DIGEST_BYTES]).digest() != raw[-_DIGEST_BYTES:]:
        raise StorageError("the checksum is wrong")
    try:
        report = report_from_proto(fleet_pb2.ReportRequest.FromString(body))
    except (DecodeError, EdgeFLError) as error:
        raise StorageError(f"cannot be decoded: {error}") from error
    if isinstance(report, WorkFailure):
        raise StorageError("holds a failure; expected an update")
    return replace(report, memory=memory), session


def _read_memory(raw: bytes) -> bytes:
    """What follows the update: the checksum has still to be compared."""
    if len(raw) < _MEMORY_HEAD.size or len(raw) != _MEMORY_HEAD.size + _MEMORY_HEAD.unpack_from(raw)[0]:
        raise StorageError(f"{len(raw)} bytes after the update; expected device memory")
    return raw[_MEMORY_HEAD.size :]


def _lock(path: Path) -> int:
    with storage_errors(path, "open"):
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
        os.close(fd)
        raise FencedError(
            f"{path.parent} is in use by another agent{f' (process {holder})' if holder else ''}; stop it, or use "
            "another state_dir and another name"
        ) from None
    with contextlib.suppress(OSError):  # only for the message to a second one; a full disk is told where it matters
        os.ftruncate(fd, 0)
        os.pwrite(fd, b"%d\n" % os.getpid(), 0)
    return fd


def _read_session(ops: FileOps, path: Path, device: str) -> int:
    raw = read_if_there(path)
    if raw is None:
        return 0
    try:
        body = _unpack_json(raw)
        owner, session = str(body["device"]), int(body["session"])
    except (StorageError, KeyError, TypeError, ValueError) as error:
        _warn_aside(ops, path, error)
        return 0
    if owner != device:
        raise ConfigError(f"{path.parent} belongs to device {owner!r}; the configuration says {device!r}")
    return session


def _read_outbox(ops: FileOps, path: Path) -> tuple[Report | None, int]:
    raw = read_if_there(path)
    if raw is None:
        return None, 0
    try:
        return unpack_outbox(raw)
    except StorageError as error:
        _warn_aside(ops, path, error)
        return None, 0


def _read_notes(ops: FileOps, path: Path) -> Notes:
    raw = read_if_there(path)
    if raw is None:
        return Notes()
    try:
        body = _unpack_json(raw)
        notes = Notes(**{key: type(default)(body[key]) for key, default in asdict(Notes()).items()})
        _ = notes.window
        return notes
    except (StorageError, ConfigError, KeyError, TypeError, ValueError) as error:
        _warn_aside(ops, path, error)
        return Notes()


def _warn_aside(ops: FileOps, path: Path, error: Exception) -> None:
    aside = put_aside(ops, path)
    log.warning("%s cannot be used (%s); it is now %s, and the agent goes on without it", path, error, aside.name)


def _pack_json(body: dict[str, Any]) -> bytes:
    text = json.dumps(body, sort_keys=True)
    envelope = {"version": FORMAT_VERSION, "sha256": hashlib.sha256(text.encode()).hexdigest(), "body": body}
    return json.dumps(envelope, sort_keys=True).encode()


def _unpack_json(raw: bytes) -> dict[str, Any]:
    """The body of a checksummed envelope. Raises ``StorageError``."""
    try:
        envelope = json.loads(raw)
        version, digest, body = envelope["version"], envelope["sha256"], envelope["body"]
        text = json.dumps(body, sort_keys=True)
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise StorageError(f"not a state file ({type(error).__name__})") from error
    if version != FORMAT_VERSION or not isinstance(body, dict):
        raise StorageError(f"version {version!r}; expected {FORMAT_VERSION}")
    if hashlib.sha256(text.encode()).hexdigest() != digest:
        raise StorageError("the checksum is wrong")
    return body
