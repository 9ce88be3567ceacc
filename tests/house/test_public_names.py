"""What Python and its completion see of the public packages: every name, and nothing heavy for it."""

from __future__ import annotations

import importlib
import json
import subprocess

import pytest
from script_kit import SCRIPT

import edgefl
from edgefl import learning

PACKAGES = [
    "edgefl",
    *(f"edgefl.{name}" for name in edgefl.__all__ if name.islower() and not name.startswith("_")),
    "edgefl.datasets.partitioners",
    "edgefl.learning.processes",
    "edgefl.wire",
]
LAZY = ["edgefl", "edgefl.learning", "edgefl.models", "edgefl.simulation"]
HEAVY = ("flatbuffers", "google", "grpc", "matplotlib", "numpy", "PIL", "pyarrow", "rich", "sqlite3", "tflite")

COMPLETE = """
import importlib, json, rlcompleter, sys
package = sys.argv[1]
names = {"package": importlib.import_module(package)}
found = rlcompleter.Completer(names).attr_matches("package.")
print(json.dumps([found, sorted({name.split(".")[0] for name in sys.modules})]))
"""


@pytest.mark.parametrize("package", PACKAGES)
def test_what_a_package_lists_is_there(package: str) -> None:
    module = importlib.import_module(package)
    listed = list(getattr(module, "__all__", ()))
    assert len(set(listed)) == len(listed)
    assert set(listed) <= set(dir(module))
    assert [name for name in dir(module) if getattr(module, name, None) is None and name.isidentifier()] == []


@pytest.mark.parametrize("package", LAZY)
def test_a_lazy_package_lists_all_that_is_reachable(package: str) -> None:
    module = importlib.import_module(package)
    assert sorted(dir(module)) == sorted(module.__all__)
    if hasattr(module, "_MODULES"):
        assert set(module._MODULES) <= set(module.__all__)
    for name in module.__all__:
        assert getattr(module, name) is not None


def test_every_process_has_its_builder_among_the_names() -> None:
    builders = {name for name in learning.__all__ if name.startswith("build_")} - {"build_process"}
    assert builders == {f"build_{name}" for name in learning.processes.names()}
    assert builders <= set(dir(learning))


@pytest.mark.parametrize("package", LAZY)
def test_completion_shows_every_name_and_imports_nothing_heavy(package: str) -> None:
    """The interpreter's own completion asks for each name that it shows."""
    command = [*SCRIPT, COMPLETE, package]
    found, modules = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    shown = {name.removeprefix("package.").rstrip("()") for name in found}
    assert {name for name in importlib.import_module(package).__all__ if not name.startswith("_")} <= shown
    assert set(HEAVY) & set(modules) == set()
