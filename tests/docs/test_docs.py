"""The documents and the docstrings name what exists: tests, modules, files, and links between them."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from places import ROOT, TESTS

DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md")])
FOLDERS = ("edgefl", "server", "device", "csrc", "bench", "docs", "protos", "tests")
SOURCES = sorted(
    path
    for folder in FOLDERS[:-1]
    for path in (ROOT / folder).rglob("*")
    if path.suffix in (".py", ".pyx", ".pxi", ".pxd", ".c", ".h", ".sh", ".toml", ".proto", ".service")
    and path.name != "_kernels.c"  # Cython made it
    and "_pb2" not in path.name
)
BUILD_FILES = [ROOT / name for name in ("setup.py", "pyproject.toml", "CMakeLists.txt", "Makefile")]
PACKAGE_HEADS = [path for path in SOURCES if path.name == "__init__.py"]
NOT_MODULES = ("edgefl.db", "edgefl.h", "edgefl.lock")
"""Files of these names: so begins ``edgefl.db.replaced``, too."""


def named_in(file: str) -> set[str]:
    paths = TESTS.glob(f"*/{file}")
    return {
        node.name for path in paths for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)
    }


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_named_tests_exist(document: Path) -> None:
    named = re.findall(r"`(test_\w+\.py)::(\w+)`", document.read_text())
    missing = [f"{file}::{test}" for file, test in named if test not in named_in(file)]
    assert not missing
    assert named or document.name != "reliability.md"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text())
    assert [link for link in links if not (document.parent / link).exists()] == []


def test_the_head_of_a_package_lists_modules_that_exist() -> None:
    """In a list "- ``first``, ``second``: what they are" each name is one of the package's modules."""
    names = re.compile(r"^- ((?:[(]?(?:with )?``[a-z_]+``[),]*\s*)+):", re.MULTILINE)
    listed = {
        (head.parent, name)
        for head in PACKAGE_HEADS
        for item in names.findall(ast.get_docstring(ast.parse(head.read_text())) or "")
        for name in re.findall(r"``([a-z_]+)``", item)
    }
    assert len(listed) > 10
    missing = [(str(folder.relative_to(ROOT)), name) for folder, name in listed if not [*folder.glob(f"{name}*")]]
    assert missing == []


def test_modules_and_what_is_in_them_are_named_as_they_are() -> None:
    named = {
        (path.name, name)
        for path in (*DOCUMENTS, *SOURCES)
        for name in re.findall(r"`(edgefl(?:_server|_device)?(?:\.\w+)+)", path.read_text())
        if not name.startswith(NOT_MODULES) and "NAME" not in name
    }
    assert len(named) > 50
    assert [(file, name) for file, name in sorted(named) if not exists(name)] == []


def exists(name: str) -> bool:
    """Whether the longest part that is a module names what follows it; without importing it, which takes seconds."""
    package, *parts = name.split(".")
    place = ROOT / {"edgefl_server": "server", "edgefl_device": "device"}.get(package, "") / package
    while parts and (place / parts[0]).is_dir():
        place /= parts.pop(0)
    files = [*place.glob(f"{parts[0]}.py*")] if parts else []
    if files:
        parts.pop(0)
    return not parts or parts[0] in names_in(files[0] if files else place / "__init__.py")


def names_in(path: Path) -> set[str]:
    """What a module defines or imports, and the names in its texts: ``edgefl`` loads by them what it is asked for."""
    words = set()
    for node in ast.walk(ast.parse(path.read_text())) if path.suffix == ".py" else ():
        words |= {str(value) for _, value in ast.iter_fields(node) if isinstance(value, str)}
    return words or set(re.findall(r"\w+", path.read_text()))


def test_named_files_exist() -> None:
    """A name may be the beginning of one (``docs/adr/0002``); capitals stand for any, and a user's files are shown."""
    name_of_file = re.compile(rf"(?<![\w./~-])((?:{'|'.join(FOLDERS)})/[\w./-]*\w)")
    named = {
        (path.relative_to(ROOT), name)
        for path in (*DOCUMENTS, *SOURCES, *BUILD_FILES)
        for name in name_of_file.findall(path.read_text())
        if not re.search("[A-Z]{2}", name) and f"`{name}`\n\n```" not in path.read_text()
    }
    assert len(named) > 50
    roots = (ROOT, ROOT / "protos")
    assert [one for one in sorted(named) if not any([*root.glob(f"{one[1]}*")] for root in roots)] == []
