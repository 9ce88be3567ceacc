"""A simulation that is broken anywhere goes on to the result of the unbroken one; a checkpoint that is not whole, or of
another run, is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from small_fleet import client, features_of, fleet, labels_of
from test_simulation import EVALUATION, PERSONALIZATION, STATISTICS, TRAINING, Task, held_out, plain_training, task

from edgefl import simulation
from edgefl.errors import ConfigError, ConflictError, StorageError, UpdateRefusal, VerificationError
from edgefl.learning import build_process
from edgefl.learning.cohort import run_cohort
from edgefl.protocol.events import Phase, RoundSummary, SaveTask, TaskRecord, TaskStatus
from edgefl.protocol.messages import Assignment, Refused, WorkFailure
from edgefl.protocol.process import ClientAccuracies, Gains, ProcessState, RoundMetrics
from edgefl.simulation import Checkpoint, SimulationResult
from edgefl.simulation.checkpoint import Keeper
from edgefl.simulation.checkpoint_file import MAGIC, Origin, read_checkpoint, write_checkpoint
from edgefl.simulation.past import Past
from edgefl.simulation.plain import from_plain, to_plain
from edgefl.simulation.record import MemoryRecord
from edgefl.types import ClientDataset

Ended = tuple[SimulationResult, list[RoundSummary]]


class Broken(Exception):
    """The process died."""


@dataclass
class Run:
    """One world of tasks and clients; ``go`` simulates it, and dies when ``rounds`` rounds have ended."""

    tasks: list[Task]
    clients: Sequence[ClientDataset]
    kept: Sequence[ClientDataset]

    def go(self, checkpoint: Checkpoint | None = None, rounds: int | None = None) -> Ended:
        seen: list[RoundSummary] = []

        def on_round(summary: RoundSummary) -> None:
            if len(seen) == rounds:
                raise Broken
            seen.append(summary)

        result = simulation.simulate(self.tasks, self.clients, self.kept, on_round=on_round, checkpoint=checkpoint)
        return result, seen


def four_tasks(goal: int = 3, rounds: int = 4, over_selection: float = 1.7) -> list[Task]:
    """All kinds of one population, on fewer devices than there are, with state of the server's optimizer."""
    tasks = [task(text, goal, min(goal, 2)) for text in (STATISTICS, TRAINING, EVALUATION, PERSONALIZATION)]
    found = []
    for spec, text in tasks:
        kept = 2 if spec.name == "spreads" else rounds
        found.append((replace(spec, rounds=kept, round=replace(spec.round, over_selection=over_selection)), text))
    return found


def mixed_world() -> Run:
    """Six clients: one cannot work, the updates of one are refused, and one holds nothing out."""
    clients = list(fleet(6))
    broken = features_of(clients[1]).copy()
    broken[1, 1] = np.nan
    clients[1] = client("client-1", broken, labels_of(clients[1]))
    clients[3] = client("client-3", features_of(clients[3]) * 1000, labels_of(clients[3]))
    (spec, text) = plain_training(3, 2)
    training = replace(
        spec,
        round=replace(spec.round, over_selection=1.7),
        aggregator=replace(spec.aggregator, norm_bound=8.0),
    )
    return Run([(training, text), *four_tasks()[2:]], clients, held_out(clients)[:5])


def whole_world() -> Run:
    clients = fleet(6)
    return Run(four_tasks(), clients, held_out(clients))


def variates_world() -> Run:
    """SCAFFOLD, where devices keep what they learned. Of four, whoever comes first is drawn: rounds overlap."""
    clients = fleet(4)
    spec, text = plain_training(2, 2, process="scaffold", rounds=6)
    few = replace(spec.round, over_selection=1.5, candidates=1)
    evaluation, evaluated = four_tasks(2, 6, 1.0)[2]
    overlapping = replace(evaluation, round=replace(evaluation.round, candidates=1))
    return Run([(replace(spec, round=few), text), (overlapping, evaluated)], clients, held_out(clients))


# ------------------------------------------------------------------------------------------------ the same bits


@pytest.mark.parametrize("world", [whole_world, mixed_world, variates_world])
def test_a_run_broken_at_any_round_goes_on_to_the_same_result(world: Callable[[], Run], tmp_path: Path) -> None:
    run = world()
    result, seen = run.go()
    if world is mixed_world:
        kinds = {failure.failure.kind for failure in result.failures}
        assert kinds == {"DataError", "InvalidUpdateError NORM"}
    for rounds in range(len(seen)):
        path = tmp_path / f"after-{rounds}"
        with pytest.raises(Broken):
            run.go(Checkpoint(path, every=1), rounds)
        again, seen_again = run.go(Checkpoint(path, every=1, resume=True))
        assert again == result  # models of all versions, metrics, failures, turns, the virtual clock
        assert seen_again == seen


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture]
)
@given(
    devices=st.integers(3, 9),
    goal=st.integers(1, 4),
    over_selection=st.sampled_from([1.0, 1.4, 2.0]),
    every=st.integers(1, 4),
    breaks=st.lists(st.integers(0, 12), min_size=1, max_size=3).map(sorted),
)
def test_a_run_broken_again_and_again_goes_on_to_the_same_result(
    devices: int, goal: int, over_selection: float, every: int, breaks: list[int], tmp_path: Path
) -> None:
    """Also where rounds of several tasks go on at once: they begin again."""
    clients = fleet(devices)
    tasks = four_tasks(goal, 3, over_selection)
    run = Run(tasks, clients, held_out(clients)[: devices - 1])
    expected = run.go()
    path = tmp_path / "checkpoint"
    path.unlink(missing_ok=True)
    checkpoint = Checkpoint(path, every, resume=True)
    for rounds in breaks:
        if rounds < len(expected[1]):
            with pytest.raises(Broken):
                run.go(checkpoint, rounds)
    assert run.go(checkpoint) == expected
    assert run.go(checkpoint) == expected  # of a run that is at its end


