"""What follows an abandoned round: a growing delay, then suspension of a task that only fails; and its reasons."""

from __future__ import annotations

from typing import Any

import pytest
from coordinator_kit import Fleet, assignments, of, receipt, rejection
from protocol_kit import failure, training

from edgefl.errors import InvalidUpdateError, UpdateRefusal
from edgefl.protocol.backoff import FIRST_S, MAX_S, NONE, SUSPEND_AFTER, Setbacks
from edgefl.protocol.events import (
    AnswerCheckIn,
    Notice,
    PublishRound,
    SaveAbandon,
    SaveSetbacks,
    SendReceipt,
    TaskEnded,
    TaskResumed,
    TaskStatus,
    Ticked,
)
from edgefl.protocol.failures import MAX_KINDS, OTHER, FailureCount, counted, refusal, told
from edgefl.protocol.messages import Assignment, Late, Noted, RetryWindow, WorkFailure
from edgefl.protocol.pace import CoordinatorConfig


class Loop:
    """Devices that come at once, and come back when they are told to; ``answer`` says what each does."""

    def __init__(self, fleet: Fleet, devices: str, good: str = "") -> None:
        self.fleet = fleet
        self.good = set(good)
        self.due = dict.fromkeys(devices, fleet.now)
        self.effects: list[Any] = []
        self.jobs: dict[str, Assignment] = {}

    def run(self, until: float) -> list[Any]:
        fleet, start = self.fleet, len(self.effects)
        while True:
            deadline = fleet.server.coordinator.next_deadline()
            times = [*self.due.values(), *([] if deadline is None else [deadline])]
            if not times or min(times) > until:
                fleet.now = until
                return self.effects[start:]
            fleet.now = max(fleet.now, min(times))
            self._step()

    def _step(self) -> None:
        fleet = self.fleet
        device = next((name for name, at in self.due.items() if at <= fleet.now), None)
        if device is None:
            self._take(fleet.handle(Ticked()))
            return
        job = self.jobs.pop(device, None)
        del self.due[device]
        if job is None:
            self._take(fleet.arrive(device))
            return
        effects = (
            fleet.answer(device, job) if device in self.good else fleet.report(device, failure("train", job.round_num))
        )
        (sent,) = of(SendReceipt, effects)
        self.due[device] = fleet.now + 0.01 + sent.retry.min_s
        self._take(effects)

    def _take(self, effects: list[Any]) -> None:
        self.effects += effects
        for answer in of(AnswerCheckIn, effects):
            if isinstance(answer.answer.outcome, Assignment):
                self.jobs[answer.device] = answer.answer.outcome
            self.due[answer.device] = self.fleet.now + 0.01 + answer.answer.retry.min_s


# ------------------------------------------------------------------------------------------------ the delay


def test_the_delay_doubles_up_to_its_bound() -> None:
    held = NONE
    assert held.delay_s() == 0.0
    delays = []
    for _ in range(12):
        held = held.after("why", fruitless=False)
        delays.append(held.delay_s())
    assert delays[:4] == [FIRST_S, 2 * FIRST_S, 4 * FIRST_S, 8 * FIRST_S]
    assert delays[-1] == MAX_S
    assert Setbacks(10**6).delay_s() == MAX_S
    assert Setbacks(5).delay_s(max_s=0.0) == 0.0


def test_a_failing_device_no_longer_makes_a_round_every_moment() -> None:
    """Goal = minimum = 3, one of three devices fails: it made 384 abandoned rounds in 15 s."""
    loop = Loop(Fleet(training(goal=3, minimum=3)), "abc", good="ab")
    assert 3 <= len(of(SaveAbandon, loop.run(15.0))) <= 8
    assert len(of(SaveAbandon, loop.run(3600.0))) <= 3600 / MAX_S + 8, "and goes on trying"
    assert loop.fleet.task().status is TaskStatus.RUNNING, "the others work: the task is not what is wrong"


