"""What one seed means: how a run is set up, and which faults come when.

Everything is drawn before the run, each kind of fault from its own stream, so that a fault that is left out (to shrink
a failure) changes no draw of the others.
"""

from __future__ import annotations

import enum
import random
from collections.abc import Collection
from dataclasses import dataclass, replace

from edgefl.errors import ConfigError
from edgefl.faults.config import FaultsConfig


class Kind(enum.Enum):
    """``after``: at which of the points that follow (writes, syncs, deliveries, effects) the fault strikes."""

    SERVER_KILL = "server-kill"
    SERVER_POWER = "server-power"
    RESTART = "restart"
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
    PAUSE = "pause"
    LOSS = "loss"
    COPIES = "copies"
    DELAY = "delay"
    CLONE = "clone"
    OLD_OFFER = "old-offer"


NO_KIND = "none"


def all_but(text: str) -> tuple[Kind, ...]:
    """What ``--only KIND,KIND`` leaves out; ``none`` names no kind. Raises ``ConfigError``."""
    known = {kind.value for kind in Kind}
    kept = set() if text == NO_KIND else set(text.split(","))
    for name in sorted(kept - known):
        raise ConfigError(f"--only names {name!r}; expected {NO_KIND}, or some of {','.join(sorted(known))}")
    return tuple(kind for kind in Kind if kind.value not in kept)


def only(without: Collection[Kind]) -> str:
    """The text of which ``all_but`` makes ``without``."""
    return ",".join(kind.value for kind in Kind if kind not in without) or NO_KIND


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
    ``releases``: when the operator makes one. ``until``: when the faults end.
    ``uploads``: updates come in pieces before their reports, as those do that are too large for a report.
    """

    seed: int
    config: FaultsConfig
    until: float
    rounds: int
    retention: int
    checkpoint_pages: int
    loss: float
    copies: float
    delay: float
    old_offer: float
    clone: bool
    uploads: bool
    faults: tuple[Fault, ...]
    releases: tuple[float, ...]


def _timed(config: FaultsConfig) -> dict[Kind, tuple[int, int]]:
    """For each kind that strikes at a time: how many at most, and the range of ``after``."""
    server, device = config.server, config.device
    return {
        Kind.SERVER_KILL: (server.kills, 60),
        Kind.SERVER_POWER: (server.power_cuts, 60),
        Kind.RESTART: (server.restarts, 0),
        Kind.SYNC_ERROR: (server.sync_errors, 6),
        Kind.WRITE_ERROR: (server.write_errors, 30),
        Kind.DISK_FULL: (server.disk_full, 0),
        Kind.TAKEOVER: (server.takeovers, 0),
        Kind.DEVICE_KILL: (device.kills, 12),
        Kind.DEVICE_POWER: (device.power_cuts, 12),
        Kind.CARD_FULL: (device.card_full, 6),
        Kind.CARD_ERROR: (device.card_errors, 6),
        Kind.PARTITION: (config.network.partitions, 0),
        Kind.WALL_CLOCK: (config.clock_jumps, 0),
        Kind.PAUSE: (server.pauses, 0),
    }


def scenario(seed: int, config: FaultsConfig, without: Collection[Kind] = (), until: float | None = None) -> Scenario:
    """The scenario of ``seed``; ``without`` and ``until`` leave faults out and change nothing else."""
    chance = random.Random(seed)
    network, server = config.network, config.server
    end = config.until_s if until is None else min(until, config.until_s)
    base = Scenario(
        seed=seed,
        config=config,
        until=end,
        rounds=chance.randint(*config.rounds),
        retention=chance.choice(server.retention_rounds),
        checkpoint_pages=chance.choice(server.checkpoint_pages),
        loss=chance.choice(network.loss),
        copies=chance.choice(network.copies),
        delay=chance.choice(network.delay),
        old_offer=chance.choice(server.old_offers),
        clone=chance.random() < config.device.duplicates,
        uploads=random.Random(f"{seed} uploads").random() < network.uploads,
        faults=(),
        releases=tuple(sorted(chance.uniform(0.0, config.until_s) for _ in range(chance.randint(0, server.releases)))),
    )
    faults: list[Fault] = []
    for kind, (most, after) in _timed(config).items():
        own = random.Random(f"{seed} {kind.value}")
        # Early times are likelier: that is where the rounds are.
        count = own.randint(0, most)
        for _ in range(count):
            at = config.until_s * own.random() ** 2
            faults.append(Fault(at, kind, own.randrange(1000), own.randint(0, after), own.uniform(*config.lasts_s)))
    kept = sorted((f for f in faults if f.kind not in without and f.at < end), key=lambda f: f.at)
    return replace(
        base,
        faults=tuple(kept),
        loss=0.0 if Kind.LOSS in without else base.loss,
        copies=0.0 if Kind.COPIES in without else base.copies,
        delay=0.0 if Kind.DELAY in without else base.delay,
        old_offer=0.0 if Kind.OLD_OFFER in without else base.old_offer,
        clone=base.clone and Kind.CLONE not in without,
    )