def test_work_that_a_checkpoint_holds_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    worked: list[tuple[str, int]] = []

    def counted(assignment: Assignment, *rest: Any, **options: Any) -> Any:
        worked.append((assignment.task, assignment.round_num))
        return run_cohort(assignment, *rest, **options)

    monkeypatch.setattr("edgefl.simulation.workers.run_cohort", counted)
    run, path = whole_world(), tmp_path / "checkpoint"
    with pytest.raises(Broken):
        run.go(Checkpoint(path, every=1), 9)
    _, past = read_checkpoint(path) or pytest.fail("there is none")
    assert len(past.rounds) >= 8  # the last one was perhaps not due: devices were on their way
    worked.clear()
    _, seen = run.go(Checkpoint(path, resume=True))
    ended = {(one.task, one.round_num) for one in past.rounds}
    assert set(worked) == {(one.task, one.round_num) for one in seen} - ended


def test_it_does_not_matter_who_works_before_and_after(tmp_path: Path) -> None:
    run, path = whole_world(), tmp_path / "checkpoint"
    with pytest.raises(Broken):
        run.go(Checkpoint(path, every=1), 7)
    checkpoint = Checkpoint(path, resume=True)
    assert simulation.simulate(run.tasks, run.clients, run.kept, processes=2, checkpoint=checkpoint) == run.go()[0]


def test_no_checkpoint_while_a_device_is_on_its_way_to_work_for_a_round_that_has_ended(tmp_path: Path) -> None:
    """Its answer is not known yet, so a resumed run could not repeat it."""
    spec, text = plain_training(2)
    path = tmp_path / "checkpoint"
    keeper = Keeper(Checkpoint(path, every=1), [spec], [])
    process = build_process(spec, None, None)
    state = process.initialize()
    assignment = Assignment(spec.name, 1, spec.seed, process.plan(state), state.model_digest, len(state.model), 9.0)
    record = MemoryRecord()
    record.apply(SaveTask(TaskRecord(spec, text, TaskStatus.RUNNING, replace(state, version=1), 2)))
    keeper.note_assignment("late", assignment)
    summary = RoundSummary(spec.name, 1, Phase.COMMITTED, 2, 3, 2, 0, 1, RoundMetrics(2, 2, 2, 1, 0.5))
    keeper.note_round(summary, record)
    keeper.save_if_due()
    assert not path.exists()
    keeper.note_work(["late"], assignment, [WorkFailure(spec.name, 1, "DataError", "row 1")])
    keeper.save_if_due()
    _, past = read_checkpoint(path) or pytest.fail("there is none")
    assert list(past.failures) == [(spec.name, 1, "late")]


# ------------------------------------------------------------------------------------------------ the file


def test_a_checkpoint_reads_as_it_was_written(tmp_path: Path) -> None:
    accuracies = ClientAccuracies(2 / 3, 0.1 + 0.2, 1 / 3, 1.0, 1 / 3)
    gains = RoundMetrics(2, 5, 5, 3, 0.1 + 0.2, (1, 2, 3, 4), Gains(2, 1, 0, -1 / 3), accuracies)
    rounds = (
        RoundSummary("a", 1, Phase.COMMITTED, 3, 4, 3, 1, 1, gains, latency_shares=(0.25, 0.75)),
        RoundSummary("b", 1, Phase.ABANDONED, 3, 4, 0, 4, reason="out of reach: \u2013 \n"),
    )
    assert tuple(from_plain(RoundSummary, to_plain(one)) for one in rounds) == rounds
    past = Past(
        rounds,
        {"a": (ProcessState(1, b"old"), ProcessState(2, b"new", b"extra")), "b": ()},
        {("a", 1, "person 0"): WorkFailure("a", 1, "DataError", "row 1")},
        {("a", 1, "person 1"): Refused(UpdateRefusal.NORM, "the L2 norm is 9")},
        {("a", "person 2"): (1, b"memory")},
    )
    origin = Origin("0.1.0", (("a", 'name = "a"\n'), ("b", "")), 7, "ab" * 32)
    write_checkpoint(tmp_path / "deep" / "c", origin, past)
    assert read_checkpoint(tmp_path / "deep" / "c") == (origin, past)
    assert read_checkpoint(tmp_path / "none") is None


