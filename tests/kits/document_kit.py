"""The code blocks of a document: each under a line that holds nothing but the name of its file, in backticks."""

from __future__ import annotations

import re
from pathlib import Path

from places import ROOT

DOCS = ROOT / "docs"


def files_of(document: str) -> dict[str, str]:
    """The text of every file that the document shows, by the name above it."""
    text = (DOCS / document).read_text(encoding="utf-8")
    found = re.findall(r"^`([\w./-]+)`\n\n```\w+\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)
    assert len(found) == len(dict(found)), "a file stands there twice"
    return dict(found)


def blocks_of(document: str, language: str) -> list[str]:
    """The text of every block of that language, in order."""
    text = (DOCS / document).read_text(encoding="utf-8")
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.DOTALL | re.MULTILINE)


def write_files(document: str, folder: Path) -> None:
    for name, text in files_of(document).items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
