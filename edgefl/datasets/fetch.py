"""Fetch a pinned wheel once, by pip, and hand out its bytes only when their SHA-256 is the pinned one.

Invariants: no byte leaves this module that did not match the pin, and the bytes that were hashed are the bytes that
are returned (the file is never read twice). The cache changes by rename alone, so that any number of processes may
fetch at once. pip is asked for wheels only: nothing that was fetched is ever executed.

The cache is ``$EDGEFL_CACHE``, else ``$XDG_CACHE_HOME/edgefl``, else ``~/.cache/edgefl``
(XDG Base Directory Specification: a relative ``XDG_CACHE_HOME`` is ignored).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from edgefl.errors import ConfigError, StorageError, UnavailableError, VerificationError

POLL_S = 0.1
"""How often the progress display looks at the growing file: ten times a second looks smooth and costs nothing."""

RETRIES = 2
"""pip's default of 5, with its pauses, keeps somebody without a network waiting for most of a minute."""


@dataclass(frozen=True)
class PinnedWheel:
    """One exact file: ``sha256`` is 64 hexadecimal digits; ``size_bytes`` only scales the progress display."""

    project: str
    version: str
    file_name: str
    sha256: str
    size_bytes: int

    @property
    def requirement(self) -> str:
        return f"{self.project}=={self.version}"


def cache_folder() -> Path:
    """Where fetched files are kept; it may not exist yet. Raises ``ConfigError`` when no home folder is known."""
    if own := os.environ.get("EDGEFL_CACHE"):
        return Path(own)
    xdg = os.environ.get("XDG_CACHE_HOME", "")
    if os.path.isabs(xdg):
        return Path(xdg) / "edgefl"
    try:
        return Path.home() / ".cache" / "edgefl"
    except RuntimeError as error:
        raise ConfigError(f"no cache folder: {error}; set EDGEFL_CACHE to a folder") from None


def wheel_bytes(wheel: PinnedWheel) -> bytes:
    """The wheel's bytes, from the cache or fetched into it.

    A cached file whose digest differs is removed and fetched anew. Raises ``UnavailableError`` when pip cannot fetch,
    ``VerificationError`` when what it fetched is not the pinned file, ``StorageError`` when the cache cannot be used.
    """
    folder = cache_folder()
    cached = folder / wheel.file_name
    try:
        raw = _read_if_present(cached)
        if raw is not None:
            if _sha256(raw) == wheel.sha256:
                return raw
            _say(f"{cached} is not the pinned file; fetching it anew")
            cached.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        # Inside the cache folder, so that the rename stays within one file system.
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
            fetched = _fetch(wheel, Path(scratch), folder)
            raw = fetched.read_bytes()
            found = _sha256(raw)
            if found != wheel.sha256:
                raise VerificationError(
                    f"{wheel.file_name} as fetched by pip has SHA-256 {found}; expected {wheel.sha256}; nothing of it "
                    f"was used; check pip's settings (`pip config list`), or put the right file into {folder}"
                )
            os.replace(fetched, cached)
    except OSError as error:
        raise StorageError(
            f"the cache {folder} cannot be used: {error}; set EDGEFL_CACHE to a folder of yours"
        ) from error
    return raw


def _fetch(wheel: PinnedWheel, scratch: Path, folder: Path) -> Path:
    """Run ``pip download`` into ``scratch``; the path of the file it made."""
    target, temporary, log = scratch / "wheel", scratch / "tmp", scratch / "pip.log"
    target.mkdir()
    temporary.mkdir()
    options = ["--no-deps", "--only-binary", ":all:", "--no-cache-dir", "--no-input", "--retries", str(RETRIES)]
    command = [sys.executable, "-m", "pip", "download", *options, "-d", str(target), wheel.requirement]
    # pip writes what it receives below TMPDIR first: there the progress display sees it grow.
    environment = os.environ | {"TMPDIR": str(temporary), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
        try:
            with _progress(wheel) as show:
                while True:
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        process.wait(POLL_S)
                        break
                    show(_bytes_below(scratch))
        finally:
            process.kill()
            process.wait()
    fetched = target / wheel.file_name
    if process.returncode == 0 and fetched.is_file():
        return fetched
    by_hand = shlex.join(["python3", "-m", "pip", "download", "--no-deps", "-d", str(folder), wheel.requirement])
    raise UnavailableError(
        f"cannot fetch {wheel.requirement} ({_reason(log.read_text(errors='replace'))}); expected pip and a network; "
        f"run `{by_hand}` where pip works, or put {wheel.file_name} into {folder}"
    )


def _reason(output: str) -> str:
    """The last line of pip's output, in one line, without addresses: they may hold a password."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:")] or lines or ["pip said nothing"]
    return re.sub(r"\S+://\S+", "(address)", errors[-1].removeprefix("ERROR:").strip())


@contextlib.contextmanager
def _progress(wheel: PinnedWheel) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told the bytes so far: a bar on a terminal (by rich, if installed), else one line."""
    title = f"fetching {wheel.requirement} ({wheel.size_bytes / 1e6:.1f} MB) by pip"
    if sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            from rich.console import Console
            from rich.progress import Progress

            # Transient: a finished fetch leaves the terminal as it was.
            with Progress(console=Console(stderr=True), transient=True) as bar:
                task = bar.add_task(title, total=wheel.size_bytes)
                yield lambda done: bar.update(task, completed=min(done, wheel.size_bytes))
            return
    _say(title)
    yield lambda _done: None


def _say(line: str) -> None:
    print(f"edgefl: {line}", file=sys.stderr, flush=True)


def _bytes_below(folder: Path) -> int:
    total = 0
    # pip moves files and removes folders while we look: os.walk passes over a folder that has gone.
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.endswith(".whl"):
                with contextlib.suppress(OSError):
                    total = max(total, os.stat(os.path.join(parent, name)).st_size)
    return total


def _read_if_present(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
