"""The coordinator (design §5): check-ins, selection among tasks, receipts, control, restarts; the store in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, TypeVar

import pytest
from protocol_kit import (
    ENCODING,
    MAX_WEIGHT,
    MODEL,
    NOT_A_NUMBER,
    POISON,
    Adding,
    Server,
    check_in,
    evaluation,
    failure,
    pack,
    statistics,
    training,
    unpack,
    update,
)

from edgefl.errors import ConfigError, ConflictError, EdgeFLError, NotFoundError, StorageError, UpdateRefusal
from edgefl.models.softmax import SoftmaxModel
from edgefl.protocol.coordinator import Coordinator
from edgefl.protocol.events import (
    AnswerCheckIn,
    DeviceCheckedIn,
    DeviceGone,
    Draining,
    Effect,
    Persist,
    Phase,
    PublishRound,
    ReleaseCreated,
    ReleaseRecord,
    ReportReceived,
    SaveAbandon,
    SaveCommit,
    SaveDevice,
    SaveFailure,
    SaveRelease,
    SaveReport,
    SaveSelection,
    SaveTaskStatus,
    SendReceipt,
    TaskCreated,
    TaskEnded,
    TaskPaused,
    TaskResumed,
    TaskStatus,
    Ticked,
)
from edgefl.protocol.messages import (
    Accepted,
    AlreadyAccepted,
    Assignment,
    ClientUpdate,
    Late,
    LocalWork,
    Noted,
    Plan,
    Receipt,
    Refused,
    Rejection,
    ReleaseInfo,
    RetryWindow,
)
from edgefl.protocol.pace import CoordinatorConfig
from edgefl.protocol.task import ModelSpec, TaskSpec
from edgefl.types import Examples, Standardization, TrainStats, Weights

E = TypeVar("E")


class Fleet:
    """A server, and devices that speak to it in one line each. Time is ``now``; tokens count up."""

    def __init__(self, *specs: TaskSpec, config: CoordinatorConfig | None = None) -> None:
        self.server = Server(config)
        self.now = 0.0
        self.token = 0
        for spec in specs:
            self.server.handle(TaskCreated(spec, "text"), 0.0)

    def handle(self, event: Any) -> list[Effect]:
        return self.server.handle(event, self.now)

    def arrive(self, device: str, **changes: Any) -> list[Effect]:
        self.token += 1
        return self.handle(DeviceCheckedIn(self.token, device, check_in(**changes)))

    def arrive_all(self, devices: Sequence[str]) -> dict[str, Assignment]:
        """Check in all; the assignments that were given meanwhile, by device."""
        return {d: a for device in devices for d, a in assignments(self.arrive(device)).items()}

    def answer(self, device: str, job: Assignment, value: int = 1, **changes: Any) -> list[Effect]:
        made = update(job.model_digest, value, job.task, job.round_num, **changes)
        return self.report(device, made)

    def report(self, device: str, report: Any) -> list[Effect]:
        self.token += 1
        return self.handle(ReportReceived(self.token, device, report))

    def run_round(self, devices: Sequence[str], value: int = 1) -> str:
        """All check in, and those that get an assignment report. Returns the task that was served."""
        jobs = self.arrive_all(devices)
        for device, job in jobs.items():
            self.answer(device, job, value)
        (task,) = {job.task for job in jobs.values()}
        return task

    def task(self, name: str = "train") -> Any:
        return next(task for task in self.server.coordinator.tasks() if task.spec.name == name)


def of(kind: type[E], effects: Sequence[Effect]) -> list[E]:
    return [effect for effect in effects if isinstance(effect, kind)]


def assignments(effects: Sequence[Effect]) -> dict[str, Assignment]:
    answers = of(AnswerCheckIn, effects)
    return {a.device: a.answer.outcome for a in answers if isinstance(a.answer.outcome, Assignment)}


def rejection(effects: Sequence[Effect], device: str = "a") -> tuple[str, RetryWindow]:
    (answer,) = [a.answer for a in of(AnswerCheckIn, effects) if a.device == device]
    assert isinstance(answer.outcome, Rejection)
    return answer.outcome.reason, answer.retry


def receipt(effects: Sequence[Effect]) -> Receipt:
    (sent,) = of(SendReceipt, effects)
    return sent.receipt


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
    again = fleet.arrive_all("ab")
    assert (again["a"].round_num, again["a"].model_digest) == (2, jobs["a"].model_digest)
    for device, job in again.items():
        fleet.answer(device, job, 1)
    assert unpack(fleet.task().state.model) == 2, "what was accepted in the abandoned round is not counted"


def test_failures_end_a_round_early() -> None:
    fleet = Fleet(training(goal=2, minimum=2))
    fleet.arrive_all("ab")
    effects = fleet.report("a", failure())
    assert receipt(effects) == Noted()
    assert [type(e) for e in effects] == [SaveFailure, SaveAbandon, SendReceipt, PublishRound]


def test_a_failure_that_answers_nothing_is_noted_and_changes_nothing() -> None:
    fleet = Fleet(training(goal=2))
    fleet.arrive_all("ab")
    for device, report in (("x", failure()), ("a", failure(round_num=2)), ("a", failure(task="other"))):
        effects = fleet.report(device, report)
        assert [type(e) for e in effects] == [SendReceipt]
        assert receipt(effects) == Noted()


def test_an_aggregate_that_cannot_be_applied_abandons_the_round_and_pauses_the_task() -> None:
    fleet = Fleet(training(goal=2))
    jobs = fleet.arrive_all("ab")
    fleet.answer("a", jobs["a"], POISON)
    effects = fleet.answer("b", jobs["b"], 0)
    assert receipt(effects) == Accepted(2)
    assert of(SaveAbandon, effects) == [SaveAbandon("train", 1, "KernelError: the model left the finite numbers")]
    assert of(SaveTaskStatus, effects) == [SaveTaskStatus("train", TaskStatus.PAUSED)]
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


def test_a_member_whose_update_is_refused_is_a_failed_member() -> None:
    fleet = Fleet(training(goal=2, minimum=1))
    jobs = fleet.arrive_all("ab")
    effects = fleet.answer("a", jobs["a"], 5000)
    (saved,) = of(SaveFailure, effects)
    assert (saved.device, saved.failure.kind) == ("a", "InvalidUpdateError")
    assert saved.failure.message.startswith("NORM: ")
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
    assert fleet.handle(Ticked()) == []
    fleet.now = 20.0
    assert rejection(fleet.handle(Ticked())) == ("no round took this device; it may wait again", RetryWindow(0.0, 1.0))


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
        ({"kinds": ("evaluation",)}, "kind 'training', which this agent does not know"),
        ({"encodings": ("float32",)}, f"encoding '{ENCODING}', which this agent does not know"),
        ({"num_train": 0}, "needs training examples"),
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


# ------------------------------------------------------------------------------------------------ several tasks


def test_training_and_evaluation_alternate() -> None:
    fleet = Fleet(training(goal=3, rounds=3))
    fleet.server.handle(TaskCreated(evaluation(goal=3, rounds=3), ""))
    served = [fleet.run_round("abc") for _ in range(6)]
    assert served == ["train", "eval"] * 3
    assert {task.status for task in fleet.server.coordinator.tasks()} == {TaskStatus.COMPLETED}


def test_an_evaluation_reads_the_version_that_it_evaluates() -> None:
    fleet = Fleet(training(goal=1, rounds=3, minimum=1))
    fleet.server.handle(TaskCreated(evaluation(goal=1, rounds=3), ""))
    digests, seen = [], []
    for _ in range(3):  # This device cannot evaluate, so the evaluation lags.
        job = assignments(fleet.arrive("a", num_held_out=0))["a"]
        fleet.answer("a", job, 5)
        digests.append(fleet.task().state.model_digest)
    for _ in range(3):
        job = assignments(fleet.arrive("b", num_train=0))["b"]
        seen.append((job.task, job.model_digest, job.model_size_bytes))
        fleet.server.restart()
        fleet.answer("b", job)
    assert seen == [("eval", digest, 8) for digest in digests]
    assert fleet.server.coordinator._board._models == {}, "nothing is kept that none needs"


@pytest.mark.parametrize("loads", [True, False])
def test_models_for_evaluations_that_lag_are_bounded_when_the_store_has_them(
    loads: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgefl.protocol.taskboard.KEPT_MODELS", 2)
    fleet = Fleet()
    store = fleet.server.store
    if loads:
        fleet.server.coordinator = Coordinator(
            Adding, CoordinatorConfig(), load_model=lambda *key: store.models.get(key)
        )
    fleet.handle(TaskCreated(training(goal=1, rounds=8), ""))
    fleet.handle(TaskCreated(evaluation(goal=1, rounds=8), ""))
    digests = []
    for _ in range(8):
        fleet.answer("a", assignments(fleet.arrive("a", num_held_out=0))["a"], 5)
        digests.append(fleet.task().state.model_digest)
    assert len(fleet.server.coordinator._board._models) == (3 if loads else 8), "the last one is not yet stored"
    for digest in digests:
        job = assignments(fleet.arrive("b", num_train=0))["b"]
        assert job.model_digest == digest
        fleet.answer("b", job)


def test_a_training_waits_for_its_statistics_and_gets_their_result() -> None:
    fleet = Fleet(statistics(goal=1), training(goal=1, standardize_by="stats"))
    assert fleet.run_round("a", 4) == "stats"
    assert not of(AnswerCheckIn, fleet.arrive("b", kinds=("training",))), "it waits: the training may come"
    job = assignments(fleet.arrive("a"))["a"]
    assert (job.task, job.round_num, job.model_digest) == ("stats", 2, "")
    jobs = assignments(fleet.answer("a", job, 8))
    assert jobs["b"].task == "train"
    assert isinstance(jobs["b"].plan.model.standardization, Standardization)


def test_a_task_that_cannot_be_filled_starves_no_one() -> None:
    large, small = training("a-large", goal=50, minimum=50), training("b-small", goal=2, minimum=2)
    fleet = Fleet(large, small)
    assert not fleet.arrive_all("ab"), "the large one is first, and claims them"
    assert fleet.server.coordinator.next_deadline() == 5.0
    fleet.now = 5.0
    jobs = assignments(fleet.handle(Ticked()))
    assert {job.task for job in jobs.values()} == {"b-small"}
    for device, job in jobs.items():
        fleet.answer(device, job)
    assert fleet.run_round("ab") == "b-small", "the claim is not renewed within a round"


def test_a_claim_lets_a_task_gather_its_cohort() -> None:
    fleet = Fleet(training("a-large", goal=4, minimum=4), training("b-small", goal=2, minimum=2))
    jobs = fleet.arrive_all("abcd")
    assert {job.task for job in jobs.values()} == {"a-large"}


def test_a_device_has_one_assignment_at_a_time() -> None:
    fleet = Fleet(training("one", goal=1, deadline_s=60.0), training("two", goal=1))
    first = assignments(fleet.arrive("a"))["a"]
    assert assignments(fleet.arrive("a"))["a"].task == first.task
    fleet.answer("a", first)
    assert assignments(fleet.arrive("a"))["a"].task != first.task


# ------------------------------------------------------------------------------------------------ control


def test_a_paused_task_selects_nothing_and_its_round_goes_on() -> None:
    fleet = Fleet(training(goal=2))
    jobs = fleet.arrive_all("ab")
    fleet.handle(TaskPaused("train"))
    assert receipt(fleet.answer("a", jobs["a"])) == Accepted(1)
    (commit,) = of(SaveCommit, fleet.answer("b", jobs["b"]))
    assert commit.status is TaskStatus.PAUSED
    assert "no task" in rejection(fleet.arrive("a"))[0]
    fleet.handle(TaskResumed("train"))
    assert fleet.arrive_all("ab")["a"].round_num == 2


def test_pausing_sends_those_away_who_wait_for_nothing_else() -> None:
    fleet = Fleet(training(goal=2))
    fleet.arrive("a")
    assert "no task" in rejection(fleet.handle(TaskPaused("train")))[0]


def test_an_ended_task_abandons_its_round_for_good() -> None:
    fleet = Fleet(training(goal=2))
    jobs = fleet.arrive_all("ab")
    fleet.answer("a", jobs["a"])
    effects = fleet.handle(TaskEnded("train"))
    assert of(Persist, effects) == [  # type: ignore[arg-type]
        SaveAbandon("train", 1, "the task was ended"),
        SaveTaskStatus("train", TaskStatus.ENDED),
    ]
    assert receipt(fleet.answer("b", jobs["b"])) == Late()
    assert receipt(fleet.answer("a", jobs["a"])) == AlreadyAccepted(1)
    assert [summary.phase for summary in fleet.server.coordinator.rounds()] == [Phase.ABANDONED]


WRONG: list[tuple[Any, type[EdgeFLError], str]] = [
    (TaskPaused("none"), NotFoundError, "no task 'none'"),
    (TaskResumed("train"), ConflictError, "it is running"),
    (TaskEnded("done"), ConflictError, "it is ended"),
    (TaskPaused("done"), ConflictError, "it is ended"),
    (TaskCreated(training(), ""), ConflictError, "'train' exists"),
    (TaskCreated(evaluation("e", "none"), ""), NotFoundError, "evaluates is 'none'"),
    (TaskCreated(evaluation("e", "stats"), ""), ConfigError, "expected kind 'training'"),
    (TaskCreated(evaluation("e", rounds=4), ""), ConfigError, "at most 3"),
    (TaskCreated(evaluation("e", population="q"), ""), ConfigError, "population 'q'"),
    (TaskCreated(training("t", standardize_by="train"), ""), ConfigError, "expected kind 'statistics'"),
    (TaskCreated(training("t", standardize_by="done"), ""), ConflictError, "was ended"),
    (
        TaskCreated(replace(training("t"), model=replace(training(standardize_by="stats").model, num_features=2)), ""),  # type: ignore[type-var]
        ConfigError,
        "1 features; expected 2",
    ),
    (ReleaseCreated(ReleaseRecord(ReleaseInfo("m", 3, "", 1), "p", "train", 1)), ConflictError, "expected more than 3"),
]


@pytest.mark.parametrize(("event", "error", "told"), WRONG)
def test_a_wrong_control_event_raises_and_changes_nothing(event: Any, error: type[EdgeFLError], told: str) -> None:
    fleet = Fleet(statistics(), statistics("done"), training())
    fleet.handle(TaskEnded("done"))
    fleet.handle(ReleaseCreated(ReleaseRecord(ReleaseInfo("m", 3, "", 1), "p", "train", 1)))
    fleet.arrive("a")
    before = (fleet.server.coordinator.tasks(), fleet.server.coordinator.rounds())
    fleet.now = 30.0  # The long poll is over; the wrong event may not swallow its answer.
    with pytest.raises(error, match=told):
        fleet.handle(event)
    assert (fleet.server.coordinator.tasks(), fleet.server.coordinator.rounds()) == before
    assert rejection(fleet.handle(Ticked()))


class Own(LocalWork):
    """Work of a user's own."""

    max_weight = MAX_WEIGHT
    local_epochs = 1

    def run(self, model: SoftmaxModel, start: Weights, examples: Examples, key: bytes) -> tuple[Weights, TrainStats]:
        raise NotImplementedError


