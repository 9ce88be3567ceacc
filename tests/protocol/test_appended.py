"""A mapping that only grows: every value keeps what it had, whatever was added to it or to another of its history."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefl.protocol.appended import Appended


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 9)), max_size=40))
def test_each_value_equals_a_dict_of_its_own(additions: list[tuple[int, int]]) -> None:
    """An addition names the value that it is made to, also an old one, and a name, also one that another branch has."""
    values, expected = [Appended()], [dict[str, int]()]
    for number, (to, letter) in enumerate(additions):
        to, name = to % len(values), "abcdefghij"[letter]
        if name in expected[to]:
            with pytest.raises(KeyError, match="is here already"):
                values[to].plus(name, number)
        else:
            values.append(values[to].plus(name, number))
            expected.append({**expected[to], name: number})
    for value, wanted in zip(values, expected, strict=True):
        assert (list(value.items()), len(value)) == (list(wanted.items()), len(wanted))
        assert value == wanted
        assert {name for name in "abcdefghij" if name in value} == wanted.keys()


def test_the_newest_value_is_extended_without_a_copy() -> None:
    one = Appended().plus("a", 1)
    two = one.plus("b", 2)
    assert one._entries is two._entries
    assert one.plus("c", 3)._entries is not two._entries


def test_a_missing_name_is_a_key_error() -> None:
    one = Appended({"a": 1})
    one.plus("b", 2)
    for name in ("b", "c"):
        with pytest.raises(KeyError, match=name):
            one[name]
