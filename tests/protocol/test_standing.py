"""Why nothing happens, said to operators and devices (``edgefl.protocol.standing``), and who is where."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from coordinator_kit import Fleet, assignments, of, rejection
from protocol_kit import MODEL, evaluation, failure, statistics, training

from edgefl.errors import ConfigError
from edgefl.protocol.devices import GRACE_S, SEEN_EVERY_S
from edgefl.protocol.events import (
    DeviceGone,
    Draining,
    Notice,
    PublishRound,
    SaveDevice,
    TaskCreated,
    TaskPaused,
    TaskStatus,
    Ticked,
)
from edgefl.protocol.messages import Accepted, RetryWindow
from edgefl.protocol.shape import ExampleShape, misfit, shape_of
from edgefl.protocol.standing import LOG_S, NOTICE_S, REPEAT_S, DeviceState
from edgefl.types import DType, Quantization

RIGHT = shape_of(MODEL)
WIDE = ExampleShape(5, 2)


def waiting(fleet: Fleet, task: str = "train") -> str:
    return fleet.server.coordinator.standing(task)[0]


def run_clock(fleet: Fleet, until: float) -> list[Any]:
    """Let time pass as a shell does; all effects."""
    effects: list[Any] = []
    while (at := fleet.server.coordinator.next_deadline()) is not None and at <= until:
        fleet.now = at
        effects += fleet.handle(Ticked())
    fleet.now = until
    return effects + fleet.handle(Ticked())


# ------------------------------------------------------------------------------------------------ what tasks wait for


def test_a_task_says_how_many_devices_are_missing_and_what_keeps_them() -> None:
    fleet = Fleet(training(goal=3, minimum=3))
    assert waiting(fleet) == "waiting for 3 of 3 devices; no device of population p has checked in yet"
    fleet.arrive("far", shape=RIGHT)
    fleet.handle(DeviceGone(fleet.token))
    fleet.arrive("wide", shape=WIDE)
    fleet.arrive("empty", num_train=0)
    fleet.arrive("large", num_train=100_001)
    fleet.now = 240.0
    fleet.arrive("near", shape=RIGHT)
    assert waiting(fleet) == (
        "waiting for 2 of 3 devices; 5 known devices: 1 waiting, 1 not seen for 4 min, 1 with 5 features (expected 1), "
        "1 with no training examples, 1 with 100001 training examples (max_weight is 100000)"
    )


def test_a_round_that_could_begin_with_fewer_says_until_when_it_waits() -> None:
    fleet = Fleet(training(goal=3, minimum=1, selection_s=30.0))
    fleet.arrive("a")
    fleet.now = 10.0
    text = "waiting for 2 of 3 devices; in 20 s the round goes on without; 1 known device: 1 waiting"
    fleet.handle(Ticked())
    assert waiting(fleet) == text


def test_a_device_that_works_for_another_task_is_said_to() -> None:
    fleet = Fleet(training("one", goal=1), training("two", goal=2, minimum=2))
    fleet.arrive("a")
    assert waiting(fleet, "one") == "", "its round goes on"
    assert waiting(fleet, "two") == "waiting for 2 of 2 devices; 1 known device: 1 working for task one"


def test_a_round_that_waits_for_reports_says_whose() -> None:
    fleet = Fleet(training(goal=2, minimum=2, deadline_s=100.0))
    jobs = fleet.arrive_all("ab")
    fleet.now = 1.0
    fleet.answer("a", jobs["a"])
    assert waiting(fleet) == "", "most rounds are over soon"
    fleet.now = 40.0
    fleet.handle(Ticked())
    text = "waiting for 1 of 2 reports of round 1; its deadline is in"
    assert waiting(fleet) == f"{text} 1 min; no answer yet from b (last seen 40 s ago)"
    fleet.arrive("a")
    reason, _ = rejection(run_clock(fleet, 60.0), "a")
    assert reason == f"task train is {text} 40 s"


def test_a_task_that_waits_for_another_names_it() -> None:
    fleet = Fleet(statistics(), training(standardize_by="stats"), evaluation())
    assert waiting(fleet) == "waiting for the result of task stats, which is running"
    assert waiting(fleet, "eval") == "waiting for version 1 of task train, which is running"
    fleet.handle(TaskPaused("train"))
    assert waiting(fleet) == ""


def test_a_wait_is_logged_once_and_seldom_after() -> None:
    fleet = Fleet(training(goal=2, minimum=2))
    fleet.arrive("a")
    assert not of(Notice, run_clock(fleet, NOTICE_S - 0.1))
    effects = run_clock(fleet, NOTICE_S)
    text = "waiting for 1 of 2 devices; 1 known device: 1 waiting"
    assert of(Notice, effects) == [Notice(f"task train round 1: {text}")]
    assert [effect.summary.waiting for effect in of(PublishRound, effects)] == [text]
    hour = [effect for _ in range(60) for effect in (*fleet.arrive("a"), *run_clock(fleet, fleet.now + 60.0))]
    assert len(of(Notice, hour)) <= 2, "in an hour in which nothing changes"
    assert len(of(PublishRound, hour)) <= 2 * 61, "one for each coming and going"
    assert of(Notice, run_clock(fleet, fleet.now + 3 * REPEAT_S)), "and then again"


def test_a_wait_that_changes_is_logged_again_but_not_at_once() -> None:
    fleet = Fleet(training(goal=2, minimum=2))
    fleet.arrive("a")
    run_clock(fleet, NOTICE_S)
    fleet.handle(DeviceGone(fleet.token))
    effects = run_clock(fleet, NOTICE_S + LOG_S - 1.0)
    assert not of(Notice, effects)
    assert "waiting for 2 of 2" in of(PublishRound, effects)[-1].summary.waiting
    (notice,) = of(Notice, run_clock(fleet, 4 * LOG_S))
    assert "1 not seen for" in notice.text


def test_the_short_wait_between_two_rounds_is_not_told() -> None:
    fleet = Fleet(training(goal=2, rounds=3))
    effects: list[Any] = []
    for _ in range(3):
        fleet.now += 1.0
        jobs = fleet.arrive_all("ab")
        for device, job in jobs.items():
            effects += fleet.answer(device, job)
    assert not of(Notice, effects)
    assert all(effect.summary.waiting == "" for effect in of(PublishRound, effects))


def test_a_device_that_waited_in_vain_is_told_why() -> None:
    fleet = Fleet(training(goal=2, minimum=2))
    fleet.arrive("b")
    fleet.handle(DeviceGone(fleet.token))
    fleet.now = 100.0
    fleet.arrive("a")
    reason, _ = rejection(run_clock(fleet, 120.0))
    assert reason == ("task train is waiting for 1 of 2 devices; 2 known devices: 1 waiting, 1 not seen for 2 min")


# ------------------------------------------------------------------------------------------------ who can do what


@pytest.mark.parametrize(
    ("shape", "reason"),
    [
        (ExampleShape(3, 2), "3 features (expected 1)"),
        (ExampleShape(1, 2, DType.UINT8), "uint8 features (expected float32)"),
        (ExampleShape(1, 3), "3 classes (expected at most 2)"),
    ],
)
def test_a_device_of_another_shape_is_never_drawn(shape: ExampleShape, reason: str) -> None:
    fleet = Fleet(training(goal=2, minimum=1))
    text, window = rejection(fleet.arrive("a", shape=shape))
    assert text == f"task 'train' does not fit this device, which has {reason}"
    assert window == RetryWindow(1.0, 3.0)
    jobs = fleet.arrive_all("bc")
    assert sorted(jobs) == ["b", "c"]
    assert not assignments(fleet.arrive("a", shape=shape))


def test_a_device_that_does_not_say_its_shape_or_has_fewer_classes_is_drawn() -> None:
    fleet = Fleet(training(goal=2))
    fleet.arrive("old")
    assert sorted(assignments(fleet.arrive("few", shape=ExampleShape(1, 1)))) == ["few", "old"]


def test_an_evaluation_asks_for_the_shape_of_what_it_evaluates_and_bounds_held_out_examples() -> None:
    fleet = Fleet(training(goal=1, rounds=1), evaluation(goal=1, rounds=1))
    fleet.run_round("a")
    assert "5 features (expected 1)" in rejection(fleet.arrive("b", shape=WIDE), "b")[0]
    assert (
        "100001 held-out examples (max_weight is 100000)" in rejection(fleet.arrive("b", num_held_out=100_001), "b")[0]
    )
    assert assignments(fleet.arrive("b", num_train=200_000)), "which an evaluation does not read"


def test_a_scale_that_means_something_else_does_not_fit() -> None:
    found = ExampleShape(4, 2, DType.UINT8, Quantization(0.5))
    wanted = replace(found, quantization=Quantization(0.25, 3))
    assert misfit(found, found) == ""
    assert misfit(found, wanted) == ("features of scale 0.5 and zero point 0 (expected scale 0.25 and zero point 3)")


def test_the_population_is_counted_as_devices_come() -> None:
    """Equal to a count over all of them, whatever they said before."""
    fleet = Fleet(training(goal=9))
    devices = fleet.server.coordinator._devices
    says: list[tuple[str, dict[str, Any], int]] = [
        ("a", {}, 1),
        ("b", {"num_train": 0}, 1),
        ("b", {"num_train": 5}, 2),
        ("c", {"population": "q"}, 2),
        ("a", {"shape": WIDE}, 1),
        ("c", {}, 2),
        ("c", {"population": "q"}, 1),
        ("a", {"num_train": 100_001}, 1),
        ("a", {}, 2),
    ]
    for device, said, able in says:
        fleet.arrive(device, **said)
        assert devices.num_able("train") == able
    fleet.server.handle(TaskCreated(training("later"), ""), 0.0)
    assert devices.num_able("later") == 2
    fleet.server.restart()
    assert fleet.server.coordinator._devices.num_able("train") == 2


# ------------------------------------------------------------------------------------------------ creating tasks


def create(fleet: Fleet, *, check: bool = True, **changes: Any) -> None:
    spec = training("new", **changes.pop("round", {}))
    fleet.handle(TaskCreated(replace(spec, **changes), "text", check_devices=check))


def test_a_population_that_no_device_has_named_is_refused_with_the_near_one() -> None:
    fleet = Fleet()
    fleet.arrive("a", population="watch")
    with pytest.raises(ConfigError, match=r"'wacth', which no device has named; did you mean 'watch'\?; .* --anyway"):
        create(fleet, population="wacth")
    create(fleet, population="wacth", check=False)
    assert waiting(fleet, "new").endswith("no device of population wacth has checked in yet; did you mean 'watch'?")


def test_without_any_known_device_every_population_is_taken() -> None:
    fleet = Fleet()
    create(fleet)
    assert waiting(fleet, "new") == "waiting for 1 of 1 device; no device of population p has checked in yet"


def test_a_task_that_none_of_the_known_devices_can_do_is_refused() -> None:
    fleet = Fleet()
    fleet.arrive("a", shape=WIDE)
    fleet.arrive("b", shape=WIDE)
    with pytest.raises(ConfigError, match=r"fits none of the 2 known devices .*: 2 with 5 features \(expected 1\);"):
        create(fleet)
    fleet.arrive("b", num_train=200_000)
    with pytest.raises(ConfigError, match=r"1 with 200000 training examples \(max_weight is 100000\)"):
        create(fleet)
    assert not fleet.server.coordinator.tasks()
    fleet.arrive("c", num_train=0)
    create(fleet)  # c's examples may come


def test_a_device_that_fits_is_enough_for_a_task_to_be_taken() -> None:
    fleet = Fleet()
    fleet.arrive("a", shape=WIDE)
    fleet.arrive("old")
    create(fleet)
    assert "1 with 5 features (expected 1)" in waiting(fleet, "new")


# ------------------------------------------------------------------------------------------------ devices


def states(fleet: Fleet) -> dict[str, DeviceState]:
    return {view.record.device: view.state for view in fleet.server.coordinator.devices()}


def test_a_device_waits_works_idles_and_is_away() -> None:
    fleet = Fleet(training(goal=1, rounds=1, deadline_s=1000.0))
    fleet.arrive("x", population="q")
    jobs = fleet.arrive_all("a")
    (a,) = [view for view in fleet.server.coordinator.devices() if view.record.device == "a"]
    assert a.works_for is not None
    assert (a.state, a.works_for.task, a.works_for.round_num) == (DeviceState.WORKING, "train", 1)
    assert states(fleet)["x"] is DeviceState.IDLE
    fleet.now = 3.0 + GRACE_S  # what x was told at the latest, and some grace
    fleet.handle(Ticked())
    assert states(fleet) == {"a": DeviceState.WORKING, "x": DeviceState.IDLE}
    fleet.now += 0.1
    fleet.handle(Ticked())
    assert states(fleet)["x"] is DeviceState.AWAY
    fleet.answer("a", jobs["a"])
    assert states(fleet)["a"] is DeviceState.IDLE
    waits = Fleet(training(goal=2))
    waits.arrive("a")
    assert states(waits) == {"a": DeviceState.WAITING}
    waits.now = 9.0
    waits.handle(Ticked())
    (view,) = waits.server.coordinator.devices()
    assert view.record.seen_ago_s == 0.0, "its call is open"


def test_that_a_device_was_heard_of_is_written_seldom() -> None:
    fleet = Fleet(training(goal=2, minimum=2))
    writes = 0
    for number in range(100):
        fleet.now = number * SEEN_EVERY_S / 50
        writes += len(of(SaveDevice, fleet.arrive("a")))
    assert writes == 2, "in half an hour of a hundred check-ins: its first, and one after a quarter"
    assert len(of(SaveDevice, fleet.handle(Draining()))) == 1, "a server that stops writes what it knows"


def test_a_restarted_server_knows_when_devices_were_heard_of_and_what_failed() -> None:
    fleet = Fleet(training(goal=2))
    fleet.arrive_all("ab")
    fleet.report("a", failure())
    record = replace(fleet.server.coordinator.devices()[0].record, seen_ago_s=500.0)
    fleet.server.store.devices["a"] = record
    fleet.now = 7.0
    fleet.server.restart(7.0)
    view = fleet.server.coordinator.devices()[0]
    assert (view.state, view.record.seen_ago_s) == (DeviceState.WORKING, 500.0) or view.record.seen_ago_s == 500.0
    assert view.record.error is not None
    assert (view.record.error.kind, view.record.error.message) == ("WorkStopped", "too hot")
    run_clock(fleet, 7.0 + GRACE_S + 0.1)
    assert states(fleet)["b"] is not DeviceState.WAITING


def test_a_failing_device_shows_its_last_error_and_its_age() -> None:
    fleet = Fleet(training(goal=2))
    fleet.arrive_all("ab")
    fleet.report("a", failure(message="disk full"))
    fleet.now = 12.0
    fleet.handle(Ticked())
    error = fleet.server.coordinator.devices()[0].record.error
    assert error is not None
    assert (error.kind, error.message, error.ago_s) == ("WorkStopped", "disk full", 12.0)
    assert fleet.server.coordinator.devices()[1].record.error is None


# ------------------------------------------------------------------------------------------------ two of one name


def test_two_agents_of_one_name_are_said_once_and_do_not_chase_each_other() -> None:
    """Two folders, one name, equal session counters: 1,345 check-ins in 13 s, and no word of it."""
    fleet = Fleet(training(goal=2, minimum=2))
    fleet.arrive("a", instance=1)
    check_ins, notices, now = 0, [], 0.0
    due = {2: 0.0}
    while now < 13.0 and check_ins < 100:
        instance, now = min(due.items(), key=lambda item: item[1])
        fleet.now = now
        effects = fleet.arrive("a", instance=instance)
        check_ins += 1
        notices += of(Notice, effects)
        (_, window) = rejection(effects)  # the other one's check-in was answered
        del due[instance]
        due[3 - instance] = now + window.min_s
    assert check_ins <= 4
    assert [notice.text for notice in notices if "two agents" in notice.text] == [
        "device a: two agents use this name, and each takes the other's place; stop one of them, or give it a name and "
        "a state_dir of its own"
    ]
    (view,) = fleet.server.coordinator.devices()
    assert view.twins
    assert "a runs twice" in waiting(fleet)
    assert "the name a is used by two agents" in fleet.server.coordinator.standing("train")[1]


def test_an_agent_that_starts_anew_is_no_twin_of_itself() -> None:
    fleet = Fleet(training(goal=2, minimum=2))
    for session in range(1, 6):
        fleet.arrive("a", instance=100 + session, session=session)
        fleet.arrive("a", instance=100 + session, session=session)
    assert not fleet.server.coordinator.devices()[0].twins
    fleet.arrive("a", instance=104, session=4)
    assert fleet.server.coordinator.devices()[0].twins, "the one before is still there"


def test_an_older_agent_that_says_no_instance_is_no_twin() -> None:
    fleet = Fleet(training(goal=2, minimum=2))
    for instance in (0, 7, 0, 7):
        fleet.arrive("a", instance=instance, session=5 if instance else 4)
    assert not fleet.server.coordinator.devices()[0].twins


def test_both_twins_may_answer_and_one_counts() -> None:
    fleet = Fleet(training(goal=1, rounds=1))
    job = fleet.arrive("a", instance=1)
    again = fleet.arrive("a", instance=2)
    assert assignments(job)["a"] == assignments(again)["a"]
    fleet.answer("a", assignments(job)["a"])
    assert fleet.task().status is TaskStatus.COMPLETED
    assert [sequence for sequence, _ in fleet.server.store.ledger.values()] == [Accepted(1).sequence]
