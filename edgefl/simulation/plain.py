"""Frozen dataclasses as what JSON holds, and back: what is written is read as an equal value."""

from __future__ import annotations

import dataclasses
import enum
import types
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def to_plain(value: Any) -> Any:
    """Dictionaries, lists, texts and numbers. An enumeration becomes its value, bytes become hexadecimal."""
    if dataclasses.is_dataclass(value):
        return {field.name: to_plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, tuple):
        return [to_plain(item) for item in value]
    return value.hex() if isinstance(value, bytes) else value


def from_plain(kind: type[T], raw: Any) -> T:
    """The dataclass of type ``kind`` that ``to_plain`` wrote; anything else is an error of the caller."""
    value: T = _read(kind, raw)
    return value


def _read(kind: Any, raw: Any) -> Any:
    if get_origin(kind) in (Union, types.UnionType):  # of one type and None
        (kind,) = (one for one in get_args(kind) if one is not type(None))
        return None if raw is None else _read(kind, raw)
    if get_origin(kind) is tuple:
        return tuple(_read(get_args(kind)[0], item) for item in raw)
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{f.name: _read(hints[f.name], raw[f.name]) for f in dataclasses.fields(kind)})  # type: ignore[operator]
    if issubclass(kind, enum.Enum):
        return kind(raw)
    return bytes.fromhex(raw) if kind is bytes else raw
