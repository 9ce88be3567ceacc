"""What a faults file may say: how a fleet is broken, and for how long. Every key has a default.

Three kinds of values: a *number of faults* is the most of that kind in one run (each run draws 0 to that many, at
times of its own); a *list of choices* (probabilities, mostly) is one of which each run draws one; a *range* is
``[lowest, highest]``, of which every single event draws anew. Times are virtual seconds.

``faults.toml`` next to this module shows every key with its default.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from edgefl.errors import ConfigError
from edgefl.settings import parse_toml, read_toml

MOST = 1000
"""Of one kind of fault in one run. A fleet that is hit more often does nothing else."""

MAX_S = 1e6
"""Longest time: some eleven virtual days."""


@dataclass(frozen=True)
class NetworkFaults:
    """``loss``, ``copies``, ``delay``: choices of the probability that a message is lost, arrives twice, is delayed.

    ``latency_s``: every message takes a time of its own from this range, so messages overtake each other.
    ``delay_s``: how much a delayed one takes instead. ``partitions``: a part of the devices is cut off for a while.
    ``uploads``: the probability that a run's updates come in pieces before their reports, as those do that are too
    large for one; what waits for its report is not durable.
    """

    loss: tuple[float, ...] = (0.0, 0.05, 0.2)
    copies: tuple[float, ...] = (0.0, 0.1, 0.3)
    delay: tuple[float, ...] = (0.0, 0.1)
    delay_s: tuple[float, ...] = (1.0, 12.0)
    latency_s: tuple[float, ...] = (0.01, 0.1)
    partitions: int = 1
    uploads: float = 0.0

    def __post_init__(self) -> None:
        for name in ("loss", "copies", "delay"):
            _check_probabilities(name, getattr(self, name))
        _check_probabilities("uploads", (self.uploads,))
        for name in ("delay_s", "latency_s"):
            _check_range(name, getattr(self, name), 0.0, MAX_S)
        _check_count("partitions", self.partitions)


@dataclass(frozen=True)
class ServerFaults:
    """``kills``: the process; ``power_cuts``: the machine. Both strike between any two steps. ``restarts``: the process
    is told to stop; it drains, closes its files and is started again.

    ``write_errors``, ``sync_errors``: EIO of a write or an fsync. ``disk_full``: for a while no write succeeds.
    ``takeovers``: a second server opens the database while the first lives (a lock that does not work).
    ``old_offers``: choices of the probability that an answer offers the first releases, as after a restored backup.
    ``pauses``, ``releases``: how often an operator pauses a task for a while, how many releases one makes.
    ``retention_rounds``, ``checkpoint_pages``: choices, as of a server.
    """

    kills: int = 3
    power_cuts: int = 3
    restarts: int = 1
    sync_errors: int = 2
    write_errors: int = 1
    disk_full: int = 1
    takeovers: int = 1
    old_offers: tuple[float, ...] = (0.0, 0.1)
    pauses: int = 1
    releases: int = 3
    retention_rounds: tuple[int, ...] = (1, 2, 100)
    checkpoint_pages: tuple[int, ...] = (5, 20, 1000)

    def __post_init__(self) -> None:
        for name in ("kills", "power_cuts", "restarts", "sync_errors", "write_errors", "disk_full", "takeovers"):
            _check_count(name, getattr(self, name))
        for name in ("pauses", "releases"):
            _check_count(name, getattr(self, name))
        _check_probabilities("old_offers", self.old_offers)
        for name in ("retention_rounds", "checkpoint_pages"):
            choices = getattr(self, name)
            if not choices or not all(1 <= value <= 1_000_000 for value in choices):
                raise ConfigError(f"{name} is {list(choices)}; expected a list of whole numbers from 1 to 1000000")


@dataclass(frozen=True)
class DeviceFaults:
    """As of a server, for its devices together; ``card_full``, ``card_errors``: ENOSPC or EIO of a device's card.

    ``duplicates``: the probability that a run has a second device of the first one's name (a cloned card).
    """

    kills: int = 4
    power_cuts: int = 4
    card_full: int = 1
    card_errors: int = 1
    duplicates: float = 0.2

    def __post_init__(self) -> None:
        for name in ("kills", "power_cuts", "card_full", "card_errors"):
            _check_count(name, getattr(self, name))
        _check_probabilities("duplicates", (self.duplicates,))


@dataclass(frozen=True)
class DiskFaults:
    """What a power cut of the server does to the writes that were not synced. Probabilities.

    ``lose_all``, ``lose_none``: of a file at once. Otherwise each of its writes is lost with ``lose``. Of a write that
    is kept only the first sectors may be: ``torn``.
    """

    lose_all: float = 0.4
    lose_none: float = 0.1
    lose: float = 0.5
    torn: float = 0.3

    def __post_init__(self) -> None:
        for name in ("lose_all", "lose_none", "lose", "torn"):
            _check_probabilities(name, (getattr(self, name),))
        if self.lose_all + self.lose_none > 1:
            raise ConfigError(f"lose_all {self.lose_all} and lose_none {self.lose_none}; expected at most 1 in all")


@dataclass(frozen=True)
class FaultsConfig:
    """A whole faults file.

    ``until_s``: when the faults end; after that every task must come to its end. Agents wait up to 90 s for an answer,
    so faults that came within a few seconds would all strike the same round.
    ``rounds``: a range: as many rounds each run gives a task, and never more than its definition does.
    ``devices``: how many clients of the data set take part, in the order of their ids; 0 for all.
    ``work_s``: how long a device works for a round. ``lasts_s``: how long a partition, a full disk, a
    takeover, a drain or a pause lasts.
    ``clock_jumps``: the wall clock jumps by up to years, in either direction.
    """

    until_s: float = 300.0
    rounds: tuple[int, ...] = (3, 5)
    devices: int = 0
    work_s: tuple[float, ...] = (0.3, 1.5)
    lasts_s: tuple[float, ...] = (1.0, 10.0)
    clock_jumps: int = 2
    network: NetworkFaults = field(default_factory=NetworkFaults)
    server: ServerFaults = field(default_factory=ServerFaults)
    device: DeviceFaults = field(default_factory=DeviceFaults)
    disk: DiskFaults = field(default_factory=DiskFaults)

    def __post_init__(self) -> None:
        if not 0 <= self.until_s <= MAX_S:
            raise ConfigError(f"until_s is {self.until_s}; expected 0 to {MAX_S:g} seconds")
        if not 0 <= self.devices <= 49_999:
            raise ConfigError(f"devices is {self.devices}; expected 0 (all) to 49999")
        _check_range("rounds", self.rounds, 1, 1_000_000)
        _check_range("work_s", self.work_s, 0.0, MAX_S)
        _check_range("lasts_s", self.lasts_s, 0.0, MAX_S)
        _check_count("clock_jumps", self.clock_jumps)


def load_faults(path: Path) -> FaultsConfig:
    """Read a faults file. Raises ``ConfigError``."""
    return parse_toml(read_toml(path), FaultsConfig, str(path))


def _check_count(name: str, value: int) -> None:
    if not 0 <= value <= MOST:
        raise ConfigError(f"{name} is {value}; expected 0 to {MOST}, the most of them in a run")


def _check_probabilities(name: str, values: tuple[float, ...]) -> None:
    if not values or not all(0 <= value <= 1 for value in values):
        shown = values[0] if len(values) == 1 else list(values)
        raise ConfigError(f"{name} is {shown}; expected probabilities from 0 to 1")


def _check_range(name: str, values: tuple[float, ...], lowest: float, highest: float) -> None:
    if len(values) != 2 or not lowest <= values[0] <= values[1] <= highest:
        raise ConfigError(f"{name} is {list(values)}; expected [low, high] within {lowest:g} to {highest:g}")
