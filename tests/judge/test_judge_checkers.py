"""What counts as equal."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from openmimo.judge.checkers import json_equal, outputs_equal


@pytest.mark.parametrize(
    ("got", "expected", "checker", "equal"),
    [
        (b"1 2\r\n3", b"1 2 3\n", "tokens", True),
        (b"1 2\n3", b"1 2\n3\n", "exact", False),
        (b"3 extra", b"3", "tokens", False),
        (b"3", b"3 4", "tokens", False),
        ("٣".encode(), b"3", "tokens", False),
        (b"0.1000001", b"0.1", "tokens", False),
        (b"0.1000001", b"0.1", "floats", True),
        (b"0.11", b"0.1", "floats", False),
        (b"999999937", b"1000000007", "floats", False),
        (b"1000000007.0", b"1000000007", "floats", False),
        (b"nan", b"1.0", "floats", False),
        ("٠.1".encode(), b"0.1", "floats", False),
        (b"1.0 x", b"1.0 y", "floats", False),
        (b"1.0", b"1.0 2.0", "floats", False),
        (b"b 1\na\n", b"a\nb  1", "unordered_lines", True),
        (b"a\na\nb", b"a\nb\nb", "unordered_lines", False),
    ],
)  # fmt: skip
def test_outputs(got, expected, checker, equal):
    assert outputs_equal(got, expected, checker) is equal


@pytest.mark.parametrize(
    ("got", "expected", "equal"),
    [
        ("1", "1", True), ("true", "1", False), ("1", "true", False), ("1", "1.0", True), ("1.0", "1", False),
        ('"1"', "1", False), ("null", "0", False), ("[1, [2]]", "[1,[2]]", True), ("[1]", "[1, 2]", False),
        ('{"a": 1}', '{"a": 1, "b": 2}', False), ('{"b": [true], "a": 1}', '{"a": 1, "b": [true]}', True),
        ("", "1", False), ("NaN", "1.0", False), ("[" * 100_000, "[]", False), ("9" * 5000, "9", False),
        ("9" * 400, "1.0", False), ("0.30000000000000004", "0.3", False),
    ],
)  # fmt: skip
def test_results_are_compared_by_plain_types(got, expected, equal):
    assert json_equal(got, expected) is equal


def test_a_broken_expected_value_is_the_problems_fault():
    with pytest.raises(ValueError, match="expected value must be JSON, got 'None'"):
        json_equal("1", "None")


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(plain)
def test_every_plain_value_equals_itself(value):
    assert json_equal(json.dumps(value), json.dumps(value))


@given(st.binary(max_size=40), st.binary(max_size=40))
def test_token_equality_is_that_of_split(got, expected):
    assert outputs_equal(got, expected) == (got.split() == expected.split())
