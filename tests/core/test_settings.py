"""TOML into dataclasses and back: what is taken, and for everything else the file, the key and what was expected."""

from __future__ import annotations

import enum
import os
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT

from edgefl.address import require_loopback, split_address
from edgefl.errors import ConfigError
from edgefl.protocol.task import parse_task
from edgefl.settings import MAX_FILE_BYTES, parse_toml, read_toml, to_toml


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True)
class Inner:
    depth: int
    ratio: float = 0.5

    def __post_init__(self) -> None:
        if self.depth < 0:
            raise ConfigError(f"depth is {self.depth}; expected 0 or more")


@dataclass(frozen=True)
class Config:
    name: str
    count: int = 1
    rate: float = 1.0
    on: bool = False
    colour: Colour = Colour.RED
    place: Path = Path(".")
    sizes: tuple[int, ...] = ()
    inner: Inner | None = None
    parts: tuple[Inner, ...] = field(default_factory=tuple)


@dataclass(frozen=True)
class Outer:
    items: tuple[Config, ...] = ()
    one: Config | None = None
    options: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Raw:
    depth: bytes


TASKS = ROOT / "edgefl" / "demo" / "tasks"


def parse(text: str) -> Config:
    return parse_toml('name = "n"\n' + text, Config, "f.toml")


def refused(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    return str(caught.value)


def test_every_kind_of_value_is_read() -> None:
    text = """
        count = 7
        rate = 0.25
        on = true
        colour = "blue"
        place = "a/b"
        sizes = [1, 2]
        [inner]
        depth = 3
        [[parts]]
        depth = 4
        ratio = 2
    """
    parts = (Inner(4, 2.0),)
    assert parse(text) == Config("n", 7, 0.25, True, Colour.BLUE, Path("a/b"), (1, 2), Inner(3), parts)


def test_what_is_absent_has_its_default() -> None:
    assert parse("") == Config("n")


def test_a_whole_number_is_a_number_and_becomes_a_float() -> None:
    assert isinstance(parse("rate = 2").rate, float)
    assert parse("rate = 2").rate == 2.0


def test_a_path_may_begin_at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/somewhere")
    assert parse('place = "~/x"').place == Path("/somewhere/x")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("count = true", "f.toml: count is True; expected a whole number"),
        ("count = 1.0", "f.toml: count is 1.0; expected a whole number"),
        ('count = "1"', "f.toml: count is '1'; expected a whole number"),
        ("rate = true", "f.toml: rate is True; expected a number"),
        ('rate = "fast"', "f.toml: rate is 'fast'; expected a number"),
        ("rate = [1.0]", "f.toml: rate is [1.0]; expected a number"),
        ("on = 1", "f.toml: on is 1; expected true or false"),
        ('on = "yes"', "f.toml: on is 'yes'; expected true or false"),
        ('colour = "green"', "f.toml: colour is 'green'; expected one of red, blue"),
        ("colour = 1", "f.toml: colour is 1; expected one of red, blue"),
        ("colour = []", "f.toml: colour is []; expected one of red, blue"),
        ("place = 1", "f.toml: place is 1; expected a path"),
        ('place = ""', "f.toml: place is ''; expected a path"),
        ('place = "a\\u0000b"', "f.toml: place is 'a\\x00b'; expected a path"),
        ("sizes = 1", "f.toml: sizes is 1; expected a list"),
        ('sizes = "12"', "f.toml: sizes is '12'; expected a list"),
        ("sizes = [1, true]", "f.toml: sizes[1] is True; expected a whole number"),
        ("inner = 1", "f.toml: inner is 1; expected a table"),
        ("inner = [1]", "f.toml: inner is [1]; expected a table"),
        ("[inner]", "f.toml: inner: missing key 'depth'"),
        ("[inner]\ndepth = -1", "f.toml: inner: depth is -1; expected 0 or more"),
        ("[inner]\ndept = 1", "f.toml: inner: unknown key 'dept'; did you mean 'depth'?"),
        ("[[parts]]\ndepth = 1\n[[parts]]\ndepth = 1.5", "f.toml: parts[1]: depth is 1.5; expected a whole number"),
        ("cuont = 1", "f.toml: unknown key 'cuont'; did you mean 'count'?"),
        (
            "zzz = 1",
            "f.toml: unknown key 'zzz'; expected one of colour, count, inner, name, on, parts, place, rate, sizes",
        ),
        ('"" = 1', "f.toml: unknown key ''; expected one of colour, count, inner, name, on, parts, place, rate, sizes"),
    ],
)
def test_a_wrong_value_is_refused_with_its_place_and_what_was_expected(text: str, message: str) -> None:
    assert refused(text) == message


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match=r"^f\.toml: missing key 'name'$"):
        parse_toml("count = 1", Config, "f.toml")


