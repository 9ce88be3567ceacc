"""Parts of a user's own in a saved process: the name of each class and the values of its fields, and no code.

    {"class": "my_module:Halving", "fields": {"rate": 0.5}}

A part is a dataclass at the top of its module; its fields hold numbers, texts, bytes, enumerations, tuples, tables and
further such dataclasses. Invariants: what is described is described whole, or refused (the value that comes back is
equal); and reading imports nothing and finds a class only where the program itself has imported it, so no file decides
what code is run.
"""

from __future__ import annotations

import dataclasses
import enum
import sys
from typing import Any

from edgefl.errors import ConfigError


def describe(where: str, value: Any) -> Any:
    """``value`` as what JSON holds. Raises ``ConfigError`` for what a file cannot hold; ``where`` names the value."""
    if value is None or (isinstance(value, (bool, int, float, str)) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, (bytes, tuple, dict)):
        if isinstance(value, bytes):
            return {"bytes": value.hex()}
        if isinstance(value, tuple):
            return {"tuple": [describe(where, item) for item in value]}
        return {"table": [[describe(where, key), describe(where, item)] for key, item in value.items()]}
    name = _name(where, type(value))
    if isinstance(value, enum.Enum):
        return {"enum": name, "value": describe(where, value.value)}
    fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value) if field.init}
    return {"class": name, "fields": {key: describe(f"{where}.{key}", item) for key, item in fields.items()}}


def build(where: str, found: Any) -> Any:
    """The value that ``describe`` described. Raises ``ConfigError`` for a class that is not there."""
    if not isinstance(found, dict):
        return found
    if "bytes" in found:
        return bytes.fromhex(found["bytes"])
    if "tuple" in found:
        return tuple(build(where, item) for item in found["tuple"])
    if "table" in found:
        return {build(where, key): build(where, item) for key, item in found["table"]}
    kind = _find(where, found.get("class") or found["enum"])
    if "enum" in found:
        return kind(build(where, found["value"]))
    return kind(**{key: build(f"{where}.{key}", item) for key, item in found["fields"].items()})


def _name(where: str, kind: type) -> str:
    name = f"{kind.__module__}:{kind.__qualname__}"
    there = getattr(sys.modules.get(kind.__module__), kind.__qualname__, None)
    if there is not kind or not (dataclasses.is_dataclass(kind) or issubclass(kind, enum.Enum)):
        raise ConfigError(
            f"{where} is a {name}, which a file cannot name; expected a dataclass at the top of a module, with fields "
            "of numbers, texts, bytes, tuples and further such dataclasses. Or save the state alone"
        )
    return name


def _find(where: str, name: str) -> Any:
    module, _, attribute = name.partition(":")
    kind = getattr(sys.modules.get(module), attribute, None)
    if not isinstance(kind, type) or not (dataclasses.is_dataclass(kind) or issubclass(kind, enum.Enum)):
        first = f"import {module} first" if module != "__main__" else f"define {attribute} first"
        raise ConfigError(f"{where} is a {name}, which this program does not have; {first}: a file imports nothing")
    return kind
