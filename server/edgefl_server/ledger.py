"""The ledger: what a store keeps of tasks, rounds and reports, to be read by what checks it and computes it again.

Beside ``edgefl_server.store.Store``, which a server writes. Nothing here changes what is stored, and no rule about it
is applied: a ledger gives what is there, also when it is wrong. All methods raise ``StorageError`` when the medium
fails.
``tests/server/test_ledger_contract.py`` is the contract of every implementation.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from edgefl.protocol.messages import ClientUpdate
from edgefl.protocol.process import ProcessState, RoundConditions


@dataclass(frozen=True)
class StoredTask:
    """``pruned``: payloads are gone up to this round; ``forgotten``: rounds up to this one have left nothing."""

    name: str
    definition: str
    goal: int
    next_round: int
    version: int
    pruned: int
    forgotten: int


@dataclass(frozen=True)
class StoredState:
    """A version, and the round that made it (0: the beginning). ``model_digest``: '' for a task without a model.

    ``startable``: its model and what goes with it were not dropped by retention, so a round can start from it.
    """

    version: int
    round_num: int
    model_digest: str
    startable: bool


@dataclass(frozen=True)
class StoredVersion:
    """A committed version with its round. ``extra``: None where retention dropped it. ``metrics``: JSON."""

    round_num: int
    model_digest: str
    extra: bytes | None
    metrics: str
    conditions: RoundConditions


@dataclass(frozen=True)
class StoredRound:
    """``phase``: a value of ``edgefl.protocol.events.Phase``. ``version``: what it made, 0 for none.

    ``accepted`` and ``failed`` are as counted when it ended. ``candidates`` and ``num_examples`` are empty once older
    than retention.
    """

    round_num: int
    phase: str
    version: int
    accepted: int
    failed: int
    candidates: tuple[str, ...]
    num_examples: tuple[int, ...]
    cohort: tuple[str, ...]


@dataclass(frozen=True)
class StoredReport:
    """An accepted report without its payload."""

    sequence: int
    device: str
    counted: bool
    payload_digest: str


@dataclass(frozen=True)
class StoredRelease:
    """``found_bytes``: the size of the content that is there; None when there is none."""

    name: str
    version: int
    sha256: str
    size_bytes: int
    found_bytes: int | None


class Ledger(Protocol):
    """Valid while the store that it reads is open."""

    def tasks(self) -> tuple[StoredTask, ...]:
        """All tasks in the order of their creation."""
        ...

    def states(self, task: str) -> tuple[StoredState, ...]:
        """The versions of a task in rising order; empty for an unknown one."""
        ...

    def state(self, task: str, version: int) -> ProcessState:
        """A state that a round can start from. Raises ``NotFoundError`` when it is not there (any more)."""
        ...

    def version(self, task: str, version: int) -> StoredVersion | None:
        """The version and what its round recorded; None for one that no round has made."""
        ...

    def rounds(self, task: str) -> tuple[StoredRound, ...]:
        """The rounds of a task in rising order."""
        ...

    def jumps(self, task: str) -> tuple[tuple[int, int], ...]:
        """The (first, first not) of each range of rounds that a restored backup left out, in rising order."""
        ...

    def reports(self, task: str, round_num: int) -> tuple[StoredReport, ...]:
        """The accepted reports of a round by rising sequence."""
        ...

    def update(self, task: str, round_num: int, device: str) -> ClientUpdate | None:
        """The update of an accepted report; None without its payload."""
        ...

    def payload(self, sequence: int) -> bytes | None:
        """The payload of that report; None when it is not there (any more)."""
        ...

    def num_failures(self, task: str, round_num: int) -> int:
        """How many failures were noted in a round."""
        ...

    def contents(self) -> Iterator[tuple[str, bytes]]:
        """Each digest with the bytes that are stored for it, one at a time."""
        ...

    def missing_models(self) -> tuple[tuple[str, int, str], ...]:
        """(task, version, digest) of each kept version whose model is not there."""
        ...

    def payloads_without_report(self) -> tuple[int, ...]:
        """Sequences of payloads that belong to no report."""
        ...

    def releases(self) -> tuple[StoredRelease, ...]:
        """All releases."""
        ...
