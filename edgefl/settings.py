"""TOML into frozen dataclasses, and back: the one reader of every configuration file and task definition.

A table becomes a dataclass field by field. Unknown keys, missing keys and values of a wrong type are refused with the
file, the key and what was expected; a close spelling is suggested. Ranges are checked by the dataclass itself
(``__post_init__`` raising ``ConfigError``), so they hold for values that come from elsewhere too.
What ``to_toml`` writes, ``parse_toml`` reads as an equal value.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import tomllib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from edgefl.errors import ConfigError
from edgefl.wording import name_hint

T = TypeVar("T")

MAX_FILE_BYTES = 1 << 20
"""A configuration is a page of text; a larger file is a mistake."""


def read_toml(path: Path) -> str:
    """The text of a TOML file. Raises ``ConfigError`` when it cannot be read or is too large."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_FILE_BYTES + 1)  # a device file says nothing of its size before it is read
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    if len(raw) > MAX_FILE_BYTES:
        raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes; expected a TOML file")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: not UTF-8 text; expected a TOML file") from None


def parse_toml(text: str, kind: type[T], source: str) -> T:
    """Parse TOML ``text`` into the dataclass ``kind``. ``source`` names the file in errors (``ConfigError``)."""
    return from_table(parse_table(text, source), kind, source)


def parse_table(text: str, source: str) -> dict[str, Any]:
    """Parse TOML ``text``. ``source`` names the file in errors (``ConfigError``)."""
    if len(text) > MAX_FILE_BYTES:
        raise ConfigError(f"{source}: {len(text)} characters; expected at most {MAX_FILE_BYTES}")
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ConfigError(f"{source}: not valid TOML: nested too deeply") from None
    except ValueError as error:  # TOMLDecodeError, or a number of more digits than Python converts
        raise ConfigError(f"{source}: not valid TOML: {error}") from None


def from_table(table: dict[str, Any], kind: type[T], where: str) -> T:
    """Build the dataclass ``kind`` from a parsed table; ``where`` is the dotted place that errors name."""
    fields = {f.name: f for f in dataclasses.fields(kind) if f.init}  # type: ignore[arg-type]
    for key in table:
        if key not in fields:
            raise ConfigError(f"{where}: unknown key {key!r}{name_hint(key, fields)}")
    hints = _hints(kind)  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for name, field in fields.items():
        if name in table:
            values[name] = _convert(table[name], hints[name], f"{where}: {name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{where}: missing key {name!r}")
    try:
        return kind(**values)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from None


def check_key(kind: type[Any], key: str) -> None:
    """Raises ``ConfigError`` for a dotted ``key`` that is not one of a file of the dataclass ``kind``."""
    table: Any = kind
    for name in key.split("."):
        if typing.get_origin(table) is dict:
            return  # the keys of such a table are its owner's
        if not dataclasses.is_dataclass(table):
            raise ConfigError(f"unknown key {key!r}: nothing stands below {key[: key.rindex('.' + name)]!r}")
        names = {field.name for field in dataclasses.fields(table) if field.init}
        if name not in names:
            raise ConfigError(f"unknown key {key!r}: {name!r}{name_hint(name, names)}")
        hint = _hints(table)[name]  # type: ignore[arg-type]
        options = [one for one in typing.get_args(hint) if one is not type(None)]
        table = options[0] if typing.get_origin(hint) in (typing.Union, types.UnionType) else hint


