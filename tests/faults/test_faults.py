"""An accepted update is counted exactly once, whatever dies (design §5, I1 to I5, I7, I9): 1,000 simulated runs.

    pytest tests/faults/test_faults.py --fault-seed 17        one of them, with its trace if it fails
    make test-long                                     100,000 of them

``edgefl.faults`` says what is real in a run and what is simulated.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import patch

import pytest
from faults.adding import CONFIG, AddingFleet
from faults.long import main
from faults.mutants import MUTANTS
from protocol_kit import Adding, update

from edgefl.errors import ConflictError, LocalProtocolError, StorageError
from edgefl.faults.run import Runner, run_range, runner
from edgefl.faults.scenario import Kind, scenario
from edgefl.protocol.coordinator import Coordinator
from edgefl.protocol.events import ReportReceived, SaveTask, TaskCreated, TaskRecord, TaskStatus
from edgefl.protocol.pace import CoordinatorConfig
from edgefl_server.batcher import Batcher, Delivery, Job
from edgefl_server.sqlite_file import rewrite_log
from edgefl_server.sqlite_store import SqliteStore

SEEDS = 1000
CHUNK = 50
MUTANT_SEEDS = 200
"""A mutant that lives longer than so many seeds is not caught: the real run has five times as many."""

FIRST_TRIED = {
    "abandoned round is told as counted": 9,
    "close in two transactions": 10,
    "late report accepted": 13,
    "outbox not synced": 18,
    "restart forgets a pause": 44,
    "sync retried after an error": 9,
}
"""Seeds that caught these when they were last looked for. They save time alone: where one no longer does, the others
are tried."""


@pytest.fixture(scope="module")
def run() -> Iterator[Runner]:
    with runner(AddingFleet, CONFIG) as one:
        yield one


@pytest.mark.parametrize("first", range(0, SEEDS, CHUNK))
def test_every_invariant_holds_whatever_dies(first: int, run: Runner, pytestconfig: pytest.Config) -> None:
    only = pytestconfig.getoption("--fault-seed")
    if only is None:
        failure = run_range(run, first, first + CHUNK)
    else:
        failure = run_range(run, only, only + 1) if first == 0 else None
    assert failure is None, "\n".join(["", *failure.trace, failure.message, failure.options])


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught(name: str) -> None:
    """The checks can fail: each of these defects breaks an invariant within 200 seeds."""
    with MUTANTS[name](), runner(AddingFleet, CONFIG) as run:
        first = FIRST_TRIED.get(name, 0)
        caught = next((seed for seed in (first, *range(MUTANT_SEEDS)) if run.run(seed)[1]), None)
    assert caught is not None, f"{name}: not caught within {MUTANT_SEEDS} seeds"


def test_a_seed_is_the_same_run_each_time(run: Runner) -> None:
    traces = [tuple(run.run(3)[0].trace) for _ in range(2)]
    assert traces[0] == traces[1]
    assert len(traces[0]) > 20


def test_the_runs_have_every_kind_of_fault() -> None:
    scenarios = [scenario(seed, CONFIG) for seed in range(SEEDS)]
    timed = {fault.kind for one in scenarios for fault in one.faults}
    always = {Kind.LOSS, Kind.COPIES, Kind.DELAY, Kind.OLD_OFFER, Kind.CLONE}
    assert timed | always == set(Kind)
    for name in ("loss", "copies", "delay", "old_offer", "clone"):
        assert any(getattr(one, name) for one in scenarios)


def test_a_failure_is_shrunk_and_tells_how_to_replay_it() -> None:
    with MUTANTS["synchronous = NORMAL"](), runner(AddingFleet, CONFIG) as run:
        failures = (run.run(seed)[1] for seed in range(MUTANT_SEEDS))
        shrunk = run.shrunk(next(failure for failure in failures if failure is not None))
        assert Kind.CLONE in shrunk.without
        assert run.run(shrunk.seed, shrunk.without, shrunk.until)[1] == shrunk
    assert re.match(r"--run \d+ --only [a-z]", shrunk.options)


def test_the_long_run_replays_and_resumes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--run", "1", "--only", "loss,delay", "--until", "5"]) == 0
    assert "seed 1: keeps every invariant" in capsys.readouterr().out
    state = tmp_path / "build" / "state.json"
    assert main(["--seeds", "2", "--state", str(state)]) == 0
    assert "2 of 2 seeds keep every invariant" in capsys.readouterr().out
    assert main(["--seeds", "3", "--state", str(state)]) == 0
    assert capsys.readouterr().out.startswith("seeds 2 to 2;")


def test_a_server_that_cannot_recover_gives_the_database_back(run: Runner) -> None:
    """Else no other could ever open it, and the run would say so 400 times, and not why the first one ended."""
    recover, failures = Batcher.recover, iter(range(3))

    def fails_at_first(self: Batcher, now: float) -> None:
        if next(failures, None) is not None:
            raise StorageError("cannot be read: disk I/O error")
        recover(self, now)

    with patch.object(Batcher, "recover", fails_at_first):
        world, failure = run.run(0, without=tuple(Kind))
    assert failure is None, failure.message
    assert sum("cannot start: cannot be read" in line for line in world.trace) == 3


@pytest.mark.parametrize("name", ["recover", "turn"])
def test_an_error_that_no_fault_makes_is_told_at_once(name: str, run: Runner) -> None:
    """A task's own mistake would come again after every start, until the run ends with another reason: I9."""

    def broken(*_: object) -> None:
        raise LocalProtocolError("an accumulator of type Kept; expected Sums")

    with patch.object(Batcher, name, broken):
        world, failure = run.run(0)
    assert failure is not None
    assert failure.message == "LocalProtocolError: an accumulator of type Kept; expected Sums"
    assert world.now < 2.0


# ------------------------------------------------------------------------------------------------ what runs found


def test_a_failing_read_is_the_end_of_the_server_and_no_refusal(tmp_path: Path) -> None:
    """Only an operator's wrong event is answered by its error; after any other the memory cannot be trusted."""

    def broken(task: str, round_num: int, device: str) -> int | None:
        raise StorageError(f"cannot read {task} {round_num} {device}")

    left: list[Delivery] = []
    (spec, text), _ = AddingFleet(0).definitions(rounds=3)
    store = SqliteStore(tmp_path, retention_rounds=1)
    state = Adding(spec, None, None).initialize()
    store.apply([SaveTask(TaskRecord(spec, text, TaskStatus.RUNNING, state, next_round=5))])
    batcher = Batcher(store, Coordinator(Adding, CoordinatorConfig(), find_accepted=broken), left.append)
    batcher.recover(0.0)
    batcher.turn([Job(1, TaskCreated(spec, text))], 0.0)
    ((token, refusal),) = left.pop().done
    assert (token, type(refusal)) == (1, ConflictError)
    with pytest.raises(StorageError, match="cannot read train 1 d0"):
        batcher.turn([Job(2, ReportReceived(2, "d0", update(state.model_digest, round_num=1)))], 0.0)
    assert not left
    store.close()


def test_a_log_that_was_left_behind_is_written_anew_and_stays_the_same(tmp_path: Path) -> None:
    log = tmp_path / "edgefl.db-wal"
    rewrite_log(tmp_path / "edgefl.db")  # none there
    content = bytes(range(256)) * 9000
    log.write_bytes(content)
    before = log.stat().st_mtime_ns
    rewrite_log(tmp_path / "edgefl.db")
    assert log.read_bytes() == content
    assert log.stat().st_mtime_ns > before
