"""Keys of the counter-based generator: pinned values, for a changed key is another model."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgefl.randomness import COHORT, SHUFFLE, derive_key
from edgefl.types import KEY_BYTES

U64 = st.integers(0, 2**64 - 1)
U32 = st.integers(0, 2**32 - 1)
INPUTS = st.tuples(U64, U32, st.text(max_size=8), st.text(max_size=8))


@pytest.mark.parametrize(
    ("inputs", "key"),
    [
        ((0, 0, "", ""), "a8fe6e83daec4c3a53f873398b36b4d5"),
        ((1, 1, "person-1", SHUFFLE), "52bd6af803912404c4dbb9ddee7ba82b"),
        ((1, 1, "person-1", COHORT), "4a583cbb7b601b22a8f8e46fdf192955"),
        ((2**64 - 1, 2**32 - 1, "gerät", SHUFFLE), "4fc0d27912215fbb525caca7eca0e2d6"),
    ],
)
def test_known_keys(inputs: tuple[int, int, str, str], key: str) -> None:
    assert derive_key(*inputs).hex() == key


def test_a_key_is_the_hash_of_delimited_fields() -> None:
    text = b"edgefl-key-v1" + bytes([7] + [0] * 7) + bytes([3, 0, 0, 0]) + b"\x02\0\0\0ab" + b"\x07\0\0\0shuffle"
    assert derive_key(7, 3, "ab", "shuffle") == hashlib.sha256(text).digest()[:KEY_BYTES]


@settings(deadline=None, derandomize=True)
@given(INPUTS, INPUTS)
def test_different_inputs_have_different_keys(one: tuple[int, int, str, str], other: tuple[int, int, str, str]) -> None:
    assert (derive_key(*one) == derive_key(*other)) == (one == other)


@settings(deadline=None, derandomize=True)
@given(st.text(max_size=6), st.text(max_size=6), st.integers(0, 12))
def test_moving_the_border_of_two_fields_changes_the_key(device: str, purpose: str, cut: int) -> None:
    joined = device + purpose
    moved = (joined[:cut], joined[cut:])
    assert (derive_key(1, 1, *moved) == derive_key(1, 1, device, purpose)) == (moved == (device, purpose))


def test_a_text_that_looks_like_the_next_field_is_no_collision() -> None:
    assert derive_key(1, 1, "a\x01\0\0\0b", "c") != derive_key(1, 1, "a", "b")
    assert derive_key(1, 1, "a", "\0\0\0\0") != derive_key(1, 1, "a\0\0\0\0", "")
    assert derive_key(1, 0, "", "") != derive_key(0, 1, "", "")


@pytest.mark.parametrize(("seed", "round_num"), [(-1, 0), (2**64, 0), (0, -1), (0, 2**32)])
def test_a_number_outside_its_range_is_an_error(seed: int, round_num: int) -> None:
    with pytest.raises(OverflowError):
        derive_key(seed, round_num, "a", "b")