def typed(kind: type[T], **values: Any) -> T:
    """``kind(**values)`` for values of a caller's own: a scalar of a wrong type is refused as one of a file is."""
    fields = {field.name for field in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            raise ConfigError(f"unknown option {name!r}; expected of {', '.join(sorted(fields))}")
    hints = _hints(kind)  # type: ignore[arg-type]
    return kind(**{name: checked(name, value, hints[name]) for name, value in values.items()})


def checked(name: str, value: Any, hint: Any) -> Any:
    """``value``, of the scalar type ``hint``; NumPy's integers become Python's. Another ``hint`` must be its class."""
    if hint in (int, float) and type(value).__module__ == "numpy" and getattr(value, "shape", None) == ():
        value = value.item()
    if isinstance(hint, type) and not issubclass(hint, (int, float, str)):
        if not isinstance(value, hint):
            raise ConfigError(f"{name} is {value!r:.80}; expected {hint.__module__}.{hint.__qualname__}")
        return value
    return _scalar(value, hint, name) if isinstance(hint, type) else value


@functools.cache
def _hints(kind: type[Any]) -> dict[str, Any]:
    """The types of its fields. Remembered: they take half the time of reading a task definition."""
    return typing.get_type_hints(kind)


def _convert(value: Any, hint: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        options = [a for a in typing.get_args(hint) if a is not type(None)]
        return _convert(value, options[0], where)
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where} is {value!r}; expected a list")
        item = typing.get_args(hint)[0]
        return tuple(_convert(v, item, f"{where}[{i}]") for i, v in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where} is {value!r}; expected a table")
        item = typing.get_args(hint)[1]
        return {key: _convert(v, item, f"{where}: {key}") for key, v in value.items()}
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, dict):
            raise ConfigError(f"{where} is {value!r}; expected a table")
        return from_table(value, hint, where)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        names = [member.value for member in hint]
        if value not in names:
            raise ConfigError(f"{where} is {value!r}; expected one of {', '.join(map(str, names))}")
        return hint(value)
    return _scalar(value, hint, where)


def _scalar(value: Any, hint: Any, where: str) -> Any:
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            raise ConfigError(f"{where} is a number of {len(str(value))} digits; expected a smaller one") from None
    if hint is Path and isinstance(value, str):
        return _path(value, where)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    name = {"str": "text", "int": "a whole number", "float": "a number", "bool": "true or false", "Path": "a path"}
    raise ConfigError(f"{where} is {value!r}; expected {name.get(hint.__name__, hint.__name__)}")


def _path(value: str, where: str) -> Path:
    if not value or "\0" in value:
        raise ConfigError(f"{where} is {value!r}; expected a path")
    try:
        return Path(value).expanduser()
    except RuntimeError as error:  # ~name of nobody
        raise ConfigError(f"{where} is {value!r}; expected a path: {error}") from None


# ------------------------------------------------------------------------------------------------ writing


def to_toml(value: object) -> str:
    """The TOML text from which ``parse_toml`` reads the dataclass ``value`` again. What equals its default is left out.

    Raises ``ConfigError`` for a value of a type that a file cannot hold.
    """
    return "\n".join(_lines(value, "")) + "\n"


def _lines(value: Any, path: str) -> list[str]:
    """The keys of one table, then the tables below it: a key after a table's header would belong to that table."""
    keys, tables = [], []
    for field in dataclasses.fields(value):
        part = getattr(value, field.name)
        if not field.init or part == _default(field):
            continue
        inner = f"{path}.{field.name}" if path else field.name
        if dataclasses.is_dataclass(part):
            tables += ["", f"[{inner}]", *_lines(part, inner)]
        elif isinstance(part, dict):
            tables += [
                "",
                f"[{inner}]",
                *(f"{toml_value(key, inner)} = {toml_value(item, inner)}" for key, item in part.items()),
            ]
        elif isinstance(part, tuple) and part and dataclasses.is_dataclass(part[0]):
            for item in part:
                tables += ["", f"[[{inner}]]", *_lines(item, inner)]
        else:
            keys.append(f"{field.name} = {toml_value(part, inner)}")
    return keys + tables


def _default(field: dataclasses.Field[Any]) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def toml_value(value: Any, where: str = "a value") -> str:
    """``value`` as it stands behind a key; ``where`` names it in errors. Raises ``ConfigError``."""
    if isinstance(value, enum.Enum):
        return toml_value(value.value, where)
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (str, Path)):
        import json  # as difflib above: what only reads does not pay for it

        # JSON's escapes are TOML's, which wants one more.
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, tuple):
        return f"[{', '.join(toml_value(item, where) for item in value)}]"
    raise ConfigError(f"{where} is {value!r}; expected what a TOML file can hold")
