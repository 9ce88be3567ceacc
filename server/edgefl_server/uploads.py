"""Where updates too large for a report are put together until their report comes: one file per device.

    data_dir/uploads/SHA256-SIZE-DEVICE

Invariants
----------
- What is here was not acknowledged: a device keeps its update until the receipt, so losing a file costs another upload
  and nothing else. Nothing is synced; the ledger, which is, takes the bytes over with the report.
- A file belongs to one device, and no other can refer to it. A device has one: another content replaces it.
- No byte is used before the SHA-256 of the whole was verified, when it is complete and again when it is read; a file
  that is not what its name says is removed.
- The sizes announced by all files together stay within ``max_total_bytes``.
- A file goes when its report is answered, or when no round waits for its device any more.

Used by the event loop's thread; what touches many bytes (``append``, ``verify``, ``read``) may run in another.

Source: design §6 (content by SHA-256, resumable).
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import re
from pathlib import Path

from edgefl.errors import (
    BusyError,
    ConflictError,
    NotFoundError,
    StorageError,
    UnavailableError,
    VerificationError,
)
from edgefl.protocol.messages import MAX_UPLOAD_BYTES, UploadedContent

log = logging.getLogger("edgefl_server")

_NAME = re.compile(r"([0-9a-f]{64})-([0-9]{1,12})-([a-z0-9][a-z0-9._-]{0,63})")


class Uploads:
    """The uploads of all devices. Raises ``StorageError`` when the folder cannot be used."""

    def __init__(self, folder: Path, *, max_total_bytes: int) -> None:
        self._folder = folder
        self._max_total = max_total_bytes
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            self._content = self._find()
        except OSError as error:
            raise StorageError(f"{folder}: {error.strerror}; check its owner and permissions") from None

    @property
    def devices(self) -> frozenset[str]:
        """Whose bytes are here."""
        return frozenset(self._content)

    def have(self, device: str, content: UploadedContent) -> int:
        """How many bytes of ``content`` came from ``device`` so far."""
        if self._content.get(device) != content:
            return 0
        try:
            return min(self._path(device, content).stat().st_size, content.size_bytes)
        except FileNotFoundError:
            return 0

    def begin(self, device: str, content: UploadedContent) -> None:
        """Make room for ``content``, in place of what ``device`` had. Raises ``BusyError`` when there is none."""
        if self._content.get(device) != content:
            self.remove(device)
            taken = sum(other.size_bytes for other in self._content.values())
            if taken + content.size_bytes > self._max_total:
                raise BusyError(
                    f"{taken} bytes of uploads are waiting for their reports, {content.size_bytes} more would exceed "
                    f"{self._max_total}; try again after the retry window"
                )
        try:
            os.close(os.open(self._path(device, content), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise self._cannot_keep(error) from None
        self._content[device] = content

    def append(self, device: str, content: UploadedContent, offset: int, data: bytes) -> None:
        """Put ``data`` at ``offset``.

        Raises ``BusyError`` when it cannot be written, ``ConflictError`` when the upload was dropped meanwhile.
        """
        # Opened for each piece: a call that was cancelled may still be in here, and must not hold what others close.
        try:
            file = os.open(self._path(device, content), os.O_WRONLY | os.O_CLOEXEC)
            try:
                view = memoryview(data)
                while view:
                    written = os.pwrite(file, view, offset)
                    offset, view = offset + written, view[written:]
            finally:
                os.close(file)
        except FileNotFoundError:
            raise ConflictError("this upload was dropped: it is not wanted any more, or another replaced it") from None
        except OSError as error:
            raise self._cannot_keep(error) from None

    def verify(self, device: str, content: UploadedContent) -> None:
        """Hold the complete file against its name. Raises ``VerificationError``, and removes it, if it is another."""
        try:
            with self._path(device, content).open("rb") as file:
                digest = hashlib.file_digest(file, "sha256")
                size = file.tell()
        except OSError as error:
            raise UnavailableError(f"the upload is gone: {error.strerror}; send it again") from None
        self._check(device, content, size, digest.hexdigest())

    def read(self, device: str, content: UploadedContent) -> bytes:
        """The whole, verified.

        Raises ``NotFoundError`` while it is not complete, ``VerificationError`` as ``verify`` does.
        """
        size = self.have(device, content)
        if size != content.size_bytes:
            raise NotFoundError(
                f"{size} of {content.size_bytes} bytes of {content.sha256[:12]} are here; upload the rest, then report"
            )
        try:
            data = self._path(device, content).read_bytes()
        except OSError as error:
            raise NotFoundError(f"the upload cannot be read: {error.strerror}; upload it again") from None
        self._check(device, content, len(data), hashlib.sha256(data).hexdigest())
        return data

    def remove(self, device: str, content: UploadedContent | None = None) -> None:
        """Drop what ``device`` has; with ``content``, only if it is that."""
        kept = self._content.get(device)
        if kept is None or content not in (None, kept):
            return
        _unlink(self._path(device, kept))
        del self._content[device]

    def _cannot_keep(self, error: OSError) -> BusyError:
        log.error("an upload cannot be kept in %s: %s", self._folder, error.strerror)
        return BusyError(f"the server cannot keep the upload: {error.strerror}; try again later")

    def _check(self, device: str, content: UploadedContent, size: int, sha256: str) -> None:
        if (size, sha256) == (content.size_bytes, content.sha256):
            return
        _unlink(self._path(device, content))  # its room stays reserved: the device sends it again from 0
        raise VerificationError(
            f"{size} bytes came with the SHA-256 {sha256}; expected {content.size_bytes} bytes with {content.sha256}: "
            "they are dropped"
        )

    def _find(self) -> dict[str, UploadedContent]:
        """What an earlier run left; of several of one device the newest."""
        found: dict[str, UploadedContent] = {}
        for path in sorted(self._folder.iterdir(), key=lambda path: path.stat().st_mtime_ns):
            device, content = _parse(path.name)
            if content is None or content.size_bytes > MAX_UPLOAD_BYTES:
                log.warning("%s is not an upload; it is left as it is", path)
                continue
            if device in found:
                _unlink(self._path(device, found[device]))
            found[device] = content
        return found

    def _path(self, device: str, content: UploadedContent) -> Path:
        return self._folder / f"{content.sha256}-{content.size_bytes}-{device}"


def _parse(name: str) -> tuple[str, UploadedContent | None]:
    match = _NAME.fullmatch(name)
    if match is None:
        return "", None
    sha256, size, device = match.groups()
    return device, UploadedContent(sha256, int(size))


def _unlink(path: Path) -> None:
    with contextlib.suppress(OSError):  # what stays is a device's rejected bytes: the next start finds it again
        path.unlink()
