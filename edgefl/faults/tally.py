"""What runs add up to: rounds, updates, faults, durations and bytes.

A run's tally is filled while it goes; what the ledger says is read at its end. ``Totals`` adds runs, and gives figures
for people and programs.
"""

from __future__ import annotations

import math
import sqlite3
from array import array
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from edgefl.faults.checks import Promises

RoundKey = tuple[str, int]


@dataclass
class Tally:
    """One run. Bytes are those of serialized messages and downloads, lost and repeated ones among them.

    ``faults``: how often each kind struck. ``virtual_s``: how long the run took by its own clock.
    """

    faults: Counter[str] = field(default_factory=Counter)
    device_bytes: int = 0
    server_bytes: int = 0
    virtual_s: float = 0.0
    committed: int = 0
    abandoned: int = 0
    acknowledged: int = 0
    counted: int = 0
    not_counted: int = 0
    late: int = 0
    lost: int = 0
    durations_s: list[float] = field(default_factory=list)
    _begun: dict[RoundKey, float] = field(default_factory=dict)
    _ended: dict[RoundKey, float] = field(default_factory=dict)

    def begins(self, key: RoundKey, now: float) -> None:
        """The cohort is drawn. After a power cut that forgot it the round begins anew, and its time runs on."""
        self._begun.setdefault(key, now)

    def ends(self, key: RoundKey, now: float) -> None:
        """The round ends, as far as its server knows: the last word on a round is the durable one."""
        self._ended[key] = now

    def close(self, db: sqlite3.Connection, promises: Promises, now: float) -> None:
        """The run is over, and all its rounds: ``db`` is what it left."""
        self.virtual_s = now
        self.acknowledged, self.late = len(promises.sequences), len(promises.late)
        phases = {(task, number): phase for task, number, phase in db.execute("SELECT task, round, phase FROM rounds")}
        self.committed = sum(phase == "committed" for phase in phases.values())
        self.abandoned = sum(phase == "abandoned" for phase in phases.values())
        for task, number, device, counted in db.execute("SELECT task, round, device, counted FROM reports"):
            if (task, number, device) in promises.sequences:
                self.counted += counted
                self.not_counted += not counted and phases.get((task, number)) == "abandoned"
        self.lost = self.acknowledged - self.counted - self.not_counted
        self.durations_s = [
            self._ended[key] - self._begun[key] for key, phase in phases.items() if phase == "committed"
        ]


_UPDATES = ("acknowledged", "counted", "not_counted", "late", "lost")
_SUMS = ("committed", "abandoned", *_UPDATES, "device_bytes", "server_bytes")


class Totals:
    """All runs so far that kept every invariant, in sums: there may be millions. Of one that did not, what it lost."""

    def __init__(self) -> None:
        self.runs = 0
        self.faults: Counter[str] = Counter()
        self._sums: Counter[str] = Counter()
        self._round_s = array("d")
        self._run_s = array("d")

    def add(self, run: Tally) -> None:
        self.runs += 1
        self.faults.update(run.faults)
        self._sums.update({name: getattr(run, name) for name in _SUMS})
        self._round_s.extend(run.durations_s)
        self._run_s.append(run.virtual_s)

    def add_lost(self, count: int) -> None:
        """A run that broke an invariant lost so many acknowledged updates."""
        self._sums["lost"] += count

    def total(self, name: str) -> int:
        return self._sums[name]

    @property
    def round_s(self) -> dict[str, float] | None:
        """How long committed rounds took from the draw of their cohort, restarts included; virtual seconds."""
        return _spread(self._round_s)

    @property
    def run_s(self) -> dict[str, float] | None:
        """How long runs took from the first task's creation to the last task's end; virtual seconds."""
        return _spread(self._run_s)

    def as_dict(self) -> dict[str, object]:
        return {
            "rounds": {name: self.total(name) for name in ("committed", "abandoned")},
            "updates": {name: self.total(name) for name in _UPDATES},
            "faults": dict(self.faults),
            "round_s": self.round_s,
            "run_s": self.run_s,
            "bytes": {"devices": self.total("device_bytes"), "servers": self.total("server_bytes")},
        }

    def rows(self) -> list[tuple[str, str]]:
        """For people: what was counted, and how often."""
        rows = [
            ("rounds committed", f"{self.total('committed'):,}"),
            ("rounds abandoned", f"{self.total('abandoned'):,}"),
            ("updates acknowledged", f"{self.total('acknowledged'):,}"),
            ("of these counted in a committed round", f"{self.total('counted'):,}"),
            ("of these in an abandoned round, which counts none", f"{self.total('not_counted'):,}"),
            ("of these lost", f"{self.total('lost'):,}"),
            ("updates answered LATE", f"{self.total('late'):,}"),
            ("a committed round took", _seconds(self.round_s)),
            ("a run took", _seconds(self.run_s)),
            ("sent by devices", f"{self.total('device_bytes') / 1e6:,.2f} MB"),
            ("sent by servers", f"{self.total('server_bytes') / 1e6:,.2f} MB"),
        ]
        return rows + [(f"fault: {name}", f"{count:,}") for name, count in sorted(self.faults.items())]


def _spread(values: Sequence[float]) -> dict[str, float] | None:
    """Nearest-rank percentiles, to a millisecond; None of nothing."""
    if not values:
        return None
    ordered = sorted(values)
    ranks = {"median": 0.5, "p90": 0.9, "max": 1.0}
    return {name: round(ordered[math.ceil(share * len(ordered)) - 1], 3) for name, share in ranks.items()}


def _seconds(spread: dict[str, float] | None) -> str:
    if spread is None:
        return "none"
    return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in spread.items()) + " (virtual)"
