"""The learning processes by name: what ``process = "NAME"`` in a task file and ``learning.build_NAME`` mean.

Each is one file of this package that defines ``PROCESS``, and with it the function ``build_NAME`` that writes the
definition an operator would write and builds its process from it. The name of the file is the name in both
(``edgefl.registry``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

from edgefl.errors import ConfigError
from edgefl.models.model import Model
from edgefl.protocol.task import TaskKind, TaskSpec
from edgefl.registry import Registry
from edgefl.types import Standardization

__all__ = ["PROCESSES", "ProcessType", "builder", "names", "process_type"]

PROCESSES = Registry("process", __name__, "PROCESS", group=__name__)


@dataclass(frozen=True)
class ProcessType:
    """A process that a task of ``kind`` may name. ``build`` is a ``edgefl.protocol.process.ProcessFactory``."""

    kind: TaskKind
    build: Callable[[TaskSpec, Standardization | None, Model | None], Any]


def names() -> tuple[str, ...]:
    """The names of all processes, sorted."""
    return PROCESSES.names()


def process_type(spec: TaskSpec) -> ProcessType:
    """The process that a definition names. Raises ``ConfigError`` for an unknown name, and for one of another kind."""
    found = cast(ProcessType, PROCESSES.load(spec.process_name))
    if found.kind is not spec.kind:
        raise ConfigError(
            f"process {spec.process_name!r} is for tasks of kind {found.kind.value!r}; this one is {spec.kind.value!r}"
        )
    return found


def builder(name: str) -> Callable[..., Any]:
    """The function ``build_NAME``. Raises ``ConfigError`` when there is no process of that name."""
    return cast(Callable[..., Any], getattr(PROCESSES.module(name), f"build_{name}"))
