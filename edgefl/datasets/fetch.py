"""Fetch a pinned file once, by pip or apt-get, and hand out its bytes only when their SHA-256 is the pinned one.

Invariants: no byte leaves this module that did not match the pin, and the bytes that were hashed are the bytes that
are returned (the file is never read twice). The cache changes by rename alone, so that any number of processes may
fetch at once. pip is asked for wheels only, and a .deb is never installed: nothing that was fetched is ever executed.

The cache is ``$EDGEFL_CACHE``, else ``$XDG_CACHE_HOME/edgefl``, else ``~/.cache/edgefl``
(XDG Base Directory Specification: a relative ``XDG_CACHE_HOME`` is ignored).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from edgefl.datasets.pinned import PinnedDeb, PinnedWheel
from edgefl.errors import ConfigError, StorageError, UnavailableError, VerificationError

POLL_S = 0.1
"""How often the progress display looks at the growing file: ten times a second looks smooth and costs nothing."""

Pinned = PinnedWheel | PinnedDeb


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


def pinned_bytes(pinned: Pinned) -> bytes:
    """The file's bytes, from the cache or fetched into it.

    A cached file whose digest differs is removed and fetched anew. Raises ``UnavailableError`` when it cannot be
    fetched, ``VerificationError`` when what was fetched is not the pinned file, ``StorageError`` when the cache cannot
    be used.
    """
    folder = cache_folder().absolute()  # the commands run in another folder
    cached = folder / pinned.file_name
    try:
        raw = _read_if_present(cached)
        if raw is not None:
            if _sha256(raw) == pinned.sha256:
                return raw
            _say(f"{cached} is not the pinned file; fetching it anew")
            cached.unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)
        # Inside the cache folder, so that the rename stays within one file system.
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=folder) as scratch:
            fetched = _fetch(pinned, Path(scratch), folder)
            raw = fetched.read_bytes()
            found = _sha256(raw)
            if found != pinned.sha256:
                raise VerificationError(
                    f"{pinned.file_name} as fetched by {pinned.client} has SHA-256 {found}; expected {pinned.sha256}; "
                    f"nothing of it was used; check {pinned.client}'s settings, or put the right file into {folder}"
                )
            os.replace(fetched, cached)
    except OSError as error:
        raise StorageError(
            f"the cache {folder} cannot be used: {error}; set EDGEFL_CACHE to a folder of yours"
        ) from error
    return raw


def _fetch(pinned: Pinned, scratch: Path, folder: Path) -> Path:
    """Run the commands of ``pinned`` in ``scratch``; the path of the file that they made."""
    target, temporary, log = scratch / "target", scratch / "tmp", scratch / "log"
    target.mkdir()
    temporary.mkdir()
    with log.open("wb") as output, _progress(pinned) as show:
        commands = pinned.commands(temporary, target)
        done = all(_succeeds(command, target, temporary, output, show, Path(pinned.file_name)) for command in commands)
    fetched = target / pinned.file_name
    if done and fetched.is_file():
        return fetched
    raise UnavailableError(
        f"cannot fetch {pinned.requirement} ({_reason(log.read_text(errors='replace'))}); expected {pinned.client} "
        f"and a network; run `{pinned.by_hand(folder)}` where {pinned.client} works, or put {pinned.file_name} into "
        f"{folder}"
    )


def _succeeds(
    command: list[str], target: Path, temporary: Path, output: BinaryIO, show: Callable[[int], None], wanted: Path
) -> bool:
    """Run one command in ``target``; ``show`` is told how much of a file like ``wanted`` there is."""
    # pip writes what it receives below TMPDIR first: there the progress display sees it grow.
    environment = os.environ | {"TMPDIR": str(temporary), "PIP_DISABLE_PIP_VERSION_CHECK": "1", "LC_ALL": "C.UTF-8"}
    try:
        process = subprocess.Popen(
            command, cwd=target, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=environment
        )
    except FileNotFoundError:
        output.write(f"no command {command[0]!r} here\n".encode())
        return False
    try:
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(POLL_S) == 0
            show(_bytes_below(target.parent, wanted.suffix))
    finally:
        process.kill()
        process.wait()


def _reason(output: str) -> str:
    """The last error of pip (``ERROR:``) or apt-get (``E:``), else the last line; one line, without addresses: they
    may hold a password."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR:", "E:"))] or lines or ["it said nothing"]
    return re.sub(r"\S+://\S+", "(address)", re.sub(r"^(ERROR|E):", "", errors[-1]).strip())


@contextlib.contextmanager
def _progress(pinned: Pinned) -> Iterator[Callable[[int], None]]:
    """Gives a function that is told the bytes so far: a bar on a terminal (by rich, if installed), else one line."""
    title = f"fetching {pinned.requirement} ({pinned.size_bytes / 1e6:.1f} MB) by {pinned.client}"
    if sys.stderr.isatty():
        with contextlib.suppress(ImportError):
            from rich.console import Console
            from rich.progress import Progress

            # Transient: a finished fetch leaves the terminal as it was.
            with Progress(console=Console(stderr=True), transient=True) as bar:
                task = bar.add_task(title, total=pinned.size_bytes)
                yield lambda done: bar.update(task, completed=min(done, pinned.size_bytes))
            return
    _say(title)
    yield lambda _done: None


def _say(line: str) -> None:
    print(f"edgefl: {line}", file=sys.stderr, flush=True)


def _bytes_below(folder: Path, suffix: str) -> int:
    total = 0
    # pip moves files and removes folders while we look: os.walk passes over a folder that has gone.
    for parent, _, names in os.walk(folder):
        for name in names:
            if name.endswith(suffix):
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
