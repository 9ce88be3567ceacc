"""The coordinator (design §5): rounds, the gate, check-ins, receipts; the store in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from coordinator_kit import Fleet, assignments, of, receipt, rejection
from protocol_kit import (
    ENCODING,
    NOT_A_NUMBER,
    POISON,
    Adding,
    failure,
    pack,
    training,
    unpack,
    update,
)

from edgefl.errors import UpdateRefusal
from edgefl.protocol.coordinator import Coordinator
from edgefl.protocol.events import (
    AnswerCheckIn,
    DeviceGone,
    Persist,
    Phase,
    PublishRound,
    SaveAbandon,
    SaveCommit,
    SaveDevice,
    SaveFailure,
    SaveReport,
    SaveSelection,
    SaveSetbacks,
    SaveTaskStatus,
    SendReceipt,
    TaskStatus,
    Ticked,
)
from edgefl.protocol.messages import (
    Accepted,
    AlreadyAccepted,
    Assignment,
    Late,
    Noted,
    Refused,
    RetryWindow,
)
from edgefl.protocol.pace import CoordinatorConfig

# ------------------------------------------------------------------------------------------------ a round


def test_a_round_from_check_in_to_commit() -> None:
    fleet = Fleet(training(goal=2))
    assert fleet.arrive("b") == [SaveDevice(fleet.server.store.devices["b"])]
    effects = fleet.arrive("a")
    assert [type(e) for e in effects] == [SaveDevice, SaveSelection, PublishRound, AnswerCheckIn, AnswerCheckIn]
    jobs = assignments(effects)
    assert jobs["a"] == jobs["b"]
    job = jobs["a"]
    assert (job.task, job.round_num, job.task_seed, job.model_size_bytes, job.deadline_s) == ("train", 1, 7, 8, 60.0)
    assert job.model_digest == fleet.server.store.tasks["train"].state.model_digest
    assert receipt(fleet.answer("a", job, 5)) == Accepted(1)
    effects = fleet.answer("b", job, 6)
    assert [type(e) for e in effects] == [SaveReport, SaveCommit, SendReceipt, PublishRound]
    assert receipt(effects) == Accepted(2)
    (commit,) = of(SaveCommit, effects)
    assert (commit.counted, commit.state.version, unpack(commit.state.model)) == (("a", "b"), 1, 11)
    assert commit.metrics.num_reports == 2
    assert of(PublishRound, effects)[0].summary.phase is Phase.COMMITTED


def test_effects_come_in_the_order_persist_acknowledge_send() -> None:
    fleet = Fleet(training(goal=2, rounds=1))
    jobs = fleet.arrive_all("ab")
    fleet.answer("a", jobs["a"])
    fleet.arrive("a")
    effects = fleet.answer("b", jobs["b"])  # It commits, completes the task, and sends the waiting device away.
    ranks = [0 if isinstance(e, Persist) else 1 if isinstance(e, SendReceipt) else 2 for e in effects]
    assert ranks == sorted(ranks)
    assert set(ranks) == {0, 1, 2}
    assert rejection(effects)[0] == "no task of population 'p' is running"


def test_a_task_completes_after_its_rounds() -> None:
    fleet = Fleet(training(goal=2, rounds=2))
    for _ in range(2):
        fleet.run_round("ab")
    assert fleet.task().status is TaskStatus.COMPLETED
    assert fleet.server.store.tasks["train"] == fleet.task()
    assert "no task" in rejection(fleet.arrive("a"))[0]


def test_over_selection_makes_the_last_one_late() -> None:
    fleet = Fleet(training(goal=2, over_selection=1.5))
    jobs = fleet.arrive_all("abc")
    assert len(jobs) == 3
    assert receipt(fleet.answer("c", jobs["c"])) == Accepted(1)
    assert receipt(fleet.answer("a", jobs["a"])) == Accepted(2)
    effects = fleet.answer("b", jobs["b"])
    assert receipt(effects) == Late()
    assert not of(Persist, effects)  # type: ignore[arg-type]


def test_an_abandoned_round_consumes_its_number_and_keeps_the_model() -> None:
    fleet = Fleet(training(goal=2, minimum=2))
    jobs = fleet.arrive_all("ab")
    fleet.answer("a", jobs["a"], 50)
    fleet.now = 60.0
    effects = fleet.handle(Ticked())
    assert of(SaveAbandon, effects) == [SaveAbandon("train", 1, "1 of at least 2 reports at the deadline")]
    assert receipt(fleet.answer("a", jobs["a"])) == AlreadyAccepted(1)
    assert receipt(fleet.answer("b", jobs["b"])) == Late()
    assert not fleet.arrive_all("ab"), "the next round waits half a second"
    fleet.now = 60.5
    again = assignments(fleet.handle(Ticked()))
    assert (again["a"].round_num, again["a"].model_digest) == (2, jobs["a"].model_digest)
    for device, job in again.items():
        fleet.answer(device, job, 1)
    assert unpack(fleet.task().state.model) == 2, "what was accepted in the abandoned round is not counted"


def test_failures_end_a_round_early() -> None:
    fleet = Fleet(training(goal=2, minimum=2))
    fleet.arrive_all("ab")
    effects = fleet.report("a", failure())
    assert receipt(effects) == Noted()
    assert [type(e) for e in effects] == [SaveFailure, SaveAbandon, SaveSetbacks, SendReceipt, PublishRound]


def test_a_failure_that_answers_nothing_is_noted_and_changes_nothing() -> None:
    fleet = Fleet(training(goal=2))
    fleet.arrive_all("ab")
    for device, report in (("x", failure()), ("a", failure(round_num=2)), ("a", failure(task="other"))):
        effects = fleet.report(device, report)
        assert [type(e) for e in effects] == [SendReceipt]
        assert receipt(effects) == Noted()


def test_an_aggregate_that_cannot_be_applied_abandons_the_round_and_suspends_the_task() -> None:
    fleet = Fleet(training(goal=2))
    jobs = fleet.arrive_all("ab")
    fleet.answer("a", jobs["a"], POISON)
    effects = fleet.answer("b", jobs["b"], 0)
    assert receipt(effects) == Accepted(2)
    assert of(SaveAbandon, effects) == [SaveAbandon("train", 1, "KernelError: the model left the finite numbers")]
    reason = "KernelError: the model left the finite numbers"
    assert of(SaveTaskStatus, effects) == [SaveTaskStatus("train", TaskStatus.SUSPENDED, reason)]
    assert rejection(fleet.arrive("a"))[0] == "task 'train' is suspended"
    assert fleet.task().state.version == 0


# ------------------------------------------------------------------------------------------------ the gate


def test_the_gate_refuses_in_its_order() -> None:
    fleet = Fleet(training(goal=5, minimum=1))
    jobs = fleet.arrive_all("abcde")
    good = update(jobs["a"].model_digest)
    bad: dict[str, Any] = {"weight": 0, "base_model_digest": "", "round_num": 9, "task": "none", "encoding": "x"}
    bad["payload"] = b"?"
    order = [
        ({}, UpdateRefusal.WRONG_TASK, ("task",)),
        ({}, UpdateRefusal.ENCODING, ("encoding",)),
        ({}, UpdateRefusal.SHAPE, ("payload",)),
        ({"payload": pack(NOT_A_NUMBER)}, UpdateRefusal.NON_FINITE, ()),
        ({"payload": pack(5000)}, UpdateRefusal.WRONG_ROUND, ("round_num",)),
        ({"payload": pack(5000)}, UpdateRefusal.NOT_ASSIGNED, ()),
    ]
    for changes, reason, repaired in order:
        answer = receipt(fleet.report("x", replace(good, **{**bad, **changes})))
        assert isinstance(answer, Refused)
        assert answer.reason is reason
        for name in repaired:
            bad.pop(name)
    members: list[tuple[str, UpdateRefusal, dict[str, Any]]] = [
        ("a", UpdateRefusal.WRONG_BASE_MODEL, {"base_model_digest": "", "weight": 0, "payload": pack(5000)}),
        ("b", UpdateRefusal.WEIGHT, {"weight": 0, "payload": pack(5000)}),
        ("c", UpdateRefusal.NORM, {"payload": pack(5000)}),
    ]
    for device, reason, changes in members:
        effects = fleet.report(device, replace(good, **changes))
        assert isinstance(receipt(effects), Refused)
        assert receipt(effects).reason is reason  # type: ignore[union-attr]
        assert not of(SaveReport, effects)
    before_parsing = {UpdateRefusal.TOO_LARGE, UpdateRefusal.MALFORMED}
    assert {reason for _, reason, _ in (*order, *members)} == set(UpdateRefusal) - before_parsing


def test_a_second_update_is_a_repetition_before_its_numbers_are_judged() -> None:
    fleet = Fleet(training(goal=2, minimum=1))
    jobs = fleet.arrive_all("ab")
    first = receipt(fleet.answer("a", jobs["a"], 1))
    again = update(jobs["a"].model_digest)
    assert isinstance(first, Accepted)
    answer = receipt(fleet.report("a", replace(again, payload=pack(5000))))
    assert answer == AlreadyAccepted(first.sequence)
    refused = receipt(fleet.report("a", replace(again, payload=b"?")))
    assert isinstance(refused, Refused)
    assert refused.reason is UpdateRefusal.SHAPE


def test_a_member_whose_update_is_refused_is_a_failed_member() -> None:
    fleet = Fleet(training(goal=2, minimum=1))
    jobs = fleet.arrive_all("ab")
    effects = fleet.answer("a", jobs["a"], 5000)
    (saved,) = of(SaveFailure, effects)
    assert (saved.device, saved.failure.kind) == ("a", "InvalidUpdateError NORM")
    assert saved.failure.message == "norm 5000; expected at most 1000"
    assert not assignments(fleet.arrive("a")), "not assigned again"
    assert of(SaveCommit, fleet.answer("b", jobs["b"])), "the round does not wait for it"


def test_a_refused_duplicate_changes_nothing() -> None:
    fleet = Fleet(training(goal=2))
    jobs = fleet.arrive_all("ab")
    fleet.answer("a", jobs["a"], 5)
    effects = fleet.answer("a", jobs["a"], encoding="x")
    assert [type(e) for e in effects] == [SendReceipt]
    assert receipt(fleet.answer("a", jobs["a"], 9)) == AlreadyAccepted(1)
    fleet.answer("b", jobs["b"], 1)
    assert unpack(fleet.task().state.model) == 6


def test_a_duplicate_gets_the_first_sequence_however_old_its_round() -> None:
    fleet = Fleet(training(goal=1, rounds=20))
    jobs: list[Assignment] = []
    for _ in range(10):
        jobs.append(fleet.arrive_all("a")["a"])
        fleet.answer("a", jobs[-1])
    for number, job in enumerate(jobs, start=1):
        assert receipt(fleet.answer("a", job)) == AlreadyAccepted(number)
        assert receipt(fleet.answer("b", job)) == Late()
    fleet.server.coordinator = Coordinator(Adding, CoordinatorConfig())
    fleet.server.coordinator.restore(fleet.server.store.snapshot(), 0.0)
    assert receipt(fleet.answer("a", jobs[0])) == Late(), "without the store nothing is known"


def test_reports_for_rounds_that_never_were_are_refused() -> None:
    fleet = Fleet(training(goal=1))
    job = fleet.arrive_all("a")["a"]
    for number in (0, -1, 2, 99):
        answer = receipt(fleet.answer("a", replace(job, round_num=number)))
        assert isinstance(answer, Refused)
        assert answer.reason is UpdateRefusal.WRONG_ROUND


# ------------------------------------------------------------------------------------------------ check-ins


def test_a_member_that_comes_back_gets_the_same_assignment() -> None:
    fleet = Fleet(training(goal=2))
    jobs = fleet.arrive_all("ab")
    fleet.now = 20.0
    again = assignments(fleet.arrive("a"))["a"]
    assert again == replace(jobs["a"], deadline_s=40.0)
    fleet.answer("a", again)
    assert not of(AnswerCheckIn, fleet.arrive("a")), "it has answered, and waits for the next round"


def test_a_newer_check_in_supersedes_the_older() -> None:
    fleet = Fleet(training(goal=2))
    fleet.arrive("a")
    (answer,) = of(AnswerCheckIn, fleet.arrive("a"))
    assert answer.token == 1
    assert "superseded" in answer.answer.outcome.reason  # type: ignore[union-attr]
    fleet.handle(DeviceGone(1))
    effects = fleet.arrive("b")
    assert {a.token for a in of(AnswerCheckIn, effects)} == {2, 3}


def test_a_device_that_is_gone_is_no_candidate() -> None:
    fleet = Fleet(training(goal=2))
    fleet.arrive("a")
    assert fleet.handle(DeviceGone(1)) == []
    assert fleet.handle(DeviceGone(1)) == []
    assert not assignments(fleet.arrive("b"))
    assert fleet.server.coordinator.next_deadline() is not None


def test_a_long_poll_ends_with_a_window() -> None:
    fleet = Fleet(training(goal=2, minimum=2))
    fleet.arrive("a")
    fleet.now = 19.9
    assert not of(AnswerCheckIn, fleet.handle(Ticked()))
    fleet.now = 20.0
    reason = "task train is waiting for 1 of 2 devices; 1 known device: 1 waiting"
    assert rejection(fleet.handle(Ticked())) == (reason, RetryWindow(0.0, 1.0))


def test_waiting_check_ins_are_bounded() -> None:
    fleet = Fleet(training(goal=4), config=CoordinatorConfig(max_waiting=2))
    fleet.arrive("b")
    fleet.arrive("c")
    reason, window = rejection(fleet.arrive("a"))
    assert reason == "2 devices are waiting, as many as may"
    assert window == RetryWindow(1.0, 2.0)


def test_a_round_larger_than_the_waiting_room_counts_those_expected_back() -> None:
    fleet = Fleet(training(goal=4), config=CoordinatorConfig(max_waiting=2))
    devices = "abcd"
    jobs = fleet.arrive_all(devices)
    assert len(jobs) == 2, "two waited, two were sent away and are expected back"
    jobs |= fleet.arrive_all([d for d in devices if d not in jobs])
    assert sorted(jobs) == list(devices)
    for device, job in jobs.items():
        fleet.answer(device, job)
    assert fleet.task().state.version == 1


def test_a_parked_device_that_does_not_come_back_is_forgotten() -> None:
    fleet = Fleet(training(goal=3, minimum=3), config=CoordinatorConfig(max_waiting=1, long_poll_s=100.0))
    fleet.arrive("a")
    fleet.arrive("b")  # It is expected back within 2 s + 5 s.
    fleet.now = 8.0
    assert not assignments(fleet.arrive("c"))
    fleet.now = 9.0
    assert set(assignments(fleet.arrive("b"))) | {"a"} == {"a"}, "b is parked again, and the cohort is complete"
    assert fleet.server.coordinator.rounds()[-1].cohort == 3


def test_the_devices_expected_back_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgefl.protocol.waiting.MAX_PARKED", 2)
    fleet = Fleet(training(goal=4, minimum=4), config=CoordinatorConfig(max_waiting=1))
    assert not fleet.arrive_all("abcd"), "b was forgotten for d"
    assert assignments(fleet.arrive("b")) == {}, "c was forgotten for b"
    assert sorted(fleet.server.coordinator._board.get("train").candidates) == ["a", "b", "d"]


def test_a_few_devices_may_come_at_once_and_a_crowd_is_spread() -> None:
    fleet = Fleet(training(goal=2))
    jobs = fleet.arrive_all("ab")
    (sent,) = of(SendReceipt, fleet.answer("a", jobs["a"]))
    assert sent.retry == RetryWindow(0.0, 0.0)
    crowd = Fleet(training(goal=1000), config=CoordinatorConfig(max_waiting=10, arrivals_per_s=2.0))
    for number in range(20):
        effects = crowd.arrive(f"d{number}")
    assert rejection(effects, "d19")[1] == RetryWindow(10.0, 20.0)
    assert rejection(crowd.arrive("x", population="q"), "x")[1] == RetryWindow(1.0 + 10.5, 3.0 + 21.0)


def test_a_crowd_is_spread_by_the_capacity_that_was_measured() -> None:
    fleet = Fleet(training(goal=1000), config=CoordinatorConfig(max_waiting=10, arrivals_per_s=2.0))
    for number in range(20):
        fleet.arrive(f"d{number}")
    coordinator = fleet.server.coordinator
    coordinator.note_work(5, 0.5)  # too little to judge by
    assert rejection(fleet.arrive("d19"), "d19")[1] == RetryWindow(10.0, 20.0)
    coordinator.note_work(395, 1.5)  # 200 a second, of which a crowd may take half
    assert rejection(fleet.arrive("d19"), "d19")[1] == RetryWindow(1.0, 2.0)
    coordinator.note_work(0, 1000.0)  # the machine does something else now
    low, high = vars(rejection(fleet.arrive("d19"), "d19")[1]).values()
    assert (low, high) == (200.0, 400.0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"population": "q"}, "no task of population 'q' is running"),
        ({"kinds": ("evaluation",)}, "an agent that does not know kind 'training' (update it)"),
        ({"encodings": ("float32",)}, f"an agent that does not know encoding '{ENCODING}'"),
        ({"num_train": 0}, "task 'train' does not fit this device, which has no training examples"),
    ],
)
def test_a_device_for_which_there_can_be_no_work_is_told_why(changes: dict[str, Any], told: str) -> None:
    fleet = Fleet(training(goal=1))
    reason, window = rejection(fleet.arrive("a", **changes))
    assert told in reason
    assert window == RetryWindow(1.0, 3.0)


def test_a_device_is_saved_only_when_something_changed_and_a_clone_is_flagged() -> None:
    fleet = Fleet(training(goal=9))
    assert len(of(SaveDevice, fleet.arrive("a", session=5))) == 1
    assert not of(SaveDevice, fleet.arrive("a", session=5))
    (grown,) = of(SaveDevice, fleet.arrive("a", session=6, num_train=11))
    assert (grown.record.session, grown.record.num_train, grown.record.suspect) == (6, 11, False)
    (back,) = of(SaveDevice, fleet.arrive("a", session=5, num_train=11))
    assert (back.record.session, back.record.suspect) == (6, True)
    assert not of(SaveDevice, fleet.arrive("a", session=6, num_train=11))
