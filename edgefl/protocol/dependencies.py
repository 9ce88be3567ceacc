"""Which task needs the result of which other, and what it gets from it: the one place that looks at it.

A task depends on one other at most: an evaluation on the training that it ``evaluates``, a training on the statistics
that it is ``standardize_by``. Where a training begins is its own matter (``edgefl.protocol.initial``): that is stored
with the task when it is created.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from edgefl.models.model import Model
from edgefl.protocol.process import Process, ProcessState
from edgefl.protocol.task import TaskKind, TaskSpec
from edgefl.types import Standardization


@dataclass(frozen=True)
class Dependency:
    """``key`` of the definition names ``task``, which must be of ``kind``."""

    key: str
    task: str
    kind: TaskKind


def dependency_of(spec: TaskSpec) -> Dependency | None:
    """What ``spec`` needs the result of; None for a task that stands alone."""
    if spec.evaluates:
        return Dependency("evaluates", spec.evaluates, TaskKind.TRAINING)
    if spec.model is not None and spec.model.standardize_by:
        return Dependency("standardize_by", spec.model.standardize_by, TaskKind.STATISTICS)
    return None


def results_for(
    spec: TaskSpec, find: Callable[[str], tuple[Process, ProcessState]]
) -> tuple[Standardization | None, Model | None]:
    """What a ``ProcessFactory`` takes besides ``spec``. ``find`` gives the process and latest state of a task.

    Both are None for a task that stands alone, and as long as the statistics are not finished. Raises what ``find``
    raises.
    """
    needed = dependency_of(spec)
    if needed is None:
        return None, None
    process, state = find(needed.task)
    if needed.kind is TaskKind.STATISTICS:
        return process.standardization(state), None
    return None, process.plan(state).model
