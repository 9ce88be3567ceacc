"""What must hold of device memory: a device works with what it proposed in the last round that counted it.

The server may count on it: with SCAFFOLD it adds up what the counted devices remember. A device that has other memory
corrects its gradients by the difference, in every round that follows.
"""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

from edgefl.faults.checks import require
from edgefl.protocol.messages import ClientUpdate

_LAST_COUNTED = (
    "SELECT round, payload_sha256 FROM reports WHERE task = ? AND device = ? AND round < ? AND counted"
    " ORDER BY round DESC LIMIT 1"
)


@dataclass
class DeviceMemory:
    """``made``: what each update proposed. ``used``: with what each device went to work in each round."""

    made: dict[tuple[str, int, str, str], bytes] = field(default_factory=dict)
    used: set[tuple[str, int, str, bytes]] = field(default_factory=set)

    def worked(self, device: str, update: ClientUpdate, own: bytes) -> None:
        """``device`` made ``update`` with the memory ``own``; an update without memory says nothing."""
        if update.memory:
            self.made[update.task, update.round_num, device, update.payload_digest] = update.memory
            self.used.add((update.task, update.round_num, device, own))

    def check(self, db: sqlite3.Connection) -> None:
        """Raises ``Violation``. A round that a device works in comes after all that counted it, so any time will do."""
        for task, round_num, device, own in sorted(self.used):
            row = db.execute(_LAST_COUNTED, (task, device, round_num)).fetchone()
            wanted = b"" if row is None else self.made[task, row[0], device, row[1]]
            last = "none" if row is None else f"round {row[0]}"
            require(own == wanted, f"{device} worked in {task} {round_num} without the memory of {last}")