def test_a_commit_ends_the_delay() -> None:
    loop = Loop(Fleet(training(goal=3, minimum=3, rounds=20)), "abc", good="ab")
    loop.run(60.0)
    assert loop.fleet.task().setbacks.abandoned > 4
    waits, _ = loop.fleet.server.coordinator.standing("train")
    assert waits.startswith("waiting ")
    assert "rounds in a row were abandoned; the last: 2 reports, 1 of 3 failed; 3 out of reach: WorkStopped" in waits
    loop.good.add("c")
    loop.run(60.0 + MAX_S + 5.0)
    assert loop.fleet.task().status is TaskStatus.COMPLETED, "one delay, then twenty rounds without any"
    assert loop.fleet.task().setbacks == NONE


def test_devices_wait_while_the_task_does_and_are_told_why() -> None:
    fleet = Fleet(training(goal=1, minimum=1))
    for round_num in range(1, 8):
        fleet.now = round_num * 100.0
        assert assignments(fleet.arrive("a"))
        fleet.report("a", failure(round_num=round_num, message="disk full"))
    assert not assignments(fleet.arrive("a"))
    fleet.now += 20.0
    reason, _ = rejection(fleet.handle(Ticked()))
    assert reason.startswith(
        "task train is waiting 13 s: 7 rounds in a row were abandoned; the last: 0 reports, 1 of 1"
    )
    assert reason.endswith("disk full (device a)")


def test_a_delay_outlives_a_restart_and_is_granted_afresh() -> None:
    fleet = Fleet(training(goal=1, minimum=1))
    for round_num in range(1, 6):
        fleet.now = round_num * 100.0
        fleet.arrive("a")
        fleet.report("a", failure(round_num=round_num))
    assert fleet.server.store.tasks["train"].setbacks.abandoned == 5
    fleet.server.restart(fleet.now)
    assert not assignments(fleet.arrive("a"))
    fleet.now += 8.0
    assert assignments(fleet.handle(Ticked()))


def test_without_a_bound_there_is_no_delay() -> None:
    """As in a simulation in one process, whose digests do not depend on it."""
    fleet = Fleet(training(goal=1, minimum=1), config=CoordinatorConfig(backoff_max_s=0.0))
    for round_num in range(1, 6):
        assert assignments(fleet.arrive("a"))
        (sent,) = of(SendReceipt, fleet.report("a", failure(round_num=round_num)))
        assert sent.retry == RetryWindow(0.0, 0.0)


def test_a_failure_is_not_followed_at_once() -> None:
    fleet = Fleet(training(goal=2))
    fleet.arrive_all("ab")
    effects = fleet.report("a", failure())
    assert receipt(effects) == Noted()
    assert of(SendReceipt, effects)[0].retry == RetryWindow(1.0, 2.0)


# ------------------------------------------------------------------------------------------------ suspension


def suspended() -> Fleet:
    fleet = Fleet(training(goal=2, minimum=2))
    loop = Loop(fleet, "ab")
    effects = loop.run(1000.0)
    assert len(of(SaveAbandon, effects)) <= SUSPEND_AFTER + 1
    (said,) = [notice.text for notice in of(Notice, effects) if "suspended" in notice.text]
    assert said.startswith(f"task train is suspended: its last {SUSPEND_AFTER} rounds only failed; the last: 0 reports")
    assert said.endswith("`edgefl task resume` takes it up again")
    return fleet


def test_a_task_that_only_fails_is_suspended_with_its_reason() -> None:
    fleet = suspended()
    task = fleet.server.store.tasks["train"]
    assert task.status is TaskStatus.SUSPENDED
    assert "WorkStopped: too hot (device" in task.reason
    assert rejection(fleet.arrive("a"))[0] == "task 'train' is suspended"
    fleet.server.restart(fleet.now)
    assert fleet.task().status is TaskStatus.SUSPENDED
    assert fleet.task().reason == task.reason
    assert not assignments(fleet.arrive("a"))


def test_resuming_takes_a_suspended_task_up_again_from_the_beginning() -> None:
    fleet = suspended()
    fleet.handle(TaskResumed("train"))
    assert (fleet.task().status, fleet.task().reason, fleet.task().setbacks) == (TaskStatus.RUNNING, "", NONE)
    jobs = fleet.arrive_all("ab")
    assert sorted(jobs) == ["a", "b"], "at once"
    for device, job in jobs.items():
        fleet.answer(device, job)
    assert fleet.task().state.version == 1


