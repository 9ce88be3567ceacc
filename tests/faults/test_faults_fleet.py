"""The parts of the fault simulation that are pure: the user's fleet, its definitions, and what runs add up to."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest
from simulate_kit import TASKS, write_files

from edgefl.datasets import load
from edgefl.faults.checks import Promises
from edgefl.faults.fleet import TaskFleet
from edgefl.faults.tally import Tally, Totals
from edgefl.protocol.messages import Assignment, ClientUpdate
from edgefl.protocol.task import parse_task


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_files(tmp_path_factory.mktemp("simulate-faults"))


def test_every_task_is_stored_as_a_text_that_is_read_as_the_same_task(files: Path) -> None:
    """Also one with options of a part that a user registered: they are a table of free keys."""
    options = "aggregator = { name = 'damped_mean', norm_bound = 1e-5, options = { halvings = 1 } }"
    texts = [
        *TASKS.values(),
        TASKS["gestures"].replace("seed = 11", f"seed = 9223372036854775807\n{options}"),
        TASKS["gestures"].replace("batch_size = 4", "shuffle = false, local_epochs = 0"),
        TASKS["gestures"].replace("num_classes = 3", 'num_classes = 3, dtype = "int8", scale = 0.1'),
    ]
    data = load(str(files / "people.csv"))
    for text in texts:
        ((spec, written),) = TaskFleet([parse_task(text, "a task")], data, 0).definitions(1000)
        assert spec == parse_task(text, "a task")
        assert parse_task(written, "written anew") == spec


def test_a_run_gives_no_task_more_rounds_than_it_can_have(files: Path) -> None:
    short = TASKS["accuracy"].replace('"accuracy"', '"early"').replace("rounds = 60", "rounds = 2")
    tasks = [parse_task(text, "a task") for text in (*TASKS.values(), short)]
    fleet = TaskFleet(tasks, load(str(files / "people.csv")), 0)
    for wanted, expected in ((100, 50), (4, 4)):
        found = {spec.name: spec.rounds for spec, _ in fleet.definitions(wanted)}
        assert found == {"spreads": 2, "gestures": expected, "accuracy": expected, "early": 2}


def test_a_tally_reads_the_ledger_that_a_run_left() -> None:
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        db.execute("CREATE TABLE rounds (task, round, phase)")
        db.execute("CREATE TABLE reports (task, round, device, counted)")
        db.executemany("INSERT INTO rounds VALUES ('t', ?, ?)", [(1, "committed"), (2, "abandoned"), (3, "committed")])
        kept = [(1, "a", 1), (1, "b", 1), (2, "a", 0), (2, "b", 0), (3, "a", 1), (3, "b", 0), (3, "unknown", 1)]
        db.executemany("INSERT INTO reports VALUES ('t', ?, ?, ?)", kept)
        keys = [("t", number, device) for number, device, _ in kept[:-1]]  # no receipt of the last one left
        promises = Promises(sequences={key: at for at, key in enumerate([*keys, ("t", 3, "gone")])}, late={keys[0]})
        tally = Tally()
        for number, begun, ended in ((1, 1.0, 3.0), (2, 4.0, 5.0), (3, 6.0, 16.0)):
            tally.begins(("t", number), begun)
            tally.begins(("t", number), begun + 0.5)  # after a restart that forgot it
            tally.ends(("t", number), ended - 0.5)
            tally.ends(("t", number), ended)
        tally.close(db, promises, 20.0)
    assert (tally.committed, tally.abandoned, tally.durations_s) == (2, 1, [2.0, 10.0])
    assert (tally.acknowledged, tally.counted, tally.not_counted, tally.late) == (7, 3, 2, 1)
    assert tally.lost == 2  # one is gone, one was not counted by the round that committed
    totals = Totals()
    assert totals.round_s is None
    totals.add(tally)
    assert totals.round_s == {"median": 2.0, "p90": 10.0, "max": 10.0}
    totals.add(tally)
    totals.add_lost(1)
    found = {"acknowledged": 14, "counted": 6, "not_counted": 4, "late": 2, "lost": 5}
    assert (totals.as_dict()["updates"], totals.run_s) == (found, {"median": 20.0, "p90": 20.0, "max": 20.0})


def test_a_cloned_card_holds_other_examples(files: Path) -> None:
    spec = parse_task((files / "plain.toml").read_text(), "plain")
    fleet = TaskFleet([spec], load(str(files / "people.csv")), 0)
    process = fleet.process(spec, None, None)
    state = process.initialize()
    assignment = Assignment("gestures", 1, 11, process.plan(state), state.model_digest, len(state.model), 60.0)
    first, again, clone = (fleet.work(assignment, state.model, "person 1", copy, b"") for copy in (0, 0, 1))
    assert isinstance(first, ClientUpdate)
    assert isinstance(clone, ClientUpdate)
    assert first == again
    assert clone.num_examples == first.num_examples - 1
