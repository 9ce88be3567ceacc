"""The coordinator hides nothing: all that it knows is in itself, so a copy of it does the same from there on."""

from __future__ import annotations

import copy
import random
from collections.abc import Mapping
from enum import Enum
from typing import Any

import pytest
from protocol_kit import Server, evaluation
from test_protocol_properties import DEVICES, MAX_VALUE, Move, Walk

from edgefl.protocol.events import (
    AnswerCheckIn,
    Effect,
    Event,
    SaveCommit,
    SaveReport,
    SaveSelection,
    SaveTaskStatus,
    SendReceipt,
    TaskCreated,
)
from edgefl.protocol.pace import CoordinatorConfig

KINDS = (*["checkin"] * 5, *["report"] * 6, "stale", "fail", "gone", "tick", "tick")


def plain(value: Any) -> Any:
    """``value`` as text, lists and dicts alone, without what is not state: the two looks into the store."""
    if isinstance(value, Mapping):
        return [(plain(key), plain(value[key])) for key in value]
    if isinstance(value, (set, frozenset)):
        return sorted(repr(plain(one)) for one in value)
    if isinstance(value, (str, bytes, int, float, type, Enum)) or value is None:
        return repr(value)
    if callable(value) and not hasattr(value, "__dict__"):
        return value.__name__
    try:
        return [plain(one) for one in value]
    except TypeError:
        own = getattr(value, "__dict__", {}) or {name: getattr(value, name) for name in getattr(value, "__slots__", ())}
        return type(value).__name__, {name: plain(one) for name, one in own.items()}


class Twice(Server):
    """Hands each event to a copy of the coordinator first: effects and state must be those of the original then."""

    seen: frozenset[type] = frozenset()

    def handle(self, event: Event, now: float = 0.0) -> list[Effect]:
        twin = copy.deepcopy(self.coordinator)
        before = plain(self.coordinator)
        expected = twin.handle(event, now)
        assert plain(self.coordinator) == before, "the copy shares something that changes with the original"
        effects = super().handle(event, now)
        assert effects == expected
        assert plain(self.coordinator) == plain(twin)
        self.seen |= {type(effect) for effect in effects}
        return effects


def moves_of(seed: int) -> list[Move]:
    chance = random.Random(seed)
    return [
        (chance.choice(KINDS), chance.choice(DEVICES), chance.randrange(-MAX_VALUE // 4, MAX_VALUE // 4))
        for _ in range(40)
    ]


@pytest.mark.parametrize("seed", [1, 2])
def test_the_same_events_on_a_copy_give_the_same_effects_and_the_same_state(seed: int) -> None:
    walk = Walk(restarts=False)
    twice = Twice(CoordinatorConfig(max_waiting=4))
    twice.coordinator, twice.store = walk.server.coordinator, walk.server.store
    walk.server = twice
    twice.handle(TaskCreated(evaluation("look", evaluates="train"), ""))
    walk.play(moves_of(seed))
    walk.play([("pause", "a", 0), ("pause", "a", 0)])
    assert {SaveSelection, SaveReport, SaveCommit, SaveTaskStatus, SendReceipt, AnswerCheckIn} <= twice.seen
