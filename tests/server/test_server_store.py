"""The store's contract: what each implementation of ``edgefl_server.store.Store`` must do; how SQLite's is fenced."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from server_kit import definition

from edgefl.errors import FencedError, NotFoundError, StorageError
from edgefl.protocol.backoff import Setbacks
from edgefl.protocol.events import (
    DeviceError,
    DeviceRecord,
    Persist,
    Phase,
    ReleaseRecord,
    RoundRecord,
    RoundSummary,
    SaveAbandon,
    SaveCommit,
    SaveDevice,
    SaveFailure,
    SaveRelease,
    SaveReport,
    SaveSelection,
    SaveSetbacks,
    SaveTask,
    SaveTaskStatus,
    TaskRecord,
    TaskStatus,
)
from edgefl.protocol.failures import FailureCount
from edgefl.protocol.messages import ClientUpdate, Fate, ReleaseInfo, WorkFailure
from edgefl.protocol.process import ClientAccuracies, Gains, ProcessState, RoundConditions, RoundMetrics
from edgefl.protocol.shape import ExampleShape
from edgefl.protocol.task import parse_task
from edgefl.types import DType, Quantization
from edgefl_server.sqlite_store import SqliteStore
from edgefl_server.store import Store

Opener = Callable[[], Store]
CONDITIONS = RoundConditions(9, 0.25)
ACCURACIES = ClientAccuracies(0.65, 0.1 + 0.2, 0.5, 0.8, 0.5)
METRICS = RoundMetrics(2, 20, 20, 13, 0.1 + 0.2, (1, 2, 3, 4), Gains(11, 2, 0, 0.1 + 0.3), ACCURACIES)


STORES: dict[str, Callable[[Path], Store]] = {
    "sqlite": lambda folder: SqliteStore(folder, retention_rounds=2),
}
"""Name -> opens a store that keeps its data in a folder and the payloads of two rounds."""


@pytest.fixture(params=STORES)
def opener(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    """Opens the same store again and again, closing the one before: each implementation is one parameter."""
    opened: list[Store] = []

    def reopen() -> Store:
        for store in opened:
            store.close()
        opened.append(STORES[request.param](tmp_path / "data"))
        return opened[-1]

    yield reopen
    for store in opened:
        store.close()


def task(name: str = "train", version: int = 0, model: bytes = b"model-0", text: str = "") -> TaskRecord:
    text = text or definition(name)
    return TaskRecord(parse_task(text, name), text, TaskStatus.RUNNING, ProcessState(version, model, b"extra-0"), 1)


def selection(round_num: int = 1, cohort: tuple[str, ...] = ("a", "b")) -> RoundRecord:
    return RoundRecord(
        "train",
        round_num,
        (*cohort, "z"),
        cohort,
        round_num - 1,
        60.5,
        conditions=CONDITIONS,
        num_examples=(*range(3, 3 + len(cohort)), 2**40),
    )


def update(round_num: int = 1, payload: bytes = b"\x00\xff payload") -> ClientUpdate:
    return ClientUpdate("train", round_num, "ab" * 32, "float32", payload, 2**31, 10, 7, -(2**40), attempt=3)


def commit(round_num: int, *counted: str, status: TaskStatus = TaskStatus.RUNNING) -> SaveCommit:
    model = f"model-{round_num}".encode()
    state = ProcessState(round_num, model, f"extra-{round_num}".encode())
    return SaveCommit("train", round_num, counted, state, METRICS, status, (0.5, 0.25, 0.25, 0.0))


def one_round(round_num: int, sequence: int) -> list[Persist]:
    return [
        SaveSelection(selection(round_num)),
        SaveReport(sequence, "a", update(round_num)),
        SaveReport(sequence + 1, "b", update(round_num)),
        commit(round_num, "a", "b"),
    ]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


# ------------------------------------------------------------------------------------------------ the contract


def test_empty_store_gives_an_empty_snapshot(opener: Opener) -> None:
    snapshot = opener().load()
    assert (snapshot.tasks, snapshot.rounds, snapshot.next_sequence) == ((), (), 1)


def test_everything_comes_back_as_it_was_saved(opener: Opener) -> None:
    store = opener()
    shape = ExampleShape(75, 7, DType.UINT8, Quantization(0.1, 3))
    device = DeviceRecord("a", "lab", "0.1", 5, 100, 20, suspect=True, shape=shape, running=(("r", 3),))
    release = ReleaseRecord(ReleaseInfo("r", 1, digest(b"file"), 4), "lab", "train", 0)
    failure = WorkFailure("train", 1, "DataError", "no examples")
    effects: list[Persist] = [
        SaveTask(task()),
        SaveTask(task("alpha")),
        SaveSelection(selection()),
        SaveReport(9, "b", update()),
        SaveFailure("a", failure),
        SaveDevice(dataclasses.replace(device, session=4)),
        SaveDevice(device),
        SaveRelease(release),
    ]
    store.apply(effects, [b"file"])
    again = opener()
    snapshot = again.load()
    assert snapshot.tasks == (task(), task("alpha"))  # in the order of creation
    expected = dataclasses.replace(selection(), accepted=((9, "b", update()),), failed=("a",))
    expected = dataclasses.replace(expected, failures=(FailureCount("DataError", 1, "a", "no examples"),))
    assert snapshot.rounds == (expected,)
    assert snapshot.devices == (device,)
    assert snapshot.releases == (release,)
    assert snapshot.next_sequence == 10
    assert again.content(digest(b"file")) == b"file"
    assert again.content(digest(b"model-0")) == b"model-0"


def test_ages_are_counted_by_the_stores_clock(tmp_path: Path) -> None:
    """Also by one that goes back: an age is never below 0."""
    now = [1000.0]

    def load() -> tuple[DeviceRecord, ...]:
        with contextlib.closing(SqliteStore(tmp_path, retention_rounds=2, clock=lambda: now[0])) as again:
            return again.load().devices

    with contextlib.closing(SqliteStore(tmp_path, retention_rounds=2, clock=lambda: now[0])) as store:
        device = DeviceRecord("a", "lab", "0.1", 5, 100, 20)
        store.apply([SaveTask(task()), SaveSelection(selection()), SaveDevice(device)])
        now[0] = 1300.0
        store.apply([SaveFailure("a", WorkFailure("train", 1, "DataError", "no examples"))])
        store.apply([SaveDevice(dataclasses.replace(device, session=6))])
    now[0] = 1400.0
    (found,) = load()
    assert (found.session, found.seen_ago_s) == (6, 100.0)
    assert found.error == DeviceError("DataError", "no examples", 100.0)
    now[0] = 0.0
    assert load()[0].seen_ago_s == 0.0


def test_what_holds_a_task_back_comes_back(opener: Opener) -> None:
    store = opener()
    setbacks = Setbacks(4, 3, "0 reports")
    store.apply(
        [SaveTask(task()), SaveSetbacks("train", setbacks), SaveTaskStatus("train", TaskStatus.SUSPENDED, "why")]
    )
    (found,) = opener().load().tasks
    assert (found.status, found.reason, found.setbacks) == (TaskStatus.SUSPENDED, "why", setbacks)


def test_ended_rounds_say_how_devices_failed(opener: Opener) -> None:
    store = opener()
    failures = [WorkFailure("train", 1, kind, f"{kind} {name}") for kind, name in (("A", "x"), ("B", "y"), ("A", "z"))]
    store.apply([SaveTask(task()), SaveSelection(selection())])
    store.apply([SaveFailure(f"d{n}", failure) for n, failure in reversed(list(enumerate(failures)))])
    store.apply([SaveAbandon("train", 1, "too few")])
    store.apply([SaveSelection(selection(2)), SaveAbandon("train", 2, "too few")])
    first, second = store.ended_rounds("train", 1, 9)
    assert first.failures == (FailureCount("A", 2, "d0", "A x"), FailureCount("B", 1, "d1", "B y"))
    assert second.failures == ()


def test_a_commit_ends_the_round_and_makes_one_version(opener: Opener) -> None:
    store = opener()
    store.apply([SaveTask(task()), *one_round(1, 1)])
    snapshot = opener().load()
    assert snapshot.rounds == ()
    state = ProcessState(1, b"model-1", b"extra-1")
    assert snapshot.tasks == (dataclasses.replace(task(), state=state, next_round=2),)
    store = opener()
    assert [(m.version, m.sha256, m.size_bytes) for m in store.models("train")] == [
        (0, digest(b"model-0"), 7),
        (1, digest(b"model-1"), 7),
    ]
    assert store.model("train", 1) == b"model-1"
    assert store.ended_rounds("train", 0, 10) == (
        RoundSummary("train", 1, Phase.COMMITTED, 2, 2, 2, 0, 1, METRICS, "", (0.5, 0.25, 0.25, 0.0), CONDITIONS),
    )


def test_fates_follow_the_round(opener: Opener) -> None:
    store = opener()
    store.apply([SaveTask(task()), SaveSelection(selection()), SaveReport(1, "a", update())])
    assert store.fate("train", 1, "a") is Fate.OPEN
    store.apply([SaveReport(2, "b", update()), commit(1, "a")])
    assert store.fate("train", 1, "a") is Fate.COUNTED
    assert store.fate("train", 1, "b") is Fate.NOT_COUNTED
    assert store.fate("train", 1, "stranger") is Fate.OPEN
    store.apply([SaveSelection(selection(2)), SaveReport(3, "a", update(2)), SaveAbandon("train", 2, "too few")])
    assert store.fate("train", 2, "a") is Fate.NOT_COUNTED


def test_an_abandoned_round_keeps_the_model_and_consumes_its_number(opener: Opener) -> None:
    store = opener()
    store.apply([SaveTask(task()), SaveSelection(selection()), SaveAbandon("train", 1, "too few reports")])
    (restored,) = opener().load().tasks
    assert (restored.next_round, restored.state) == (2, task().state)
    (summary,) = opener().ended_rounds("train", 1, 10)
    assert (summary.phase, summary.reason, summary.version) == (Phase.ABANDONED, "too few reports", 0)


def test_accepted_reports_are_found_by_key(opener: Opener) -> None:
    store = opener()
    store.apply([SaveTask(task()), SaveSelection(selection()), SaveReport(7, "a", update())])
    assert store.find_accepted("train", 1, "a") == 7
    assert store.find_accepted("train", 1, "b") is None
    assert store.find_accepted("train", 2, "a") is None


def test_a_key_is_accepted_once_and_a_failed_transaction_leaves_nothing(opener: Opener) -> None:
    store = opener()
    store.apply([SaveTask(task()), SaveSelection(selection()), SaveReport(1, "a", update())])
    with pytest.raises(StorageError):
        store.apply([SaveReport(2, "b", update()), SaveReport(3, "a", update(payload=b"other"))])
    (restored,) = opener().load().rounds
    assert [(sequence, device) for sequence, device, _ in restored.accepted] == [(1, "a")]


def test_after_a_failed_write_nothing_more_is_written(opener: Opener) -> None:
    store = opener()
    store.apply([SaveTask(task()), SaveSelection(selection()), SaveReport(1, "a", update())])
    with pytest.raises(StorageError):
        store.apply([SaveReport(1, "b", update())])
    with pytest.raises(StorageError, match="earlier write failed"):
        store.apply([SaveReport(2, "b", update())])


def test_retention_drops_payloads_and_keeps_the_ledger(opener: Opener, tmp_path: Path) -> None:
    store = opener()
    store.apply([SaveTask(task())])
    for round_num in range(1, 5):
        store.apply(one_round(round_num, 2 * round_num))
    store.apply([SaveSelection(selection(5)), SaveAbandon("train", 5, "too few")])
    with sqlite3.connect(tmp_path / "data" / "edgefl.db") as db:
        kept = db.execute(
            "SELECT round, count(data), count(*) FROM reports LEFT JOIN payloads USING (sequence) GROUP BY round"
        ).fetchall()
        extras = db.execute("SELECT version FROM states WHERE extra IS NOT NULL ORDER BY version").fetchall()
    db.close()
    assert kept == [(1, 0, 2), (2, 0, 2), (3, 0, 2), (4, 2, 2)]  # rounds 4 and 5 are the last two
    assert extras == [(3,), (4,)]  # round 4 is computed from version 3
    assert store.find_accepted("train", 1, "a") == 2


def test_a_snapshot_holds_the_models_that_evaluations_still_need(opener: Opener) -> None:
    text = """
