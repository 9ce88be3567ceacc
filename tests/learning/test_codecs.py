"""Encodings: what goes in comes out, and whatever else arrives is refused with its reason."""

from __future__ import annotations

import struct
from array import array

import pytest

from edgefl import codecs
from edgefl.errors import ConfigError, InvalidUpdateError, UpdateRefusal
from edgefl.types import RoundKey

KEY = RoundKey(7, 1)


def refusal(name: str, payload: bytes, num_values: int, expected: str | None = None) -> UpdateRefusal:
    with pytest.raises(InvalidUpdateError) as caught:
        codecs.decode(name, expected or name, payload, num_values, KEY)
    return caught.value.reason


def test_the_registry_finds_each_file_of_the_package_by_its_name() -> None:
    assert codecs.names() == ("float32", "int64")
    assert [codecs.codec(name).name for name in codecs.names()] == ["float32", "int64"]
    assert [codecs.codec(name).value_format for name in codecs.names()] == ["f", "q"]


def test_float32_is_the_little_endian_delta_itself() -> None:
    payload, memory = codecs.encode("float32", array("f", [1.0, -2.5, 0.0]), KEY)
    assert memory == b""
    assert payload == bytes.fromhex("0000803f 000020c0 00000000")
    assert codecs.decode("float32", "float32", payload, 3, KEY) == payload


def test_int64_is_exact_to_both_ends_of_its_range() -> None:
    values = array("q", [-(2**63), 2**63 - 1, 0])
    payload, memory = codecs.encode("int64", values, KEY, b"mine")
    assert memory == b"mine"
    assert payload == struct.pack("<3q", *values)
    assert codecs.decode("int64", "int64", payload, 3, KEY) == payload


@pytest.mark.parametrize("size", [0, 11, 13, 16])
def test_a_payload_of_another_size_is_refused_as_shape(size: int) -> None:
    assert refusal("float32", bytes(size), 3) is UpdateRefusal.SHAPE
    assert refusal("int64", bytes(size), 3) is UpdateRefusal.SHAPE


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("index", [0, 18, 19])
def test_a_value_that_is_not_finite_is_refused_wherever_it_stands(value: float, index: int) -> None:
    values = array("f", bytes(80))
    values[index] = value
    assert refusal("float32", values.tobytes(), 20) is UpdateRefusal.NON_FINITE


@pytest.mark.parametrize("name", ["int64", "float16", "", "../float32"])
def test_an_encoding_that_was_not_planned_is_refused_before_its_payload_is_read(name: str) -> None:
    assert refusal(name, bytes(12), 3, expected="float32") is UpdateRefusal.ENCODING


def test_an_unknown_name_in_a_definition_says_what_there_is() -> None:
    with pytest.raises(ConfigError, match="'float23'; expected one of float32, int64"):
        codecs.codec("float23")
