"""What one seed means: how large the fleet is, what its tasks are, and which faults come when.

Everything is drawn before the run, each kind of fault from its own stream, so that a fault that is left out (to shrink
a failure) changes no draw of the others.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Collection
from dataclasses import dataclass, replace

from edgefl.protocol.task import TaskSpec, parse_task

DEADLINE_S = 40.0
SELECTION_S = 5.0
FAULTS_END_S = 30.0
"""The faults stop here; without them, all rounds of a run take some 15 s."""


class Kind(enum.Enum):
    """``after``: at which of the points that follow (writes, syncs, deliveries, effects) the fault strikes."""

    SERVER_KILL = "server-kill"
    SERVER_POWER = "server-power"
    SYNC_ERROR = "sync-error"
    WRITE_ERROR = "write-error"
    DISK_FULL = "disk-full"
    TAKEOVER = "takeover"
    DEVICE_KILL = "device-kill"
    DEVICE_POWER = "device-power"
    CARD_FULL = "card-full"
    CARD_ERROR = "card-error"
    PARTITION = "partition"
    WALL_CLOCK = "wall-clock"
    LOSS = "loss"
    COPIES = "copies"
    DELAY = "delay"
    CLONE = "clone"
    OLD_OFFER = "old-offer"


@dataclass(frozen=True)
class Fault:
    at: float
    kind: Kind
    who: int = 0
    after: int = 0
    lasts_s: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind.value} who={self.who} after={self.after} lasts={self.lasts_s:.1f}"


@dataclass(frozen=True)
class Scenario:
    """``loss``, ``copies``, ``delay``, ``old_offer``: probabilities for each message, until the faults end.

    ``old_offer``: an answer offers the releases of the run's beginning, as a server restored from a backup does.
    """

    seed: int
    num_devices: int
    goal: int
    minimum: int
    over_selection: float
    rounds: int
    retention: int
    checkpoint_pages: int
    loss: float
    copies: float
    delay: float
    old_offer: float
    clone: bool
    faults: tuple[Fault, ...]
    releases: tuple[float, ...]

    @property
    def definitions(self) -> tuple[tuple[TaskSpec, str], ...]:
        return tuple((parse(text), text) for text in (self._text("train"), self._text("eval")))

    def _text(self, name: str) -> str:
        own = "[model]\nnum_features = 1\nnum_classes = 2\n[client]\nlearning_rate = 0.1\n" if name == "train" else ""
        return (
            f'name = "{name}"\npopulation = "p"\nrounds = {self.rounds}\n'
            + ('kind = "training"\n' if own else 'kind = "evaluation"\nevaluates = "train"\n')
            + f"[round]\ngoal = {self.goal}\nminimum = {self.minimum}\nover_selection = {self.over_selection}\n"
            + f"selection_s = {SELECTION_S}\ndeadline_s = {DEADLINE_S}\n"
            + own
        )


_PARSED: dict[str, TaskSpec] = {}


def parse(text: str, source: str = "a scenario") -> TaskSpec:
    """``parse_task``, which is pure, remembered: it takes longer than all that a restart does."""
    if text not in _PARSED:
        _PARSED[text] = parse_task(text, source)
    return _PARSED[text]


_MOST: dict[Kind, tuple[int, int]] = {
    Kind.SERVER_KILL: (3, 60),
    Kind.SERVER_POWER: (3, 60),
    Kind.SYNC_ERROR: (2, 6),
    Kind.WRITE_ERROR: (1, 30),
    Kind.DISK_FULL: (1, 0),
    Kind.TAKEOVER: (1, 0),
    Kind.DEVICE_KILL: (4, 12),
    Kind.DEVICE_POWER: (4, 12),
    Kind.CARD_FULL: (1, 6),
    Kind.CARD_ERROR: (1, 6),
    Kind.PARTITION: (1, 0),
    Kind.WALL_CLOCK: (2, 0),
}
"""For each kind that strikes at a time: how many at most, and the range of ``after``."""


def scenario(seed: int, without: Collection[Kind] = (), until: float = FAULTS_END_S) -> Scenario:
    """The scenario of ``seed``; ``without`` and ``until`` leave faults out and change nothing else."""
    chance = random.Random(seed)
    num_devices = chance.randint(3, 6)
    goal = chance.randint(2, num_devices)
    base = Scenario(
        seed=seed,
        num_devices=num_devices,
        goal=goal,
        minimum=chance.randint(1, (goal + 1) // 2),
        over_selection=chance.choice([1.0, 1.0, 1.3]),
        rounds=chance.randint(3, 5),
        retention=chance.choice([1, 2, 100]),
        checkpoint_pages=chance.choice([5, 20, 1000]),
        loss=chance.choice([0.0, 0.05, 0.2]),
        copies=chance.choice([0.0, 0.1, 0.3]),
        delay=chance.choice([0.0, 0.1]),
        old_offer=chance.choice([0.0, 0.1]),
        clone=chance.random() < 0.2,
        faults=(),
        releases=tuple(sorted(chance.uniform(0.0, FAULTS_END_S) for _ in range(chance.randint(0, 3)))),
    )
    faults: list[Fault] = []
    for kind, (most, after) in _MOST.items():
        own = random.Random(f"{seed} {kind.value}")
        # Early times are likelier: that is where the rounds are.
        count = own.randint(0, most)
        for _ in range(count):
            at = FAULTS_END_S * own.random() ** 2
            faults.append(Fault(at, kind, own.randrange(1000), own.randint(0, after), own.uniform(1.0, 10.0)))
    kept = sorted((f for f in faults if f.kind not in without and f.at < until), key=lambda f: f.at)
    return replace(
        base,
        faults=tuple(kept),
        loss=0.0 if Kind.LOSS in without else base.loss,
        copies=0.0 if Kind.COPIES in without else base.copies,
        delay=0.0 if Kind.DELAY in without else base.delay,
        old_offer=0.0 if Kind.OLD_OFFER in without else base.old_offer,
        clone=base.clone and Kind.CLONE not in without,
    )