name = "eval"
kind = "evaluation"
population = "lab"
evaluates = "train"
rounds = 3
[round]
goal = 1
minimum = 1
"""
    store = opener()
    store.apply([SaveTask(task()), *one_round(1, 1), *one_round(2, 3), *one_round(3, 5)])
    evaluation = task("eval", version=1, model=b"", text=text)
    store.apply([SaveTask(evaluation)])
    assert opener().load().models == {("train", 2): b"model-2", ("train", 3): b"model-3"}
    opener().apply([SaveTaskStatus("eval", TaskStatus.ENDED)])
    assert opener().load().models == {}


def test_a_task_without_a_model_has_no_models(opener: Opener) -> None:
    store = opener()
    store.apply([SaveTask(task(model=b""))])
    assert store.models("train") == ()
    assert opener().load().tasks[0].state.model == b""
    with pytest.raises(NotFoundError):
        opener().model("train", 0)


def test_unknown_content_is_not_found(opener: Opener) -> None:
    with pytest.raises(NotFoundError):
        opener().content("00" * 32)


# ------------------------------------------------------------------------------------------------ fencing


def test_a_second_server_on_one_data_dir_is_fenced_off(tmp_path: Path) -> None:
    first = SqliteStore(tmp_path, retention_rounds=2)
    with pytest.raises(FencedError, match=f"process {os.getpid()}.*stop it first"):
        SqliteStore(tmp_path, retention_rounds=2)
    first.close()
    SqliteStore(tmp_path, retention_rounds=2).close()


def test_i5_a_stale_epoch_writes_nothing(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path, retention_rounds=2)
    store.apply([SaveTask(task())])
    other = sqlite3.connect(store.path)  # a server on a file system whose locks do not work
    other.execute("UPDATE server SET epoch = epoch + 1")
    other.commit()
    with pytest.raises(FencedError, match="another server took it over"):
        store.apply([SaveTask(task("second"))])
    assert other.execute("SELECT name FROM tasks").fetchall() == [("train",)]
    other.close()
    store.close()


def test_each_opening_has_a_new_epoch(tmp_path: Path) -> None:
    epochs = []
    for _ in range(2):
        store = SqliteStore(tmp_path, retention_rounds=2)
        with sqlite3.connect(store.path) as db:
            epochs.append(db.execute("SELECT epoch FROM server").fetchone()[0])
        db.close()
        store.close()
    assert epochs[1] > epochs[0]
