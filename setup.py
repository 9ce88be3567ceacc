"""Builds the package from its three roots, and libedgefl's sources into one extension module.

Metadata stands in pyproject.toml. Here stands what it cannot say: the extension, and a package list in which the two
shells lie in folders (``server``, ``device``) that are not packages themselves. ``csrc/sources.txt`` is the one list of
C sources and ``csrc/flags.txt`` that of the flags of their arithmetic; CMakeLists.txt reads both too.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

from Cython.Build import cythonize
from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

HERE = Path(__file__).parent

PACKAGE_ROOTS = {
    "edgefl": "edgefl",
    "edgefl_server": "server/edgefl_server",
    "edgefl_device": "device/edgefl_device",
}

# -O3 because distributions build their Python, and so its extensions, with -O2. The arithmetic's flags come last.
COMPILE_FLAGS = ["-std=c11", "-O3", "-fvisibility=hidden"]


def package_dirs() -> dict[str, str]:
    """The roots that exist in this checkout."""
    return {name: folder for name, folder in PACKAGE_ROOTS.items() if (HERE / folder / "__init__.py").exists()}


def packages() -> list[str]:
    """Every package below the roots."""
    found = []
    for name, folder in package_dirs().items():
        found.append(name)
        found.extend(f"{name}.{below}" for below in find_packages(str(HERE / folder)))
    return found


def c_sources() -> list[str]:
    return (HERE / "csrc" / "sources.txt").read_text().split()


def arithmetic_flags() -> list[str]:
    lines = (HERE / "csrc" / "flags.txt").read_text().splitlines()
    return [line for line in lines if line.startswith("-")]


def headers() -> list[str]:
    """What the extension is rebuilt for, besides its sources."""
    return sorted(str(path.relative_to(HERE)) for path in (HERE / "csrc").rglob("*.h"))


def extension() -> Extension:
    # EDGEFL_SOFTWARE_FMA=1 in the build's environment leaves hardware FMA out: same bits, to test the other body.
    macros = [("EDGEFL_SOFTWARE_FMA", "1")] if os.environ.get("EDGEFL_SOFTWARE_FMA") == "1" else []
    return Extension(
        "edgefl.kernels._kernels",
        sources=["edgefl/kernels/_kernels.pyx", *c_sources()],
        include_dirs=["csrc/include"],
        define_macros=macros,
        extra_compile_args=[*COMPILE_FLAGS, *arithmetic_flags()],
        depends=["csrc/flags.txt", *headers()],
    )


class ParallelBuild(build_ext):
    """Compiles the files of the one extension in parallel: half the time on two cores. distutils takes them in turn."""

    def build_extension(self, ext: Extension) -> None:
        compile_files = self.compiler.compile

        def compile_side_by_side(sources: list[str], **options: Any) -> list[str]:
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                objects = pool.map(partial(_compile_one, compile_files, options), sources)
                return [name for names in objects for name in names]

        self.compiler.compile = compile_side_by_side
        try:
            super().build_extension(ext)
        finally:
            self.compiler.compile = compile_files


def _compile_one(compile_files: Any, options: dict[str, Any], source: str) -> list[str]:
    return compile_files([source], **options)


setup(
    packages=packages(),
    package_dir=package_dirs(),
    # What pyproject.toml names under package-data, and no more: not the extension's sources.
    include_package_data=False,
    ext_modules=cythonize([extension()], compiler_directives={"language_level": 3}),
    cmdclass={"build_ext": ParallelBuild},
)
