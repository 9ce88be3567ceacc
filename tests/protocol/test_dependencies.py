"""Which task needs which, and what it gets: looked at in one module."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from places import ROOT
from protocol_kit import evaluation, statistics, training

from edgefl import learning
from edgefl.errors import NotFoundError
from edgefl.protocol.dependencies import Dependency, dependency_of, results_for
from edgefl.protocol.process import Process, ProcessState
from edgefl.protocol.task import TaskKind, TaskSpec


def standardized(name: str = "train") -> TaskSpec:
    spec = training(name)
    assert spec.model is not None
    return replace(spec, model=replace(spec.model, standardize_by="stats"))


def test_what_a_definition_names() -> None:
    assert dependency_of(training("train")) is None
    assert dependency_of(statistics()) is None
    assert dependency_of(standardized()) == Dependency("standardize_by", "stats", TaskKind.STATISTICS)
    assert dependency_of(evaluation(evaluates="train")) == Dependency("evaluates", "train", TaskKind.TRAINING)


def test_results_are_those_of_the_task_that_is_named() -> None:
    stats = learning.build_process(statistics(), None, None)
    size = 4 * stats.model.num_features
    finished = ProcessState(2, b"", bytes(size) + size // 4 * b"\x00\x00\x80\x3f")
    asked = []

    def find(name: str) -> tuple[Process, ProcessState]:
        asked.append(name)
        if name == "stats":
            return stats, finished
        process = learning.build_process(standardized(), stats.standardization(finished), None)
        return process, process.initialize()

    assert results_for(training("train"), find) == (None, None)
    assert asked == []
    assert results_for(standardized(), find) == (stats.standardization(finished), None)
    assert results_for(standardized(), lambda _: (stats, replace(finished, version=1))) == (None, None)
    none, model = results_for(evaluation(evaluates="train"), find)
    assert none is None
    assert model is not None
    assert model.standardization == stats.standardization(finished)
    assert asked == ["stats", "train"]


def test_a_task_that_is_not_there_is_said_by_who_looks_it_up() -> None:
    def find(name: str) -> tuple[Process, ProcessState]:
        raise NotFoundError(f"no task {name!r}")

    with pytest.raises(NotFoundError, match="no task 'stats'"):
        results_for(standardized(), find)


def test_no_other_module_looks_it_up() -> None:
    lookup = re.compile(r"spec\.model\.standardize_by")
    folders = (ROOT / "edgefl", ROOT / "server")
    found = {path.name for folder in folders for path in folder.rglob("*.py") if lookup.search(path.read_text("utf-8"))}
    assert found == {"dependencies.py"}
