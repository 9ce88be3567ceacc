"""The ledger's contract: what each ``edgefl_server.ledger.Ledger`` must give back of what was applied.

A further implementation is one line in ``LEDGERS``. And: no module but SQLite's own speaks SQL.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from memory_ledger import MemoryLedger
from places import ROOT
from protocol_kit import training

from edgefl.errors import NotFoundError
from edgefl.learning import build_process
from edgefl.protocol.events import (
    Persist,
    ReleaseRecord,
    RoundRecord,
    SaveAbandon,
    SaveCommit,
    SaveFailure,
    SaveRelease,
    SaveReport,
    SaveSelection,
    SaveTask,
    TaskRecord,
    TaskStatus,
)
from edgefl.protocol.messages import ClientUpdate, ReleaseInfo, WorkFailure
from edgefl.protocol.process import ProcessState, RoundConditions, RoundMetrics, fold_recorded
from edgefl.protocol.sampling import draw_cohort
from edgefl.settings import to_toml
from edgefl_server.check import check_ledger
from edgefl_server.ledger import Ledger, StoredReport, StoredRound, StoredState, StoredTask
from edgefl_server.recompute import Recomputer
from edgefl_server.sqlite_ledger import stopped_ledger
from edgefl_server.sqlite_store import SqliteStore

Batch = tuple[Sequence[Persist], Sequence[bytes]]
Filled = Callable[[Path, Sequence[Batch]], AbstractContextManager[Ledger]]


@contextlib.contextmanager
def sqlite_ledger(folder: Path, batches: Sequence[Batch]) -> Iterator[Ledger]:
    with contextlib.closing(SqliteStore(folder, retention_rounds=100)) as store:
        for effects, content in batches:
            store.apply(effects, content)
    with stopped_ledger(folder) as ledger:
        yield ledger


@contextlib.contextmanager
def memory_ledger(folder: Path, batches: Sequence[Batch]) -> Iterator[Ledger]:  # noqa: ARG001
    ledger = MemoryLedger()
    for effects, content in batches:
        ledger.apply(effects, content)
    yield ledger


LEDGERS: dict[str, Filled] = {
    "sqlite": sqlite_ledger,
    "memory": memory_ledger,
}
"""Name -> a ledger of what was applied."""


@pytest.fixture(params=LEDGERS)
def filled(request: pytest.FixtureRequest) -> Filled:
    return LEDGERS[request.param]


SPEC = training("train")
DEFINITION = to_toml(SPEC)
NAMES = ("a", "b", "c", "d", "e", "f")[: SPEC.round.cohort_size]
PROCESS = build_process(SPEC, None, None)
BEGIN = PROCESS.initialize()
CONDITIONS = RoundConditions(9, 0.25)


def made(round_num: int, state: ProcessState) -> ClientUpdate:
    payload = bytes(len(state.model))
    return ClientUpdate("train", round_num, state.model_digest, "float32", payload, 10, 10, 7, 100, attempt=2)


def selected(round_num: int, base_version: int) -> RoundRecord:
    cohort = tuple(draw_cohort(SPEC.seed, round_num, NAMES, SPEC.round.cohort_size, SPEC.round.sampling, ()))
    return RoundRecord("train", round_num, NAMES, cohort, base_version, 60.5, conditions=CONDITIONS)


def history() -> tuple[list[Batch], ProcessState, RoundMetrics]:
    """A task with a committed round, one abandoned while it collected and one while it was open; the new version."""
    first, second = selected(1, 0), selected(2, 1)
    members = first.cohort[: SPEC.round.goal]
    sums = PROCESS.new_accumulator()
    updates = [(device, made(1, BEGIN)) for device in members]
    fold_recorded(PROCESS, sums, updates)
    state, metrics = PROCESS.finalize(BEGIN, sums, CONDITIONS)
    record = TaskRecord(SPEC, DEFINITION, TaskStatus.RUNNING, BEGIN, 1)
    failure = WorkFailure("train", 2, "hot", "too hot")
    content = b"a released model"
    release = ReleaseRecord(ReleaseInfo("r", 1, hashlib.sha256(content).hexdigest(), len(content)), "lab", "train", 1)
    return (
        [
            ([SaveTask(record)], ()),
            ([SaveSelection(first)], ()),
            ([SaveReport(sequence, *update) for sequence, update in enumerate(updates, start=1)], ()),
            ([SaveCommit("train", 1, members, state, metrics, TaskStatus.RUNNING)], ()),
            ([SaveSelection(second), SaveReport(len(updates) + 1, second.cohort[0], made(2, state))], ()),
            ([SaveFailure(second.cohort[1], failure), SaveFailure(second.cohort[1], failure)], ()),
            ([SaveAbandon("train", 2, "deadline"), SaveAbandon("train", 3, "stopped")], ()),
            ([SaveRelease(release)], (content,)),
        ],
        state,
        metrics,
    )


def test_an_empty_one(filled: Filled, tmp_path: Path) -> None:
    with filled(tmp_path, ()) as ledger:
        assert (ledger.tasks(), ledger.releases(), list(ledger.contents())) == ((), (), [])
        assert (ledger.states("no"), ledger.rounds("no"), ledger.jumps("no"), ledger.reports("no", 1)) == ((),) * 4
        assert (ledger.version("no", 1), ledger.update("no", 1, "a"), ledger.payload(1)) == (None,) * 3
        assert ledger.num_failures("no", 1) == 0
        with pytest.raises(NotFoundError, match="version 0 of task 'no' is not kept"):
            ledger.state("no", 0)


def test_tasks_versions_and_rounds(filled: Filled, tmp_path: Path) -> None:
    batches, state, _ = history()
    goal = SPEC.round.goal
    with filled(tmp_path, batches) as ledger:
        assert ledger.tasks() == (StoredTask("train", DEFINITION, goal, 4, 1, 0, 0),)
        first, second = selected(1, 0), selected(2, 1)
        assert ledger.rounds("train") == (
            StoredRound(1, "committed", 1, goal, 0, NAMES, (), first.cohort),
            StoredRound(2, "abandoned", 0, 1, 1, NAMES, (), second.cohort),
            StoredRound(3, "abandoned", 0, 0, 0, (), (), ()),
        )
        digests = (BEGIN.model_digest, state.model_digest)
        assert ledger.states("train") == (
            StoredState(0, 0, digests[0], True),
            StoredState(1, 1, digests[1], True),
        )
        assert [ledger.state("train", version) for version in (0, 1)] == [BEGIN, state]
        assert ledger.version("train", 0) is None
        version = ledger.version("train", 1)
        assert version is not None
        assert (version.round_num, version.model_digest, version.extra) == (1, digests[1], state.extra)
        assert version.conditions == CONDITIONS


def test_reports_and_content(filled: Filled, tmp_path: Path) -> None:
    batches, state, _ = history()
    goal = SPEC.round.goal
    with filled(tmp_path, batches) as ledger:
        members = selected(1, 0).cohort[:goal]
        digest = made(1, BEGIN).payload_digest
        expected = [StoredReport(number, device, True, digest) for number, device in enumerate(members, start=1)]
        assert list(ledger.reports("train", 1)) == expected
        assert [report.counted for report in ledger.reports("train", 2)] == [False]
        assert ledger.update("train", 1, members[0]) == made(1, BEGIN)
        assert ledger.update("train", 3, members[0]) is None
        assert ledger.payload(1) == bytes(len(BEGIN.model))
        assert ledger.payload(goal + 2) is None
        assert (ledger.num_failures("train", 1), ledger.num_failures("train", 2)) == (0, 1)
        content = dict(ledger.contents())
        assert set(content.values()) == {BEGIN.model, state.model, b"a released model"}
        assert all(hashlib.sha256(data).hexdigest() == sha256 for sha256, data in content.items())
        (release,) = ledger.releases()
        assert (release.name, release.version, release.size_bytes, release.found_bytes) == ("r", 1, 16, 16)
        assert (ledger.missing_models(), ledger.payloads_without_report()) == ((), ())


def test_it_is_checked_and_computed_again(filled: Filled, tmp_path: Path) -> None:
    batches, state, metrics = history()
    with filled(tmp_path, batches) as ledger:
        verdict = check_ledger(ledger)
        assert (verdict.findings, verdict.rounds, verdict.recomputed) == ((), 3, 1)
        again = Recomputer(ledger).version("train", 1)
        assert (again.state, again.metrics, again.differences) == (state, metrics, ())


def test_only_sqlites_own_modules_speak_sql() -> None:
    sql = re.compile(r"\bsqlite3\b|\.execute\(|\"(SELECT|INSERT|UPDATE|DELETE) ")
    folder = ROOT / "server" / "edgefl_server"
    found = {path.name for path in folder.glob("*.py") if sql.search(path.read_text("utf-8"))}
    assert {name for name in found if not name.startswith("sqlite_")} == {"schema.py"}
