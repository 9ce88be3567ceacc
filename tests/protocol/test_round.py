"""The server's machine of one round (design §5): selection, closing, abandoning, the round's part of the gate."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from protocol_kit import failure, pack, update

from edgefl.errors import InvalidUpdateError, LocalProtocolError, UpdateRefusal
from edgefl.protocol.events import (
    Phase,
    RoundRecord,
    SaveAbandon,
    SaveCommit,
    SaveFailure,
    SaveReport,
    SaveSelection,
    TaskStatus,
)
from edgefl.protocol.messages import AlreadyAccepted, Late
from edgefl.protocol.process import ProcessState, RoundMetrics
from edgefl.protocol.round import (
    TRANSITIONS,
    BaseModel,
    CandidatesWaiting,
    MemberFailed,
    RoundEnded,
    RoundEvent,
    RoundFinalized,
    RoundState,
    TimePassed,
    UpdateAccepted,
    admit,
    restore,
    selection_size,
    step,
)
from edgefl.protocol.sampling import draw_cohort
from edgefl.protocol.task import RoundSpec
from edgefl.randomness import COHORT, derive_key

BASE = BaseModel(0, "d" * 64, 8)
UPDATE = update("d" * 64)
SPEC = RoundSpec(goal=3, minimum=2, over_selection=1.5, selection_s=10.0, deadline_s=60.0)
ALL = tuple("abcde")
"""As many as the cohort of ``SPEC`` holds: all of them are members."""


def opened() -> RoundState:
    return RoundState("train", 7, SPEC, 1)


def run(state: RoundState, *events: RoundEvent, now: float = 0.0) -> RoundState:
    for event in events:
        state, _ = step(state, event, now)
    return state


def collecting() -> RoundState:
    return run(opened(), CandidatesWaiting(ALL, BASE))


def report(sequence: int, device: str) -> UpdateAccepted:
    return UpdateAccepted(sequence, device, UPDATE)


FINALIZED = RoundFinalized(ProcessState(1, pack(5)), RoundMetrics(3, 3, 30, 0, 0.0), TaskStatus.RUNNING)

# ------------------------------------------------------------------------------------------------ selection


def test_a_round_selects_when_the_candidates_fill_the_cohort() -> None:
    """ceil(3 x 1.5) = 5 devices."""
    state = run(opened(), CandidatesWaiting(ALL[:4], BASE))
    assert state.phase is Phase.OPEN
    state, effects = step(state, CandidatesWaiting(ALL, BASE), 3.0)
    assert state.phase is Phase.COLLECTING
    assert sorted(state.cohort) == list(ALL)
    assert state.deadline_at == 63.0
    assert effects == (SaveSelection(RoundRecord("train", 1, ALL, state.cohort, 0, 60.0)),)


def test_a_round_goes_on_with_its_minimum_when_the_first_candidate_has_waited() -> None:
    state = run(opened(), CandidatesWaiting(("a",), BASE), now=100.0)
    state = run(state, CandidatesWaiting(("a", "b"), BASE), now=109.9)
    assert (state.phase, selection_size(state, 109.9), selection_size(state, 110.0)) == (Phase.OPEN, 5, 2)
    assert run(state, CandidatesWaiting(("a",), BASE), now=111.0).phase is Phase.OPEN, "below the minimum"
    assert run(state, CandidatesWaiting(("a", "b"), BASE), now=110.0).phase is Phase.COLLECTING


def test_the_wait_starts_again_when_no_candidate_is_left_but_the_claim_does_not() -> None:
    state = run(opened(), CandidatesWaiting(("a",), BASE), now=100.0)
    state = run(state, CandidatesWaiting((), BASE), now=105.0)
    assert (state.waiting_since, state.claim_until) == (None, 110.0)
    state = run(state, CandidatesWaiting(("a", "b"), BASE), now=112.0)
    assert (state.phase, state.waiting_since, state.claim_until) == (Phase.OPEN, 112.0, 110.0)


@given(st.sets(st.text("abcdefghijk-0123456789", min_size=1, max_size=8), min_size=1, max_size=30), st.data())
def test_the_cohort_is_a_pure_function_of_seed_round_and_candidates(names: set[str], data: st.DataObject) -> None:
    seed, round_num = data.draw(st.integers(0, 2**63 - 1)), data.draw(st.integers(1, 2**32 - 1))
    size = data.draw(st.integers(1, 30))
    shuffled = data.draw(st.permutations(sorted(names)))
    cohort = draw_cohort(seed, round_num, shuffled, size)
    assert cohort == draw_cohort(seed, round_num, sorted(names), size)
    keys = [derive_key(seed, round_num, device, COHORT) for device in cohort]
    assert keys == sorted(derive_key(seed, round_num, device, COHORT) for device in names)[:size]


def test_another_round_or_seed_draws_others() -> None:
    names = [f"device-{n}" for n in range(100)]
    draws = {draw_cohort(seed, number, names, 10) for seed in (1, 2) for number in (1, 2, 3)}
    assert len(draws) == 6


# ------------------------------------------------------------------------------------------------ closing


def test_it_closes_at_the_goal_and_counts_in_ledger_order() -> None:
    state = collecting()
    for sequence, device in enumerate(("e", "b"), start=11):
        state, effects = step(state, report(sequence, device), 1.0)
        assert effects == (SaveReport(sequence, device, UPDATE),)
        assert state.phase is Phase.COLLECTING
    state = run(state, report(13, "a"))
    assert state.phase is Phase.CLOSING
    assert admit(state, "c", UPDATE) == Late()
    state, effects = step(state, FINALIZED, 1.0)
    assert state.phase is Phase.COMMITTED
    counted = ("e", "b", "a")
    assert effects == (SaveCommit("train", 1, counted, FINALIZED.state, FINALIZED.metrics, TaskStatus.RUNNING),)
    assert (state.version, state.summary.version, state.summary.accepted) == (1, 1, 3)


def test_it_closes_when_all_have_answered_and_the_minimum_is_met() -> None:
    state = run(collecting(), report(1, "a"), report(2, "b"), *(MemberFailed(d, failure()) for d in "cd"))
    assert state.phase is Phase.COLLECTING
    assert run(state, MemberFailed("e", failure())).phase is Phase.CLOSING


def test_a_population_smaller_than_its_goal_closes_when_all_have_reported() -> None:
    state = run(opened(), CandidatesWaiting(("a", "b"), BASE))
    state = run(state, CandidatesWaiting(("a", "b"), BASE), now=10.0)
    assert run(state, report(1, "a"), report(2, "b"), now=11.0).phase is Phase.CLOSING


def test_at_the_deadline_the_minimum_decides() -> None:
    one = run(collecting(), report(1, "a"))
    two = run(one, report(2, "b"))
    for state in (one, two):
        assert run(state, TimePassed(), now=59.9) == state
    assert run(two, TimePassed(), now=60.0).phase is Phase.CLOSING
    over, effects = step(one, TimePassed(), 60.0)
    assert over.phase is Phase.ABANDONED
    assert over.reason == "1 of at least 2 reports at the deadline"
    assert effects == (SaveAbandon("train", 1, over.reason),)


def test_it_is_abandoned_as_soon_as_the_minimum_is_out_of_reach() -> None:
    state = run(collecting(), *(MemberFailed(d, failure()) for d in "abc"))
    assert state.phase is Phase.COLLECTING
    state, effects = step(state, MemberFailed("d", failure()), 1.0)
    assert state.phase is Phase.ABANDONED
    assert effects[0] == SaveFailure("d", failure())
    assert isinstance(effects[1], SaveAbandon)


def test_an_ended_round_is_abandoned_and_a_closing_one_may_be() -> None:
    state = collecting()
    assert run(state, RoundEnded("the task was ended")).phase is Phase.ABANDONED
    closing = run(state, report(1, "a"), report(2, "b"), report(3, "c"))
    over, effects = step(closing, RoundEnded("KernelError"), 0.0)
    assert (over.phase, effects) == (Phase.ABANDONED, (SaveAbandon("train", 1, "KernelError"),))


def test_an_update_after_a_failure_is_taken() -> None:
    state = run(collecting(), MemberFailed("a", failure()))
    assert not state.awaits("a")
    state = run(state, report(1, "a"))
    assert (list(state.accepted), state.num_failed, state.outstanding) == (["a"], 0, 4)


# ------------------------------------------------------------------------------------------------ the gate


def refusal(state: RoundState, device: str, **changes: object) -> UpdateRefusal:
    with pytest.raises(InvalidUpdateError) as caught:
        admit(state, device, replace(UPDATE, **changes))  # type: ignore[arg-type]
    return caught.value.reason


def test_the_rounds_part_of_the_gate_in_its_order() -> None:
    state = collecting()
    assert refusal(opened(), "a") is UpdateRefusal.WRONG_ROUND, "not selected yet"
    assert refusal(state, "x", round_num=2, base_model_digest="") is UpdateRefusal.WRONG_ROUND
    assert refusal(state, "x", base_model_digest="") is UpdateRefusal.NOT_ASSIGNED
    assert refusal(state, "a", base_model_digest="") is UpdateRefusal.WRONG_BASE_MODEL
    assert admit(state, "a", UPDATE) is None
    state = run(state, report(9, "a"))
    assert refusal(state, "a", base_model_digest="") is UpdateRefusal.WRONG_BASE_MODEL
    assert admit(state, "a", UPDATE) == AlreadyAccepted(9)


def test_a_round_that_is_over_answers_the_first_sequence_or_late() -> None:
    state = run(collecting(), report(4, "a"))
    for over in (run(state, TimePassed(), now=60.0), run(state, report(5, "b"), report(6, "c"), FINALIZED)):
        assert admit(over, "a", UPDATE) == AlreadyAccepted(4)
        assert admit(over, "e", UPDATE) == Late()


# ------------------------------------------------------------------------------------------------ the table


ONE_OF_EACH: tuple[RoundEvent, ...] = (
    CandidatesWaiting(ALL, BASE),
    report(99, "a"),
    MemberFailed("a", failure()),
    TimePassed(),
    FINALIZED,
    RoundEnded("no"),
)


def test_an_event_outside_the_table_raises() -> None:
    small = collecting()
    closing = run(small, report(1, "a"), report(2, "b"), report(3, "c"))
    states = (opened(), small, closing, run(closing, FINALIZED), run(small, RoundEnded("no")))
    assert {state.phase for state in states} == set(Phase)
    for state in states:
        for event in ONE_OF_EACH:
            if type(event) not in TRANSITIONS[state.phase]:
                with pytest.raises(LocalProtocolError, match=type(event).__name__):
                    step(state, event, 0.0)


def test_a_report_that_did_not_pass_the_gate_is_our_own_bug() -> None:
    state = run(collecting(), report(5, "a"))
    for wrong in (report(6, "a"), report(6, "x"), report(5, "b"), MemberFailed("a", failure())):
        with pytest.raises(LocalProtocolError):
            step(state, wrong, 0.0)


# ------------------------------------------------------------------------------------------------ restoring


def test_a_restored_round_gets_its_remaining_time_afresh() -> None:
    record = RoundRecord("train", 1, tuple("abcde"), tuple("abcde"), 0, 42.0, ((3, "a", UPDATE),), ("a", "b"))
    state = restore(record, 7, SPEC, BASE, 1000.0)
    assert (state.deadline_at, dict(state.accepted), state.num_failed) == (1042.0, {"a": 3}, 1)
    assert not state.awaits("a")
    assert not state.awaits("b")
    assert state.awaits("c")


@given(st.lists(st.tuples(st.sampled_from("abcdex"), st.booleans()), max_size=30), st.integers(0, 80))
def test_counted_reports_are_the_first_goal_accepted_ones(answers: list[tuple[str, bool]], end: int) -> None:
    """I2, over any order of reports and failures: accepted exactly once, never more than the goal, ledger order."""
    state, ledger = collecting(), []
    for number, (device, good) in enumerate(answers):
        if good:
            try:
                admitted = admit(state, device, UPDATE)
            except InvalidUpdateError:
                continue
            if admitted is None:
                ledger.append(device)
                state = run(state, report(number + 1, device))
        elif state.awaits(device):
            state = run(state, MemberFailed(device, failure()))
    if state.phase is Phase.COLLECTING:
        state = run(state, TimePassed(), now=float(end))
    assert tuple(state.accepted) == tuple(ledger)
    assert len(set(ledger)) == len(ledger) <= SPEC.goal
    if state.phase is Phase.CLOSING:
        assert len(ledger) >= SPEC.minimum
        assert step(state, FINALIZED, 0.0)[1][0].counted == tuple(ledger)  # type: ignore[union-attr]
    elif state.phase is Phase.COLLECTING:
        assert end < SPEC.deadline_s
        assert len(ledger) < SPEC.goal
        assert state.outstanding > 0
    else:
        assert len(ledger) < SPEC.minimum