def test_a_suspended_task_can_be_ended() -> None:
    fleet = suspended()
    fleet.handle(TaskEnded("train"))
    assert fleet.task().status is TaskStatus.ENDED


def test_silent_devices_suspend_nothing() -> None:
    """An outage: every round ends at its deadline without a word."""
    fleet = Fleet(training(goal=2, minimum=2, deadline_s=10.0))
    for _ in range(3 * SUSPEND_AFTER):
        fleet.now += 100.0
        assert fleet.arrive_all("ab")
        fleet.now += 10.0
        assert of(SaveAbandon, fleet.handle(Ticked()))
    assert fleet.task().status is TaskStatus.RUNNING


def test_a_fast_failing_device_among_good_ones_suspends_nothing() -> None:
    """It answers first, so no round has an accepted report; the others' come late, and were good."""
    fleet = Fleet(training(goal=2, minimum=2))
    for round_num in range(1, 3 * SUSPEND_AFTER):
        fleet.now += 100.0
        jobs = fleet.arrive_all("ab")
        assert of(SaveAbandon, fleet.report("a", failure(round_num=round_num)))
        assert receipt(fleet.answer("b", jobs["b"])) == Late()
    assert fleet.task().status is TaskStatus.RUNNING


# ------------------------------------------------------------------------------------------------ reasons by kind


def test_failures_are_counted_by_kind_with_one_example() -> None:
    found: tuple[FailureCount, ...] = ()
    for device, kind in (("a", "DataError"), ("b", "KernelError"), ("c", "DataError")):
        found = counted(found, device, WorkFailure("t", 1, kind, f"{kind} of {device}"))
    assert found == (
        FailureCount("DataError", 2, "a", "DataError of a"),
        FailureCount("KernelError", 1, "b", "KernelError of b"),
    )
    assert told(found) == ("DataError: DataError of a (2 devices, one is a); KernelError: KernelError of b (device b)")
    assert told(()) == ""


def test_kinds_are_bounded_and_a_sentence_is_short() -> None:
    found: tuple[FailureCount, ...] = ()
    for number in range(100):
        found = counted(found, f"d{number}", WorkFailure("t", 1, f"kind {number}", "x" * 1000))
    assert len(found) == MAX_KINDS + 1
    assert (found[-1].kind, found[-1].count) == (OTHER, 100 - MAX_KINDS)
    assert len(told(found)) < 700
    assert told(found).endswith("13 other failures") or "other" in told(found)


@pytest.mark.parametrize("reason", list(UpdateRefusal))
def test_a_refusal_is_a_kind_of_its_own(reason: UpdateRefusal) -> None:
    made = refusal("t", 1, InvalidUpdateError(reason, "no"))
    assert (made.kind, made.message) == (f"InvalidUpdateError {reason.name}", "no")


def test_a_round_tells_how_its_devices_failed_also_when_it_commits() -> None:
    fleet = Fleet(training(goal=3, minimum=1))
    jobs = fleet.arrive_all("abc")
    fleet.report("a", failure(message="too hot"))
    (published,) = of(PublishRound, fleet.answer("b", jobs["b"], 5000))
    kinds = ["WorkStopped", "InvalidUpdateError NORM"]
    assert [one.kind for one in published.summary.failures] == kinds
    fleet.server.restart()
    (published,) = of(PublishRound, fleet.answer("c", jobs["c"]))
    assert [one.kind for one in published.summary.failures] == kinds, "also of a round that goes on after a restart"
    _, trouble = fleet.server.coordinator.standing("train")
    assert trouble.startswith("round 1: WorkStopped: too hot (device a); InvalidUpdateError NORM: norm 5000")


def test_an_abandoned_rounds_reason_has_the_failures() -> None:
    fleet = Fleet(training(goal=2, minimum=2))
    fleet.arrive_all("ab")
    (abandon,) = of(SaveAbandon, fleet.report("a", failure(message="5 features; expected 75")))
    assert abandon.reason == (
        "0 reports, 1 of 2 failed; 2 out of reach: WorkStopped: 5 features; expected 75 (device a)"
    )
    (saved,) = of(SaveSetbacks, fleet.report("b", failure(round_num=2))) or [SaveSetbacks("train", NONE)]
    assert saved.setbacks == NONE, "a failure of a round that is over is none of the next"
