"""The coordinator (design §5): several tasks, control, time, restarts; the store in memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from coordinator_kit import Fleet, assignments, of, receipt, rejection
from protocol_kit import (
    ENCODING,
    MAX_WEIGHT,
    MODEL,
    Adding,
    evaluation,
    failure,
    statistics,
    training,
    unpack,
    update,
)

from edgefl.errors import ConfigError, ConflictError, EdgeFLError, NotFoundError, StorageError
from edgefl.models.kinds.softmax import SoftmaxModel
from edgefl.protocol.coordinator import Coordinator
from edgefl.protocol.events import (
    AnswerCheckIn,
    Draining,
    Notice,
    Persist,
    Phase,
    PublishRound,
    ReleaseCreated,
    ReleaseRecord,
    SaveAbandon,
    SaveCommit,
    SaveRelease,
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
    ClientUpdate,
    Late,
    LocalWork,
    Plan,
    ReleaseInfo,
    RetryWindow,
)
from edgefl.protocol.pace import CoordinatorConfig
from edgefl.protocol.standing import NOTICE_S
from edgefl.protocol.task import ModelSpec
from edgefl.types import Examples, Standardization, TrainStats, Weights

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
    assert rejection(fleet.arrive("a"))[0] == "task 'train' is paused"
    fleet.handle(TaskResumed("train"))
    assert fleet.arrive_all("ab")["a"].round_num == 2


def test_pausing_sends_those_away_who_wait_for_nothing_else() -> None:
    fleet = Fleet(training(goal=2))
    fleet.arrive("a")
    assert rejection(fleet.handle(TaskPaused("train")))[0] == "task 'train' is paused"


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
    before = _state_of(fleet)
    fleet.now = 30.0  # The long poll is over; the wrong event may not swallow its answer.
    with pytest.raises(error, match=told):
        fleet.handle(event)
    assert _state_of(fleet) == before
    assert rejection(fleet.handle(Ticked()))


def _state_of(fleet: Fleet) -> Any:
    """All but what is said of the time that passes."""
    coordinator = fleet.server.coordinator
    return coordinator.tasks(), [replace(summary, waiting="") for summary in coordinator.rounds()]


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
    assert "no way to get work of a user's own" in text


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
    assert coordinator.next_deadline() == NOTICE_S
    fleet.now = 1.0
    fleet.arrive("a")
    assert coordinator.next_deadline() == NOTICE_S
    fleet.now = NOTICE_S
    fleet.handle(Ticked())
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
    assert [type(effect) for effect in fleet.handle(Ticked())] == [PublishRound, Notice]
    assert fleet.server.coordinator.next_deadline() == 10.0
    fleet.now = 10.0
    assert [type(effect) for effect in fleet.handle(Ticked())] == [PublishRound]
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
    assert [view.record.device for view in fleet.server.coordinator.devices()] == ["a", "b"]
    assert isinstance(fleet.server.store.ledger["train", 1, "a"][1], ClientUpdate)
