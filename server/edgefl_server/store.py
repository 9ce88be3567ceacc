"""The store: what a server must not forget, behind one interface with one contract suite.

Invariants (design §5):

- ``apply`` is all or nothing and durable when it returns; the epoch is compared inside its transaction (I5).
- After an ``apply`` that raised, the store is not used again: the process exits and recovers from what is durable.
- An accepted report is unaltered while retention promises it (I1); its key (task, round, device) exists once (I2).
- One model version per committed round (I4), written in the transaction that closes the round.

``load``, ``apply``, ``find_accepted`` and ``fate`` belong to one thread (the engine's); the others may be called from
any thread at any time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from edgefl.protocol.events import Persist, RoundSummary, Snapshot
from edgefl.protocol.messages import Fate


@dataclass(frozen=True)
class ModelRecord:
    """A committed model version; ``sha256`` in hexadecimal."""

    task: str
    version: int
    sha256: str
    size_bytes: int


class Store(Protocol):
    """All methods raise ``StorageError`` when the medium fails, ``FencedError`` when another server took over."""

    def load(self) -> Snapshot:
        """What a coordinator is restored from."""
        ...

    def apply(self, effects: Sequence[Persist], content: Sequence[bytes] = ()) -> None:
        """Make ``effects`` durable in one transaction, with the ``content`` that releases among them refer to."""
        ...

    def find_accepted(self, task: str, round_num: int, device: str) -> int | None:
        """The ledger sequence of the report accepted for this key, or None."""
        ...

    def fate(self, task: str, round_num: int, device: str) -> Fate:
        """What became of the round of an accepted report; OPEN when none was accepted."""
        ...

    def content(self, sha256: str) -> bytes:
        """The bytes of that digest (64 hexadecimal digits). Raises ``NotFoundError``."""
        ...

    def models(self, task: str) -> tuple[ModelRecord, ...]:
        """The task's model versions in rising order; empty for a task without a model."""
        ...

    def model(self, task: str, version: int) -> bytes:
        """The canonical bytes of a model version. Raises ``NotFoundError``."""
        ...

    def ended_rounds(self, task: str, from_round: int, limit: int) -> tuple[RoundSummary, ...]:
        """At most ``limit`` committed or abandoned rounds from ``from_round`` on, in rising order."""
        ...

    def close(self) -> None:
        """Give up the database and its lock. Closing twice does nothing."""
        ...
