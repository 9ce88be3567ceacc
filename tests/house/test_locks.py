"""The lock files pin what ``pyproject.toml`` asks for: an installer has nothing to search (tests/locks/lock.py)."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from places import ROOT

LOCKS = sorted((ROOT / "tests/locks").glob("python3.*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(lock: Path) -> dict[str, str]:
    found = {}
    for line in lock.read_text().splitlines():
        match = re.fullmatch(r"([a-z0-9._-]+)==([0-9][0-9a-z.]*)", line)
        assert match, f"{lock.name}: {line!r} is not an exact pin"
        found[canonicalize_name(match[1])] = match[2]
    return found


def asked(extra: str, python: str) -> Iterator[Requirement]:
    """What an extra asks for under ``python``, with the extras of our own that it includes."""
    for text in PROJECT["optional-dependencies"][extra]:
        requirement = Requirement(text)
        if requirement.name == PROJECT["name"]:
            for included in requirement.extras:
                yield from asked(included, python)
        elif requirement.marker is None or requirement.marker.evaluate({"python_version": python}):
            yield requirement


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.stem)
def test_every_requirement_of_dev_has_one_version_to_choose_from(lock: Path) -> None:
    pinned, python = pins(lock), lock.stem.removeprefix("python")
    requirements = list(asked("dev", python))
    assert len(requirements) > 20
    for requirement in requirements:
        version = pinned.get(canonicalize_name(requirement.name))
        assert version is not None, f"{requirement} is not pinned: run make lock"
        assert requirement.specifier.contains(version), f"{requirement} and {version}: run make lock"


def test_the_python_that_runs_and_debian_s_have_a_lock() -> None:
    assert {"python3.11", "python3.13"} <= {lock.stem for lock in LOCKS}