def test_a_file_that_is_not_whole_is_refused_in_one_line(tmp_path: Path) -> None:
    run, path = whole_world(), tmp_path / "checkpoint"
    _, seen = run.go(Checkpoint(path))
    whole = path.read_bytes()
    _, past = read_checkpoint(path) or pytest.fail("there is none")
    assert past.rounds == tuple(seen)  # also those after the tenth: it is written at the end too

    def refused(raw: bytes) -> str:
        path.write_bytes(raw)
        with pytest.raises(StorageError) as caught:
            run.go(Checkpoint(path, resume=True))
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)
        return str(caught.value)

    for size in (0, 5, len(MAGIC), 59, 60, len(whole) // 2, len(whole) - 1):
        assert "is cut off" in refused(whole[:size])
    for at in range(60, len(whole), 97):
        assert "is corrupt" in refused(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    assert "is corrupt" in refused(whole + b"\0")
    assert "is no checkpoint of EdgeFL" in refused(b"PK\x03\x04 something else that is long enough" * 3)
    assert "is of format 1; this EdgeFL reads 3" in refused(whole[:8] + b"\x01" + whole[9:])
    path.unlink()
    path.mkdir()
    with pytest.raises(StorageError, match="is a folder; expected a file"):
        run.go(Checkpoint(path, resume=True))


def test_a_checkpoint_of_another_run_is_refused_and_says_what_differs(tmp_path: Path) -> None:
    run, path = whole_world(), tmp_path / "checkpoint"
    with pytest.raises(Broken):
        run.go(Checkpoint(path, every=1), 5)
    before = path.read_bytes()

    def refused(other: Run) -> str:
        with pytest.raises(ConflictError) as caught:
            other.go(Checkpoint(path, resume=True))
        assert path.read_bytes() == before
        message = str(caught.value)
        assert message.startswith(f"checkpoint {path} is of another run: ")
        assert message.endswith("; choose another file")
        return message

    def with_task(number: int, **changes: Any) -> Run:
        tasks = list(run.tasks)
        tasks[number] = (replace(tasks[number][0], **changes), tasks[number][1])
        return replace(run, tasks=tasks)

    assert "task 'gestures' had seed = 11, and has seed = 12" in refused(with_task(1, seed=12))
    assert "task 'accuracy' had rounds = 4, and has rounds = 3" in refused(with_task(2, rounds=3))
    assert "task 'gestures' had seed = 11, and has a default in its place" in refused(with_task(1, seed=0))
    message = "its tasks are spreads, gestures, accuracy, gains, and here they are spreads, gestures, accuracy"
    assert message in refused(replace(run, tasks=run.tasks[:3]))
    more = fleet(7)
    assert "it has 6 clients, and here are 7" in refused(replace(run, clients=more))
    one = features_of(run.clients[2]).copy()
    one[0, 0] += 1
    clients = [*run.clients[:2], client("client-2", one, labels_of(run.clients[2])), *run.clients[3:]]
    for other in (replace(run, clients=clients), replace(run, kept=clients)):
        assert "its clients had other ids or examples" in refused(other)
    renamed = [replace(run.clients[0], client_id="client-9"), *run.clients[1:]]
    named = [replace(run.kept[0], client_id="client-9"), *run.kept[1:]]
    assert "its clients had other ids or examples" in refused(replace(run, clients=renamed, kept=named))
    with pytest.raises(ConflictError, match=r"exists; go on from it \(resume\), or choose another file"):
        run.go(Checkpoint(path))
    with pytest.raises(ConfigError, match="every 0 rounds"):
        Checkpoint(path, every=0)


def test_a_past_that_the_machines_do_not_come_to_again_is_refused(tmp_path: Path) -> None:
    run, path = whole_world(), tmp_path / "checkpoint"
    run.go(Checkpoint(path))
    origin, past = read_checkpoint(path) or pytest.fail("there is none")
    other = replace(past.rounds[3], failed=2)
    write_checkpoint(path, origin, replace(past, rounds=(*past.rounds[:3], other, *past.rounds[4:])))
    with pytest.raises(VerificationError, match="other code wrote it; remove it to start again"):
        run.go(Checkpoint(path, resume=True))
    write_checkpoint(path, replace(origin, edgefl="0.0.9"), past)
    with pytest.raises(ConflictError, match=r"EdgeFL 0\.0\.9 wrote it, and this is "):
        run.go(Checkpoint(path, resume=True))


def test_what_a_killed_writer_left_is_removed(tmp_path: Path) -> None:
    run, path = whole_world(), tmp_path / "checkpoint"
    (tmp_path / ".checkpoint.abcd1234").write_bytes(b"half")
    (tmp_path / ".checkpoint.mine").write_bytes(b"mine")
    run.go(Checkpoint(path, resume=True))
    assert sorted(one.name for one in tmp_path.iterdir()) == [".checkpoint.mine", "checkpoint"]
