"""Decides which TFLite runtime runs a model, and is the only place that knows their names.

| | tflite_runtime | ai_edge_litert |
|---|---|---|
| distribution | tflite-runtime | ai-edge-litert |
| Python | 3.11 at most | 3.10 and newer |
| NumPy | before 2 | any |
| machines | x86-64, aarch64, armv7l | x86-64, aarch64 |

``tflite_runtime`` goes first because it is an eighth of the size. The argument wins over the environment variable
``EDGEFL_TFLITE``, which wins over the order. Nothing falls back in silence: a runtime that was asked for and is not
there is a ``ConfigError``.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from typing import Any

from edgefl.errors import ConfigError

RUNTIMES = ("tflite_runtime", "ai_edge_litert")
"""Import names, in order of preference."""

ENVIRONMENT_VARIABLE = "EDGEFL_TFLITE"

_INSTALL = {
    "tflite_runtime": "install tflite-runtime (Python 3.11 at most, numpy before 2)",
    "ai_edge_litert": "install ai-edge-litert (Python 3.10 or newer, x86-64 or aarch64)",
}

_LAST_VERSION_FOR_NUMPY_1 = (2, 14)
"""tflite-runtime up to here is compiled against NumPy 1: with NumPy 2 it imports, then ``Interpreter()`` fails."""


def installed_runtimes() -> tuple[str, ...]:
    """The runtimes whose package is found, in order of preference. Imports neither them nor NumPy."""
    return tuple(name for name in RUNTIMES if importlib.util.find_spec(name) is not None)


def choose_runtime(name: str | None = None) -> str:
    """The import name of the runtime to use: ``name``, else ``EDGEFL_TFLITE``, else the first that is installed.

    Raises ``ConfigError``, saying what to install, for an unknown name, for a known one that is not installed, and
    when none is. Imports nothing.
    """
    source = "the runtime asked for" if name is not None else ENVIRONMENT_VARIABLE
    wanted = name if name is not None else os.environ.get(ENVIRONMENT_VARIABLE) or None
    if wanted is not None and wanted not in RUNTIMES:
        raise ConfigError(f"{source} is {wanted!r}; expected {' or '.join(RUNTIMES)}")
    installed = installed_runtimes()
    if wanted is not None:
        if wanted not in installed:
            raise ConfigError(f"{source} is {wanted!r}, which is not installed; {_INSTALL[wanted]}")
        return wanted
    if not installed:
        raise ConfigError(f"no TFLite runtime is installed; {_INSTALL[RUNTIMES[0]]}, or {_INSTALL[RUNTIMES[1]]}")
    return installed[0]


def load_interpreter(runtime: str) -> Any:
    """Import ``runtime`` and return its ``Interpreter`` class. Only the child process calls this: it loads NumPy.

    Raises ``ConfigError`` when the package cannot be imported, or cannot work with the NumPy that is installed.
    """
    try:
        package = importlib.import_module(runtime)
        numpy_version = str(importlib.import_module("numpy").__version__)
        if runtime == "tflite_runtime":
            check_numpy(str(package.__version__), numpy_version)
        return importlib.import_module(f"{runtime}.interpreter").Interpreter
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{runtime} cannot be imported: {error}; {_INSTALL[runtime]}") from error


def check_numpy(runtime_version: str, numpy_version: str) -> None:
    """Refuse a tflite-runtime compiled for NumPy 1 with NumPy 2 (``ConfigError``), before it fails obscurely."""
    if _leading_numbers(numpy_version) >= (2, 0) and _leading_numbers(runtime_version) <= _LAST_VERSION_FOR_NUMPY_1:
        raise ConfigError(
            f"tflite-runtime {runtime_version} does not work with numpy {numpy_version}; install numpy before 2, "
            f"or install ai-edge-litert and set {ENVIRONMENT_VARIABLE}=ai_edge_litert"
        )


def _leading_numbers(version: str) -> tuple[int, int]:
    major, minor = [*version.split("."), "0"][:2]
    return int(major), int(minor) if minor.isdigit() else 0