def test_work_that_cannot_be_sent_is_given_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server's process may be a user's own: what it cannot do ends no server."""
    monkeypatch.setattr(Adding, "plan", lambda *_: Plan(MODEL, Own(), ENCODING))
    text, _ = rejection(Fleet(training()).arrive("a", kinds=("training", "Own", "")))
    assert "work of a user's own, which cannot be sent" in text


def test_counts_of_more_classes_than_fit_a_report_are_refused_when_the_task_is_created() -> None:
    wide = replace(training("wide"), model=ModelSpec(num_features=1, num_classes=1025))
    fleet = Fleet(wide)
    with pytest.raises(ConfigError, match="1025 x 1025 classes, 8405000 bytes; expected at most 8388608"):
        fleet.handle(TaskCreated(evaluation("e", "wide"), ""))


def test_a_wrong_control_event_does_not_let_time_pass() -> None:
    fleet = Fleet(training(goal=2, minimum=2))
    fleet.arrive_all("ab")
    fleet.now = 60.0
    with pytest.raises(ConflictError):
        fleet.handle(TaskResumed("train"))
    assert fleet.server.coordinator.rounds()[-1].phase is Phase.COLLECTING
    assert of(SaveAbandon, fleet.handle(Ticked()))


def test_an_evaluation_that_comes_too_late_is_refused_unless_the_store_has_the_model() -> None:
    fleet = Fleet(training(goal=1))
    fleet.run_round("a")
    fleet.run_round("a")
    with pytest.raises(ConflictError, match="version 1 of 'train' is not kept"):
        fleet.handle(TaskCreated(evaluation(goal=1), ""))
    store = fleet.server.store
    loading = Coordinator(Adding, CoordinatorConfig(), load_model=lambda *key: store.models.get(key))
    loading.restore(replace(store.snapshot(), models={}), 0.0)
    fleet.server.coordinator = loading
    fleet.handle(TaskCreated(evaluation(goal=1), ""))
    assert assignments(fleet.arrive("b", num_train=0))["b"].task == "eval"


def test_a_release_reaches_those_who_wait_and_those_who_come() -> None:
    fleet = Fleet(training(goal=9), training("other", goal=9, population="q"))
    fleet.arrive("a")
    fleet.arrive("q1", population="q")
    infos = [ReleaseInfo("m", 1, "", 1), ReleaseInfo("n", 1, "", 1), ReleaseInfo("m", 2, "", 1)]
    effects = fleet.handle(ReleaseCreated(ReleaseRecord(infos[0], "p", "train", 1)))
    assert [type(e) for e in effects] == [SaveRelease, AnswerCheckIn]
    (answer,) = of(AnswerCheckIn, effects)
    assert (answer.device, answer.answer.releases, answer.answer.retry) == ("a", (infos[0],), RetryWindow(0.0, 0.0))
    for info in infos[1:]:
        fleet.handle(ReleaseCreated(ReleaseRecord(info, "p", "train", 1)))
    fleet.server.restart()
    fleet.arrive("a")
    (answer,) = of(AnswerCheckIn, fleet.arrive("a"))
    assert set(answer.answer.releases) == {infos[1], infos[2]}
    assert len(fleet.server.coordinator.releases()) == 3


def test_a_stopping_server_answers_all_and_still_takes_reports() -> None:
    fleet = Fleet(training(goal=2), training("z-other", goal=9))
    jobs = fleet.arrive_all("ab")
    fleet.arrive("c")
    assert rejection(fleet.handle(Draining()), "c") == ("the server is stopping", RetryWindow(2.0, 10.0))
    assert "stopping" in rejection(fleet.arrive("a"))[0], "a member, too"
    (sent,) = of(SendReceipt, fleet.answer("a", jobs["a"]))
    assert (sent.receipt, sent.retry) == (Accepted(1), RetryWindow(2.0, 10.0))
    assert of(SaveCommit, fleet.answer("b", jobs["b"]))
    assert fleet.server.coordinator.next_deadline() is None


def test_a_stopping_server_starts_no_round_with_those_expected_back() -> None:
    fleet = Fleet(training(goal=3, minimum=1), config=CoordinatorConfig(max_waiting=1))
    fleet.arrive_all("ab")
    fleet.handle(Draining())
    fleet.now = 6.0
    assert fleet.handle(Ticked()) == []


# ------------------------------------------------------------------------------------------------ time, restarts


def test_next_deadline_is_the_earliest_of_polls_selections_and_rounds() -> None:
    fleet = Fleet(training(goal=2, minimum=1))
    coordinator = fleet.server.coordinator
    assert coordinator.next_deadline() is None
    fleet.now = 1.0
    fleet.arrive("a")
    assert coordinator.next_deadline() == 6.0
    fleet.now = 6.0
    assert assignments(fleet.handle(Ticked()))["a"].round_num == 1
    assert coordinator.next_deadline() == 66.0
    fleet.arrive("b")
    assert coordinator.next_deadline() == 26.0


def test_a_selection_that_found_too_few_does_not_tick_without_end() -> None:
    fleet = Fleet(training(goal=9, minimum=5))
    fleet.arrive("a")
    fleet.now = 5.0
    assert fleet.handle(Ticked()) == []
    assert fleet.server.coordinator.next_deadline() == 20.0


def test_a_restart_in_the_middle_of_a_round_changes_nothing_but_the_deadline() -> None:
    fleet = Fleet(training(goal=3))
    jobs = fleet.arrive_all("abc")
    fleet.answer("b", jobs["b"], 10)
    fleet.report("c", failure())
    fleet.now = 1000.0
    assert fleet.server.restart(1000.0) == []
    assert fleet.server.coordinator.next_deadline() == 1060.0
    assert assignments(fleet.arrive("a"))["a"] == jobs["a"]
    assert receipt(fleet.answer("b", jobs["b"], 99)) == AlreadyAccepted(1)
    effects = fleet.answer("a", jobs["a"], 7)
    assert receipt(effects) == Accepted(2)
    (commit,) = of(SaveCommit, effects)
    assert (commit.counted, unpack(commit.state.model)) == (("b", "a"), 17)


def test_a_round_whose_last_report_was_stored_closes_at_the_restart() -> None:
    fleet = Fleet(training(goal=2))
    jobs = fleet.arrive_all("ab")
    fleet.answer("a", jobs["a"], 3)
    snapshot = fleet.server.store.snapshot()
    second = update(jobs["b"].model_digest, 4)
    record = replace(snapshot.rounds[0], accepted=(*snapshot.rounds[0].accepted, (2, "b", second)))
    coordinator = Coordinator(Adding, CoordinatorConfig())
    effects = coordinator.restore(replace(snapshot, rounds=(record,), next_sequence=3), 0.0)
    assert unpack(of(SaveCommit, effects)[0].state.model) == 7


def test_a_store_that_contradicts_itself_is_not_run() -> None:
    fleet = Fleet(training(goal=1))
    fleet.arrive("a")
    snapshot = fleet.server.store.snapshot()
    for record in (replace(snapshot.rounds[0], base_version=3), replace(snapshot.rounds[0], round_num=4)):
        coordinator = Coordinator(Adding, CoordinatorConfig())
        with pytest.raises(StorageError, match="inconsistent"):
            coordinator.restore(replace(snapshot, rounds=(record,)), 0.0)


@pytest.mark.parametrize(
    "wrong", [{"long_poll_s": 0.0}, {"max_waiting": 0}, {"idle_min_s": 5.0}, {"arrivals_per_s": 0}]
)
def test_a_wrong_option_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong)).removesuffix("_min_s")):
        CoordinatorConfig(**wrong)


def test_the_views_show_what_there_is() -> None:
    fleet = Fleet(training(goal=2))
    jobs = fleet.arrive_all("ab")
    fleet.answer("a", jobs["a"])
    (summary,) = fleet.server.coordinator.rounds()
    assert (summary.phase, summary.goal, summary.cohort, summary.accepted) == (Phase.COLLECTING, 2, 2, 1)
    assert [record.device for record in fleet.server.coordinator.devices()] == ["a", "b"]
    assert isinstance(fleet.server.store.ledger["train", 1, "a"][1], ClientUpdate)
