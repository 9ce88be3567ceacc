"""Content by digest on the device: cached models, and the releases that it runs.

Invariants
----------
- No byte is used before its SHA-256 was verified: after the download, and again whenever it is read.
- A broken download leaves a ``.part`` file and is resumed from there; a part is never taken for the whole.
- The version of a release never falls (I7): the manifest that names it is replaced atomically and durably, after the
  model file it names is durable.

Source: design §5 (I7), §6 (content addressing), §7 (atomic swap).
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgefl.errors import ConfigError, EdgeFLError, NotFoundError, StorageError, VerificationError
from edgefl.protocol.messages import MAX_UPLOAD_BYTES, ReleaseInfo
from edgefl.protocol.task import check_name
from edgefl.wording import name_hint
from edgefl_device.files import (
    FileOps,
    adopt_durable,
    make_folder,
    put_aside,
    read_if_there,
    storage_errors,
    write_durable,
)

log = logging.getLogger("edgefl.device")

Fetch = Callable[[str, int, Path], None]
"""``fetch(sha256, size_bytes, part)`` completes the file ``part`` by download; verified when it returns."""

MAX_MODEL_BYTES = MAX_UPLOAD_BYTES
"""A model to train is as large as its update."""

MAX_RELEASE_BYTES = 256 << 20
"""A release is a backbone with its head; a larger one would fill a small card."""

CACHED_MODELS = 2
"""The model of this round, and the one before: a device that was killed needs no second download."""

PART_SUFFIX = ".part"
MANIFEST_VERSION = 1


class ModelCache:
    """Models by digest, unsynced: a lost one is downloaded again."""

    def __init__(self, folder: Path, ops: FileOps | None = None) -> None:
        self._folder = folder
        self._ops = ops or FileOps()
        make_folder(folder)

    def read(self, digest: str) -> bytes | None:
        """The verified bytes, or None. A file with a wrong digest is removed."""
        path = self._folder / digest
        raw = read_if_there(path)
        if raw is not None and hashlib.sha256(raw).hexdigest() != digest:
            log.warning("cached model %s is damaged; it is fetched again", digest[:12])
            with storage_errors(path, "remove"):
                self._ops.unlink(path)
            return None
        return raw

    def ensure(self, digest: str, size_bytes: int, fetch: Fetch) -> None:
        """Have the model in the cache. Raises ``VerificationError``, ``StorageError`` and what ``fetch`` raises."""
        if self.read(digest) is not None:
            return
        if size_bytes > MAX_MODEL_BYTES:
            raise VerificationError(f"the model has {size_bytes} bytes; expected at most {MAX_MODEL_BYTES}")
        part = self._folder / (digest + PART_SUFFIX)
        self._keep_only(part)
        fetch(digest, size_bytes, part)
        with storage_errors(part, "rename"):
            self._ops.replace(part, self._folder / digest)

    def _keep_only(self, part: Path) -> None:
        """Make room: keep the newest model and the one that comes, and no other part."""
        with storage_errors(self._folder, "clean"):
            others = [path for path in self._folder.iterdir() if path != part]
            models = [path for path in others if path.suffix != PART_SUFFIX]
            models.sort(key=lambda path: path.stat().st_mtime_ns)
            for path in set(others) - set(models[1 - CACHED_MODELS :]):
                self._ops.unlink(path)


@dataclass(frozen=True)
class InstalledRelease:
    """A release on this device: its manifest, and the model file that it names."""

    info: ReleaseInfo
    path: Path


class ReleaseStore:
    """The releases of this device, one current version of each name."""

    def __init__(self, folder: Path, ops: FileOps | None = None) -> None:
        self._folder = folder
        self._ops = ops or FileOps()

    def installed(self) -> tuple[InstalledRelease, ...]:
        """The current releases, by name. A manifest that cannot be used is put aside, with a line in the log."""
        if not self._folder.is_dir():
            return ()
        found = []
        for path in sorted(self._folder.glob("*.json")):
            try:
                info = _read_manifest(path)
            except StorageError as error:
                aside = put_aside(self._ops, path)
                log.warning("%s cannot be used (%s); it is now %s", path, error, aside.name)
                continue
            found.append(InstalledRelease(info, self._folder / _model_name(info)))
        return tuple(found)

    def get(self, name: str = "") -> InstalledRelease:
        """The release ``name``, or the only one, to run it. Raises ``NotFoundError``, ``StorageError``.

        The folder is synced first: where a swap was interrupted by an error, the manifest may be visible and not
        durable, and a power cut would take back what has run (I7).
        """
        found = self.installed()
        names = [r.info.name for r in found]
        chosen = [r for r in found if name in ("", r.info.name)]
        if not chosen:
            raise NotFoundError(f"this device has no release{f' {name!r}' if name else ''}{name_hint(name, names)}")
        if len(chosen) > 1:
            raise NotFoundError(f"this device has several releases: {', '.join(names)}; name one with --release")
        with storage_errors(self._folder, "sync"):
            self._ops.sync_dir(self._folder)
        return chosen[0]

    def install(self, info: ReleaseInfo, fetch: Fetch) -> None:
        """Download, verify and swap in a release.

        Raises ``ConfigError`` for a name that cannot stand in a file name or a version that is not above the current
        one; ``VerificationError``, ``StorageError`` and what ``fetch`` raises. The old release then stays.
        """
        check_name("release", info.name)
        if info.size_bytes > MAX_RELEASE_BYTES:
            raise ConfigError(f"release {info.name} has {info.size_bytes} bytes; expected at most {MAX_RELEASE_BYTES}")
        old = [r for r in self.installed() if r.info.name == info.name]
        if old and info.version <= old[0].info.version:
            raise ConfigError(
                f"release {info.name} version {info.version} is not above {old[0].info.version}, which is installed"
            )
        make_folder(self._folder)
        model = self._folder / _model_name(info)
        part = model.with_name(model.name + PART_SUFFIX)
        fetch(info.sha256, info.size_bytes, part)
        adopt_durable(self._ops, part, model)
        write_durable(self._ops, self._folder / f"{info.name}.json", _pack_manifest(info))
        for release in old:
            with storage_errors(release.path, "remove"):
                self._ops.unlink(release.path)

    def read(self, release: InstalledRelease) -> bytes:
        """The model's bytes, verified. Raises ``VerificationError``, ``StorageError``."""
        raw = read_if_there(release.path)
        if raw is None:
            raise StorageError(f"{release.path} is missing; it is fetched again with the release's next version")
        found = hashlib.sha256(raw).hexdigest()
        if found != release.info.sha256:
            raise VerificationError(
                f"{release.path} has the SHA-256 {found}; its manifest says {release.info.sha256}: do not run it; "
                "release a new version"
            )
        return raw


def _model_name(info: ReleaseInfo) -> str:
    return f"{info.name}-{info.version}.tflite"


def _pack_manifest(info: ReleaseInfo) -> bytes:
    manifest = {
        "format": MANIFEST_VERSION,
        "name": info.name,
        "version": info.version,
        "sha256": info.sha256,
        "size_bytes": info.size_bytes,
        "file": _model_name(info),
    }
    return (json.dumps(manifest, indent=2) + "\n").encode()


def _read_manifest(path: Path) -> ReleaseInfo:
    raw = read_if_there(path) or b""
    try:
        body = json.loads(raw)
        if body["format"] != MANIFEST_VERSION:
            raise StorageError(f"format {body['format']!r}; expected {MANIFEST_VERSION}")
        info = ReleaseInfo(str(body["name"]), int(body["version"]), str(body["sha256"]), int(body["size_bytes"]))
        check_name("release", info.name)
    except (ValueError, KeyError, TypeError, EdgeFLError) as error:
        raise StorageError(f"not a manifest: {error}") from error
    if path.name != f"{info.name}.json":
        raise StorageError(f"names the release {info.name!r}; expected the file's name")
    return info