def test_a_key_of_python_alone_cannot_be_set() -> None:
    assert "unknown key '__class__'" in refused("__class__ = 1")


@pytest.mark.parametrize("text", ["count =", "count = 1\ncount = 2", "[inner\n", "count = 1 2", "\x00"])
def test_what_is_not_toml_is_refused(text: str) -> None:
    assert refused(text).startswith("f.toml: not valid TOML: ")


def test_what_python_cannot_convert_is_refused() -> None:
    assert refused("count = 1" + "0" * 5000).startswith("f.toml: not valid TOML: ")
    assert refused("sizes = " + "[" * 50_000).startswith("f.toml: not valid TOML: ")
    assert refused("rate = 1" + "0" * 400) == "f.toml: rate is a number of 401 digits; expected a smaller one"
    assert refused('place = "~nobody-of-this-name/x"').startswith("f.toml: place is '~nobody-of-this-name/x'")


def test_a_definition_that_came_over_the_wire_is_bounded_as_a_file_is() -> None:
    assert refused("#" * MAX_FILE_BYTES).endswith(f"expected at most {MAX_FILE_BYTES}")


def unreadable(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        read_toml(path)
    return str(caught.value)


def test_a_file_is_read_as_utf8(tmp_path: Path) -> None:
    path = tmp_path / "a.toml"
    path.write_bytes('name = "ü"'.encode())
    assert parse_toml(read_toml(path), Config, str(path)).name == "ü"


def test_a_file_that_is_none_is_refused_with_its_name(tmp_path: Path) -> None:
    absent = tmp_path / "absent.toml"
    assert unreadable(absent) == f"{absent}: cannot be read: No such file or directory"
    assert unreadable(tmp_path) == f"{tmp_path}: cannot be read: Is a directory"
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    assert unreadable(binary) == f"{binary}: not UTF-8 text; expected a TOML file"


def test_a_file_that_is_too_large_is_not_read_on(tmp_path: Path) -> None:
    large = tmp_path / "large.toml"
    large.write_bytes(b"#" * MAX_FILE_BYTES)
    assert len(read_toml(large)) == MAX_FILE_BYTES
    large.write_bytes(b"#" * (MAX_FILE_BYTES + 1))
    expected = f"larger than {MAX_FILE_BYTES} bytes; expected a TOML file"
    assert unreadable(large) == f"{large}: {expected}"
    if os.path.exists("/dev/zero"):
        assert unreadable(Path("/dev/zero")) == f"/dev/zero: {expected}"


# ------------------------------------------------------------------------------------------------ writing

INNERS = st.builds(Inner, st.integers(0, 2**70), st.floats(allow_nan=False))
PATHS = st.text(min_size=1).filter(lambda text: "\0" not in text and not text.startswith("~")).map(Path)
CONFIGS = st.builds(
    Config,
    name=st.text(),
    count=st.integers(),
    rate=st.floats(allow_nan=False),
    on=st.booleans(),
    colour=st.sampled_from(Colour),
    place=PATHS,
    sizes=st.lists(st.integers()).map(tuple),
    inner=st.none() | INNERS,
    parts=st.lists(INNERS).map(tuple),
)


@given(CONFIGS)
def test_what_is_written_is_read_as_it_was(config: Config) -> None:
    assert parse_toml(to_toml(config), Config, "f.toml") == config


OPTIONS = st.dictionaries(st.text(), st.floats(allow_nan=False))


@given(st.lists(CONFIGS, max_size=3).map(tuple), st.none() | CONFIGS, OPTIONS)
def test_tables_below_tables_are_read_as_they_were(
    items: tuple[Config, ...], one: Config | None, options: dict[str, float]
) -> None:
    outer = Outer(items, one, options)
    assert parse_toml(to_toml(outer), Outer, "f.toml") == outer


def test_a_table_of_free_keys_is_read_value_by_value() -> None:
    assert parse_toml("options = { trim = 1, share = 0.25 }", Outer, "f.toml").options == {"trim": 1.0, "share": 0.25}
    with pytest.raises(ConfigError, match=r"^f.toml: options: trim is True; expected a number$"):
        parse_toml("options = { trim = true }", Outer, "f.toml")
    with pytest.raises(ConfigError, match=r"^f.toml: options is 3; expected a table$"):
        parse_toml("options = 3", Outer, "f.toml")


def test_defaults_are_not_written_but_a_table_of_nothing_else_is() -> None:
    assert to_toml(Config("n")) == 'name = "n"\n'
    assert to_toml(Config("n", rate=0.25, inner=Inner(3))) == 'name = "n"\nrate = 0.25\n\n[inner]\ndepth = 3\n'
    assert to_toml(Outer(one=Config("n", on=True))) == '\n[one]\nname = "n"\non = true\n'


def test_what_no_file_can_hold_is_refused_with_its_place() -> None:
    with pytest.raises(ConfigError, match=r"^inner\.depth is b'1'; expected what a TOML file can hold$"):
        to_toml(Config("n", inner=Raw(b"1")))  # type: ignore[arg-type]


@pytest.mark.parametrize("path", sorted(TASKS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_task_that_was_written_again_is_the_same_task(path: Path) -> None:
    spec = parse_task(path.read_text(), str(path))
    assert parse_task(to_toml(spec), "again") == spec


# ------------------------------------------------------------------------------------------------ addresses


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [
        ("127.0.0.1:7443", "127.0.0.1", 7443),
        ("localhost:0", "localhost", 0),
        ("[::1]:65535", "::1", 65535),
        ("server.example:443", "server.example", 443),
    ],
)
def test_an_address_is_a_host_and_a_port(address: str, host: str, port: int) -> None:
    assert split_address(address) == (host, port)


@pytest.mark.parametrize(
    "address",
    [
        "",
        ":",
        ":80",
        "127.0.0.1",
        "127.0.0.1:",
        "127.0.0.1:65536",
        "127.0.0.1:-1",
        "127.0.0.1:٨٠",
        "127.0.0.1:http",
        "127.0.0.1:80 ",
        "127.0.0.1:80\n",
        "127.0.0.1:" + "1" * 5000,
        "::1:80",
        "[::1]",
        "[::1:80",
        "::1]:80",
        "[127.0.0.1]:80",
        "[]:80",
        "unix:/tmp/socket",
        "dns:///localhost:80",
        "ipv4:127.0.0.1:80",
    ],
)
def test_what_is_no_address_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="expected HOST:PORT"):
        split_address(address)


@pytest.mark.parametrize("address", ["127.0.0.1:1", "127.255.0.9:1", "[::1]:1", "localhost:1"])
def test_plaintext_may_go_to_loopback(address: str) -> None:
    require_loopback(address)


@pytest.mark.parametrize(
    "address",
    ["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "128.0.0.1:1", "localhost.example:1", "127.0.0.1.example:1", "[fe80::1]:1"],
)
def test_plaintext_may_go_nowhere_else(address: str) -> None:
    with pytest.raises(ConfigError, match="is not loopback"):
        require_loopback(address)
