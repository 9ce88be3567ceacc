"""What a device remembers of a task, in its session: proposed with an update, adopted only if its round counted it.

    (perhaps) accepted ──> proposal ──counted──> adopted
                               └──not counted──> dropped

Several tasks may have a proposal at once, one each. A check-in asks for one of them; while that is open, the next asks
for another. A device does not work on a task again before it knows what became of its proposal there: it would work
with memory that the server does not count on.

The bytes are opaque here: they belong to the kind of work. SCAFFOLD (``edgefl.learning.scaffold``) is one.

Source: design §5 (what a device learns at its next check-in).
"""

from __future__ import annotations

from dataclasses import replace

from edgefl.protocol.messages import (
    Accepted,
    AlreadyAccepted,
    Assignment,
    ClientUpdate,
    Fate,
    Receipt,
    RoundKey,
)
from edgefl.protocol.session_events import AdoptMemory, DropMemory, SessionEffect
from edgefl.protocol.session_state import SessionState


def propose(state: SessionState, receipt: Receipt | None) -> tuple[SessionState, RoundKey | None]:
    """The report got ``receipt``: the proposal that it makes, if it has memory and may have been accepted.

    It may also where it was refused for good without a receipt (None): an earlier try may have arrived.
    """
    report = state.report
    taken = receipt is None or isinstance(receipt, Accepted | AlreadyAccepted)
    if not taken or not isinstance(report, ClientUpdate) or not report.memory:
        return state, None
    proposal = RoundKey(report.task, report.round_num)
    others = tuple(one for one in state.proposals if one.task != report.task)
    return replace(state, proposals=(*others, proposal)), proposal


def settle(state: SessionState, fate: Fate) -> tuple[SessionState, tuple[SessionEffect, ...]]:
    """A check-in that asked for ``state.asked`` was answered ``fate``."""
    asked = state.asked
    effects: tuple[SessionEffect, ...] = ()
    if asked in state.proposals:
        others = tuple(one for one in state.proposals if one != asked)
        if fate is Fate.OPEN:
            others = (*others, asked)
        else:
            effects = (AdoptMemory(asked) if fate is Fate.COUNTED else DropMemory(asked),)
        state = replace(state, proposals=others)
    if asked.task and fate is not Fate.OPEN and asked == RoundKey(state.last_task, state.last_round):
        state = replace(state, last_task="", last_round=0, last_fate=fate)
    return state, effects


def begin(
    state: SessionState, assignment: Assignment, asked: RoundKey
) -> tuple[SessionState, tuple[SessionEffect, ...], str]:
    """``assignment`` came with the answer to a check-in that asked for ``asked``. The last is why not to begin, or ''.

    An earlier round of its task is over. If its fate is open all the same, the server has forgotten that round.
    """
    if not assignment.plan.memory_bytes:
        return state, (), ""
    for proposal in state.proposals:
        if proposal.task == assignment.task and proposal.round_num < assignment.round_num:
            if proposal != asked:
                return state, (), f"what became of round {proposal.round_num} is not known yet"
            others = tuple(one for one in state.proposals if one != proposal)
            return replace(state, proposals=others), (DropMemory(proposal),), ""
    return state, (), ""
