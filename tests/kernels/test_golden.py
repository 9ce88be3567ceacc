"""The committed golden vectors against every variant of this machine, in every way of building them that it has.

``csrc/tests/golden.c`` says what a line holds and how to write the file anew. Source: design §4.2, §4.7.
"""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from edgefl.kernels import _kernels

GOLDEN = ROOT / "tests" / "golden" / "kernel.txt"
NUM_CASES = 339
"""Shapes 90, ways 180, edges and errors 41, aggregation 4, adaptive steps 3, extremes and counts 3, mlp 18.

A file that was cut short compares equal to nothing.
"""


def find_tool(*names: str) -> str | None:
    """The first of these programs, beside this interpreter or on the path."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return next((found for name in names if (found := shutil.which(name, path=path))), None)


CLANG = find_tool("clang", *(f"clang-{version}" for version in range(22, 10, -1)))
BUILDS = {"default": [], "software_fma": ["-DEDGEFL_SOFTWARE_FMA=ON"]}
if CLANG is not None:
    BUILDS["clang"] = [f"-DCMAKE_C_COMPILER={CLANG}"]


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)


@functools.cache
def build_golden(name: str) -> Path:
    """The program ``golden``, built by CMake in ``build/golden/NAME``; what is up to date is not built again.

    Tests run in several processes: the first one builds, and the others wait for it.
    """
    folder = ROOT / "build" / "golden" / name
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (folder.parent / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _build(folder, BUILDS[name])


def _build(folder: Path, options: list[str]) -> Path:
    cmake = find_tool("cmake")
    assert cmake is not None, "cmake is missing; install the extra `dev`"
    cache = folder / "CMakeCache.txt"
    if cache.exists() and f"CMAKE_HOME_DIRECTORY:INTERNAL={ROOT}\n" not in cache.read_text():
        shutil.rmtree(folder)  # it came along with a copy of another checkout, and CMake refuses it
    steps: list[list[str | Path]] = [
        ["-S", ROOT, "-B", folder, *options],
        ["--build", folder, "--target", "golden", "--parallel", "2"],
    ]
    for step in steps:
        done = run(cmake, *step)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder / "golden"


@pytest.mark.parametrize("name", BUILDS)
def test_every_variant_gives_the_committed_lines(name: str) -> None:
    program = build_golden(name)
    variants = run(program, "--list").stdout.split()
    assert variants[0] == "scalar"

    done = run(program, "--check", GOLDEN)

    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [f"{variant}: equal" for variant in variants]


@pytest.mark.parametrize("name", BUILDS)
def test_the_library_needs_no_libm(name: str, tmp_path: Path) -> None:
    """Linked into a shared library without -lm it must load: gcc calls sqrt where it must set errno."""
    archive = build_golden(name).parent / "libedgefl.a"
    whole = [f"-Wl,--whole-archive,{archive},--no-whole-archive", "-Wl,-z,defs"]
    linked = run("cc", "-shared", "-o", tmp_path / "libedgefl.so", *whole)
    assert linked.returncode == 0, linked.stderr


def test_the_extension_module_calls_no_function_of_libm() -> None:
    """Python itself brings libm along, so a call of sqrt would show nowhere but in the module's names."""
    names = Path(_kernels.__file__).read_bytes().split(b"\0")
    assert b"malloc" in names
    assert b"sqrt" not in names


def test_the_committed_file_is_what_the_scalar_variant_prints() -> None:
    done = run(build_golden("default"), "scalar")
    assert done.returncode == 0, done.stderr
    assert done.stdout == GOLDEN.read_text()
    assert len({line.split()[0] for line in done.stdout.splitlines()}) == NUM_CASES


def test_a_line_that_differs_is_named(tmp_path: Path) -> None:
    program = build_golden("default")
    lines = GOLDEN.read_text().splitlines(keepends=True)
    case, digest = lines[7].split()
    for changed in ([*lines[:7], f"{case} {digest[:-1]}x\n", *lines[8:]], lines[:-1], [*lines, "one/more 0\n"]):
        (tmp_path / "kernel.txt").write_text("".join(changed))
        done = run(program, "--check", tmp_path / "kernel.txt", "scalar")
        assert done.returncode == 1
        assert "scalar: 1 lines differ" in done.stderr
        assert not done.stdout
        assert (case in done.stderr) == (f"{case} {digest}\n" not in changed)


def test_an_unknown_variant_is_an_error() -> None:
    done = run(build_golden("default"), "--check", GOLDEN, "sse9")
    assert done.returncode == 1
    assert "no variant sse9" in done.stderr
