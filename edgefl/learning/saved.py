"""A process and its state in one file, for a later day or another machine.

    learning.save("run.edgefl", process, state)
    process, state = learning.load("run.edgefl")

What is saved of a process is its definition, as TOML, with the standardization that it was given: ``load`` builds it
from that as a server would. Of parts of a user's own the file holds the classes' names and the fields' values
(``edgefl.learning.own_parts``); the program that loads it must have imported their module.

The file is a text and parts (``edgefl.sealed``): the definitions, the version and the sizes of the parts; then mean and
inverse spread, the model, ``extra``, and what each client keeps.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from edgefl._version import __version__
from edgefl.errors import ConfigError, StorageError
from edgefl.learning import own_parts
from edgefl.learning.build import LearningProcess, build_process
from edgefl.learning.in_process import check_state
from edgefl.learning.shapes import model_spec
from edgefl.learning.training import TrainingProcess
from edgefl.models.model import Model
from edgefl.protocol.dependencies import dependency_of
from edgefl.protocol.process import ProcessState
from edgefl.protocol.task import ModelSpec, TaskKind, TaskSpec, parse_task
from edgefl.sealed import SealedFormat
from edgefl.settings import parse_toml, to_toml
from edgefl.types import Standardization, check_kind

MAGIC = b"EDGEFLPR"
PLAIN = SealedFormat(MAGIC, 1, "saved process", "save it again")
SAVED = SealedFormat(MAGIC, 2, "saved process", "save it again", older=(1,))
"""With parts of a user's own, which version 1 does not know; a process without them is still written as version 1."""

PARTS = ("distributor", "client_work", "aggregator", "finalizer")


def save(path: str | Path, process: LearningProcess, state: ProcessState) -> None:
    """Replace the file ``path`` in one step, durably.

    Raises ``ConfigError`` for a process with a part that a file cannot describe, ``StorageError`` when the file cannot
    be written.
    """
    check_state(state)
    check_kind("process", getattr(process, "spec", process), TaskSpec, "what a learning.build_* function returned")
    target = _path(path)
    shape = process.model.standardization
    own = _own_parts(process)
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
    if own:
        SAVED.write(target, {**text, "parts": own}, parts)
    else:
        PLAIN.write(target, text, parts)


def load(path: str | Path) -> tuple[LearningProcess, ProcessState]:
    """What ``save`` wrote to ``path``. Raises ``StorageError`` for a file that cannot be read or is not whole.

    Raises ``ConfigError`` for one that names what this installation does not have, or a class of the user's own whose
    module the program has not imported.
    """
    source = _path(path)
    found = SAVED.read(source)
    if found is None:
        raise StorageError(f"saved process {source} cannot be read: No such file or directory")
    text, parts = found
    mean, spread, model, extra, *kept = (parts.take(size) for size in text["sizes"])
    where = f"{source}: its definition"
    shape = parse_toml(text["model"], ModelSpec, where)
    evaluated = shape.build(Standardization(mean, spread) if mean else None)
    process = _build(parse_task(text["definition"], where), evaluated, text["population"])
    own = {name: own_parts.build(f"{source}: part {name!r}", told) for name, told in text.get("parts", {}).items()}
    process = replace(process, **own)
    return process, ProcessState(text["version"], model, extra, dict(zip(text["clients"], kept, strict=True)))


def _path(path: object) -> Path:
    if not isinstance(path, (str, Path)):
        raise ConfigError(f"path is {path!r:.80}; expected text or a pathlib.Path")
    return Path(path)


def _own_parts(process: LearningProcess) -> dict[str, Any]:
    """The parts that the definition does not make again, described. Raises ``ConfigError``."""
    again: Any = _build(process.spec, process.model, getattr(process, "population", 0))
    if again == process:
        return {}
    differing = [name for name in PARTS if getattr(again, name, None) != getattr(process, name, None)]
    own = {name: own_parts.describe(f"part {name!r}", getattr(process, name)) for name in differing}
    made = replace(again, **{name: own_parts.build(f"part {name!r}", told) for name, told in own.items()})
    if made != process:
        raise ConfigError(
            f"process {process.spec.process_name!r} does not come back equal from its definition and the fields of its "
            "parts; expected parts that are frozen dataclasses. Or save the state alone"
        )
    return own


def _build(spec: Any, model: Model, population: int) -> LearningProcess:
    needed = dependency_of(spec)
    standardizes = needed is not None and needed.kind is TaskKind.STATISTICS
    process = build_process(spec, model.standardization if standardizes else None, model if spec.evaluates else None)
    return replace(process, population=population) if isinstance(process, TrainingProcess) else process
