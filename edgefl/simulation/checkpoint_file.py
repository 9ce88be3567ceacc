"""The checkpoint's file: a text and the models behind it (``edgefl.sealed``).

    text    what the run is of (``Origin``), its rounds, failures and refusals, and the sizes of the models
    models  for each task its states from 1 on, each a model and what the process keeps with it; then the control
            memories of devices

The size is that of all model versions, which the result of a run has too: a model of 784 x 10 is 31 kB, a thousand
versions are 31 MB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefl.errors import UpdateRefusal
from edgefl.protocol.events import RoundSummary
from edgefl.protocol.messages import Refused, WorkFailure
from edgefl.protocol.process import ProcessState
from edgefl.sealed import SealedFormat
from edgefl.simulation.past import Past
from edgefl.simulation.plain import from_plain, to_plain
from edgefl.simulation.record import Key

MAGIC = b"EDGEFLCK"
CHECKPOINT = SealedFormat(MAGIC, 3, "checkpoint", "remove it to start again")
"""Version 1 has rounds without their conditions and their clients' accuracies, version 2 without their base version."""


@dataclass(frozen=True)
class Origin:
    """What a run is of. Two runs of equal origin are equal, bit for bit.

    ``edgefl``: the version of the code. ``tasks``: name and definition (TOML), in the order of their creation.
    ``data``: SHA-256 over the ids and the examples of all devices.
    """

    edgefl: str
    tasks: tuple[tuple[str, str], ...]
    devices: int
    data: str


def write_checkpoint(path: Path, origin: Origin, past: Past) -> None:
    """Replace ``path`` in one step, durably. Raises ``StorageError``."""
    parts: list[bytes] = []
    sizes: dict[str, list[list[int]]] = {}
    for task, states in past.states.items():
        sizes[task] = [[len(state.model), len(state.extra)] for state in states]
        parts += [part for state in states for part in (state.model, state.extra)]
    memories = [[*key, round_num, len(memory)] for key, (round_num, memory) in past.memories.items()]
    parts += [memory for _, memory in past.memories.values()]
    value = {
        "edgefl": origin.edgefl,
        "tasks": [list(task) for task in origin.tasks],
        "devices": origin.devices,
        "data": origin.data,
        "sizes": sizes,
        "variates": memories,
        "rounds": [to_plain(one) for one in past.rounds],
        "failures": [[*key, failure.kind, failure.message] for key, failure in past.failures.items()],
        "refusals": [[*key, refused.reason.name, refused.message] for key, refused in past.refusals.items()],
    }
    CHECKPOINT.write(path, value, parts)


def read_checkpoint(path: Path) -> tuple[Origin, Past] | None:
    """None when there is no file. Raises ``StorageError`` for one that cannot be read, or is not whole."""
    found = CHECKPOINT.read(path)
    if found is None:
        return None
    value, models = found
    origin = Origin(
        value["edgefl"], tuple((name, task) for name, task in value["tasks"]), value["devices"], value["data"]
    )
    take = models.take
    states = {
        task: tuple(ProcessState(version, take(model), take(extra)) for version, (model, extra) in enumerate(sizes, 1))
        for task, sizes in value["sizes"].items()
    }
    memories = {(task, device): (round_num, take(size)) for task, device, round_num, size in value["variates"]}
    past = Past(
        rounds=tuple(from_plain(RoundSummary, one) for one in value["rounds"]),
        states=states,
        failures=_by_key(value["failures"], lambda key, kind, text: WorkFailure(key[0], key[1], kind, text)),
        refusals=_by_key(value["refusals"], lambda _, reason, text: Refused(UpdateRefusal[reason], text)),
        memories=memories,
    )
    return origin, past


def _by_key(rows: list[list[Any]], make: Callable[[Key, str, str], Any]) -> dict[Key, Any]:
    return {(task, num, device): make((task, num, device), kind, text) for task, num, device, kind, text in rows}
