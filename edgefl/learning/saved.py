"""A process and its state in one file, for a later day or another machine.

    learning.save("run.edgefl", process, state)
    process, state = learning.load("run.edgefl")

What is saved of a process is its definition, as TOML, with the standardization that it was given: ``load`` builds it
from that as a server would. So a process with parts of a user's own is refused: no file can hold their code.

    head   magic (8 bytes), format version (u32), size of the text (u64), SHA-256 of all that follows
    text   UTF-8 JSON: the definitions, the version, and the sizes of the parts
    parts  mean and inverse spread, the model, ``extra``, then what each client keeps

Integers are little-endian. No code is in a file, and none is run.
"""

from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

from edgefl._version import __version__
from edgefl.errors import ConfigError, StorageError
from edgefl.files import check_regular, write_file
from edgefl.learning.in_process import check_state
from edgefl.learning.registry import LearningProcess, build_process
from edgefl.learning.shapes import model_spec
from edgefl.learning.training import TrainingProcess
from edgefl.models.softmax import SoftmaxModel
from edgefl.protocol.process import ProcessState
from edgefl.protocol.task import ModelSpec, TaskSpec, parse_task
from edgefl.settings import parse_toml, to_toml
from edgefl.types import Quantization, Standardization, check_kind

MAGIC = b"EDGEFLPR"
FORMAT = 1
_HEAD = struct.Struct("<8sIQ32s")


def save(path: str | Path, process: LearningProcess, state: ProcessState) -> None:
    """Replace the file ``path`` in one step, durably.

    Raises ``ConfigError`` for a process that its definition does not make again, ``StorageError`` when the file cannot
    be written.
    """
    check_state(state)
    check_kind("process", getattr(process, "spec", process), TaskSpec, "what a learning.build_* function returned")
    target = _path(path)
    shape = process.model.standardization
    again = _build(process.spec, process.model, getattr(process, "population", 0))
    if again != process:
        raise ConfigError(
            f"process {process.spec.process_name!r} has parts that its definition does not name, so a file cannot hold "
            "it; give them a name (docs/extending.md), or keep its state alone"
        )
    parts = [b"", b""] if shape is None else [shape.mean, shape.inverse_spread]
    parts += [state.model, state.extra, *state.clients.values()]
    text = {
        "edgefl": __version__,
        "definition": to_toml(process.spec),
        "model": to_toml(replace(model_spec(process.model), standardize_by="")),
        "population": getattr(process, "population", 0),
        "version": state.version,
        "clients": list(state.clients),
        "sizes": [len(part) for part in parts],
    }
    raw = json.dumps(text, separators=(",", ":")).encode()
    body = b"".join([raw, *parts])
    write_file(target, _HEAD.pack(MAGIC, FORMAT, len(raw), hashlib.sha256(body).digest()) + body)


def load(path: str | Path) -> tuple[LearningProcess, ProcessState]:
    """What ``save`` wrote to ``path``. Raises ``StorageError`` for a file that cannot be read or is not whole.

    Raises ``ConfigError`` for one that names what this installation does not have.
    """
    source = _path(path)
    check_regular(source)
    try:
        raw = source.read_bytes()
    except OSError as error:
        raise StorageError(f"{source} cannot be read: {error.strerror}") from None
    text, body = _checked(source, raw)
    at, parts = 0, []
    for size in text["sizes"]:
        parts.append(bytes(body[at : at + size]))
        at += size
    mean, spread, model, extra, *kept = parts
    where = f"{source}: its definition"
    shape = parse_toml(text["model"], ModelSpec, where)
    evaluated = SoftmaxModel(
        shape.num_features,
        shape.num_classes,
        dtype=shape.dtype,
        quantization=Quantization(shape.scale, shape.zero_point),
        standardization=Standardization(mean, spread) if mean else None,
    )
    process = _build(parse_task(text["definition"], where), evaluated, text["population"])
    return process, ProcessState(text["version"], model, extra, dict(zip(text["clients"], kept, strict=True)))


def _path(path: object) -> Path:
    if not isinstance(path, (str, Path)):
        raise ConfigError(f"path is {path!r:.80}; expected text or a pathlib.Path")
    return Path(path)


def _build(spec: Any, model: SoftmaxModel, population: int) -> LearningProcess:
    standardizes = spec.model is not None and bool(spec.model.standardize_by)
    process = build_process(spec, model.standardization if standardizes else None, model if spec.evaluates else None)
    return replace(process, population=population) if isinstance(process, TrainingProcess) else process


def _checked(source: Path, raw: bytes) -> tuple[dict[str, Any], memoryview]:
    """The text and the parts of a file whose every byte is as it was written."""
    if not raw.startswith(MAGIC):
        raise StorageError(f"{source} is no saved process of EdgeFL: it starts with {raw[:8]!r}")
    if len(raw) < _HEAD.size:
        raise StorageError(f"{source} is cut off: {len(raw)} bytes, less than its head")
    _, version, size, digest = _HEAD.unpack_from(raw)
    if version != FORMAT:
        raise StorageError(f"{source} is of format {version}; this EdgeFL reads {FORMAT}")
    body = memoryview(raw)[_HEAD.size :]
    if hashlib.sha256(body).digest() != digest:
        raise StorageError(f"{source} is cut off or corrupt: its checksum is not that of its content")
    text: dict[str, Any] = json.loads(bytes(body[:size]))
    return text, body[size:]
