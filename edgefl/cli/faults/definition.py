"""A task as the text of its definition: what a run with fewer rounds hands to its server, which stores texts."""

from __future__ import annotations

import dataclasses
import enum
import json
from typing import Any

from edgefl.protocol.task import TaskSpec


def to_toml(spec: TaskSpec) -> str:
    """TOML that ``parse_task`` reads as ``spec``."""
    return "".join(_lines(spec, ""))


def _lines(table: Any, name: str) -> list[str]:
    values = {field.name: getattr(table, field.name) for field in dataclasses.fields(table)}
    lines = [f"[{name}]\n"] if name else []
    for key, value in values.items():
        if value is not None and not dataclasses.is_dataclass(value):
            lines.append(f"{key} = {_text(value)}\n")
    for key, value in values.items():  # below the plain keys: a table's header ends the table before it
        if dataclasses.is_dataclass(value):
            lines.extend(_lines(value, f"{name}.{key}" if name else key))
    return lines


def _text(value: bool | int | float | str | enum.Enum) -> str:
    """A name, a number or a truth value: in JSON they are written as in TOML."""
    return json.dumps(value.value if isinstance(value, enum.Enum) else value)
