"""Does what a program gave equal what was expected? (MiMo 3.2)

Everything is compared as plain bytes or plain JSON in the judge's own process: no program's `__eq__` runs here. Left
out: special checkers for problems with several right answers.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any, Literal

Checker = Literal["tokens", "exact", "floats", "unordered_lines"]

# Plain ASCII decimals: float() alone would also take "nan", "1_0" and other scripts' digits.
_DECIMAL = re.compile(rb"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def outputs_equal(got: bytes, expected: bytes, checker: Checker = "tokens", *, tolerance: float = 1e-6) -> bool:
    """Compare standard outputs.

    Args:
        checker: `tokens`: equal sequences of whitespace-separated tokens; `exact`: equal bytes; `floats`: tokens, and
            where both are decimal numbers they may differ by `tolerance`; `unordered_lines`: equal multisets of
            lines, each compared by tokens.
        tolerance: absolute or relative, whichever is met; for `floats` alone.

    Raises:
        ValueError: for an unknown checker.
    """
    if checker == "exact":
        return got == expected
    if checker == "tokens":
        return got.split() == expected.split()
    if checker == "unordered_lines":
        return _lines(got) == _lines(expected)
    if checker == "floats":
        got_tokens, expected_tokens = got.split(), expected.split()
        return len(got_tokens) == len(expected_tokens) and all(
            _tokens_close(one, other, tolerance) for one, other in zip(got_tokens, expected_tokens, strict=True)
        )
    raise ValueError(f"unknown checker {checker!r}; expected tokens, exact, floats or unordered_lines")


def json_equal(got: str, expected: str, *, tolerance: float | None = None) -> bool:
    """Compare two JSON texts by plain types: true is not 1, 1 is not 1.0, "1" is not 1.

    Args:
        got: what the program returned; text that is no JSON equals nothing.
        expected: from the problem's test.
        tolerance: where the expected value is a float, an int or float within it (absolute or relative) will do;
            None asks for the same number.

    Raises:
        ValueError: if `expected` is no JSON: the problem is at fault, not the program.
    """
    try:
        wanted = json.loads(expected)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"a test's expected value must be JSON, got {expected[:80]!r}") from error
    try:
        value = json.loads(got)
    except (ValueError, RecursionError):
        return False
    return _same(value, wanted, tolerance)


def _same(got: Any, wanted: Any, tolerance: float | None) -> bool:
    if type(wanted) is float and type(got) in (int, float):
        try:
            number = float(got)
        except OverflowError:
            return False
        if tolerance is None:
            return number == wanted
        return math.isclose(number, wanted, rel_tol=tolerance, abs_tol=tolerance)
    if type(got) is not type(wanted):
        return False
    if type(wanted) is list:
        return len(got) == len(wanted) and all(
            _same(one, other, tolerance) for one, other in zip(got, wanted, strict=True)
        )
    if type(wanted) is dict:
        return got.keys() == wanted.keys() and all(_same(got[key], wanted[key], tolerance) for key in wanted)
    return got == wanted


def _lines(text: bytes) -> list[list[bytes]]:
    return sorted(line.split() for line in text.split(b"\n") if line.strip())


def _tokens_close(got: bytes, expected: bytes, tolerance: float) -> bool:
    if got == expected:
        return True
    # Two integers are compared as integers: a relative tolerance would accept 999999937 for 1000000007.
    if expected.lstrip(b"+-").isdigit():
        return False
    if not (_DECIMAL.fullmatch(got) and _DECIMAL.fullmatch(expected)):
        return False
    return math.isclose(float(got), float(expected), rel_tol=tolerance, abs_tol=tolerance)
