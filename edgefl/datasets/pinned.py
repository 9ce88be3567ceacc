"""Packages that carry a data set, each pinned to one exact file, and the commands that fetch it.

The clients are the ordinary ones, as the machine's owner set them up: pip, and Debian's apt-get. What they fetch is
data: nothing is installed, and nothing is executed.
"""

from __future__ import annotations

import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

RETRIES = 2
"""pip's default of 5, with its pauses, keeps somebody without a network waiting for most of a minute."""


@dataclass(frozen=True)
class PinnedFile:
    """One exact file: ``sha256`` is 64 hexadecimal digits; ``size_bytes`` only scales the progress display."""

    project: str
    version: str
    file_name: str
    sha256: str
    size_bytes: int


@dataclass(frozen=True)
class PinnedWheel(PinnedFile):
    """A wheel. ``target`` are pip's options for another platform's wheel: one file for all machines."""

    target: tuple[str, ...] = ()

    client = "pip"

    @property
    def requirement(self) -> str:
        return f"{self.project}=={self.version}"

    def commands(self, scratch: Path, folder: Path) -> list[list[str]]:
        """What to run, with ``folder`` as the working folder, to have the file in it. ``scratch`` is for the client."""
        del scratch  # pip takes TMPDIR
        options = ["--no-cache-dir", "--no-input", "--retries", str(RETRIES)]
        return [[sys.executable, *self._download(folder)[1:], *options]]

    def by_hand(self, folder: Path) -> str:
        """The command for a person."""
        return shlex.join(self._download(folder))

    def _download(self, folder: Path) -> list[str]:
        options = ["--no-deps", "--only-binary", ":all:", *self.target]
        return ["python3", "-m", "pip", "download", *options, "-d", str(folder), self.requirement]


@dataclass(frozen=True)
class PinnedDeb(PinnedFile):
    """A Debian package."""

    client = "apt-get"

    @property
    def requirement(self) -> str:
        return f"{self.project}={self.version}"

    def commands(self, scratch: Path, folder: Path) -> list[list[str]]:
        """As for a wheel. The package lists are read into ``scratch``: a machine's own may be old or absent, and
        only root may renew them."""
        del folder  # apt-get writes into the working folder
        options = [f"Dir::State::Lists={scratch}", f"Dir::Cache={scratch}", f"Acquire::Retries={RETRIES}"]
        apt = ["apt-get", "-q", *(part for option in options for part in ("-o", option))]
        return [[*apt, "update"], [*apt, "download", self.requirement]]

    def by_hand(self, folder: Path) -> str:
        return f"cd {shlex.quote(str(folder))} && apt-get download {self.requirement}"
