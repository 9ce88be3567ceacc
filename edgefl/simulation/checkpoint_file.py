"""The checkpoint's file: one head, one JSON text, and the models behind it. No code is in it, and none is run.

    head    magic (8 bytes), format version (u32), size of the text (u64), size of the models (u64), SHA-256 of both
    text    UTF-8 JSON: what the run is of (``Origin``), its rounds, failures and refusals, and the sizes of the models
    models  for each task its states from 1 on, each a model and what the process keeps beside it; then the control
            variates of devices

Integers are little-endian. The size is that of all model versions, which the result of a run has too: a model of
784 x 10 is 31 kB, a thousand versions are 31 MB.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgefl.errors import StorageError, UpdateRefusal
from edgefl.files import check_regular, write_file
from edgefl.protocol.events import RoundSummary
from edgefl.protocol.messages import Refused, WorkFailure
from edgefl.protocol.process import ProcessState
from edgefl.simulation.past import Past
from edgefl.simulation.plain import from_plain, to_plain
from edgefl.simulation.record import Key

MAGIC = b"EDGEFLCK"
FORMAT = 2
"""1 has rounds without their conditions and their clients' accuracies."""
_HEAD = struct.Struct("<8sIQQ32s")


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
    variates = [[*key, round_num, len(variate)] for key, (round_num, variate) in past.variates.items()]
    parts += [variate for _, variate in past.variates.values()]
    value = {
        "edgefl": origin.edgefl,
        "tasks": [list(task) for task in origin.tasks],
        "devices": origin.devices,
        "data": origin.data,
        "sizes": sizes,
        "variates": variates,
        "rounds": [to_plain(one) for one in past.rounds],
        "failures": [[*key, failure.kind, failure.message] for key, failure in past.failures.items()],
        "refusals": [[*key, refused.reason.name, refused.message] for key, refused in past.refusals.items()],
    }
    text = json.dumps(value, separators=(",", ":")).encode()
    body = b"".join([text, *parts])
    head = _HEAD.pack(MAGIC, FORMAT, len(text), len(body) - len(text), hashlib.sha256(body).digest())
    write_file(path, head + body)


def read_checkpoint(path: Path) -> tuple[Origin, Past] | None:
    """None when there is no file. Raises ``StorageError`` for one that cannot be read, or is not whole."""
    check_regular(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StorageError(f"checkpoint {path} cannot be read: {error.strerror}") from None
    text, models = _checked(path, raw)
    value = json.loads(text)
    origin = Origin(
        value["edgefl"], tuple((name, task) for name, task in value["tasks"]), value["devices"], value["data"]
    )
    at = 0

    def take(size: int) -> bytes:
        nonlocal at
        at += size
        return bytes(models[at - size : at])

    states = {
        task: tuple(ProcessState(version, take(model), take(extra)) for version, (model, extra) in enumerate(sizes, 1))
        for task, sizes in value["sizes"].items()
    }
    variates = {(task, device): (round_num, take(size)) for task, device, round_num, size in value["variates"]}
    past = Past(
        rounds=tuple(from_plain(RoundSummary, one) for one in value["rounds"]),
        states=states,
        failures=_by_key(value["failures"], lambda key, kind, text: WorkFailure(key[0], key[1], kind, text)),
        refusals=_by_key(value["refusals"], lambda _, reason, text: Refused(UpdateRefusal[reason], text)),
        variates=variates,
    )
    return origin, past


def _checked(path: Path, raw: bytes) -> tuple[bytes, memoryview]:
    """The text and the models of a file whose every byte is as it was written."""
    advice = "remove it to start again"
    if not raw.startswith(MAGIC[: len(raw)]):
        raise StorageError(f"{path} is no checkpoint of EdgeFL: it starts with {raw[:8]!r}; choose another file")
    if len(raw) < _HEAD.size:
        raise StorageError(f"checkpoint {path} is cut off: {len(raw)} bytes, less than its head; {advice}")
    _, version, text_size, models_size, digest = _HEAD.unpack_from(raw)
    if version != FORMAT:
        raise StorageError(f"checkpoint {path} is of format {version}; this EdgeFL reads {FORMAT}; {advice}")
    expected = _HEAD.size + text_size + models_size
    if len(raw) < expected:
        raise StorageError(f"checkpoint {path} is cut off: {len(raw)} bytes of {expected}; {advice}")
    if len(raw) > expected or hashlib.sha256(memoryview(raw)[_HEAD.size :]).digest() != digest:
        raise StorageError(f"checkpoint {path} is corrupt: its checksum is not that of its content; {advice}")
    cut = _HEAD.size + text_size
    return raw[_HEAD.size : cut], memoryview(raw)[cut:]


def _by_key(rows: list[list[Any]], make: Callable[[Key, str, str], Any]) -> dict[Key, Any]:
    return {(task, num, device): make((task, num, device), kind, text) for task, num, device, kind, text in rows}
