"""Does what a program gave equal what was expected? (MiMo 3.2)

Everything is compared as plain bytes or plain JSON in the judge's own process: no program's `__eq__` runs here. Special
judges, for problems with several right answers, are programs: `code.py` runs them in a sandbox of their own.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from openmimo.types import CheckerName

# Plain ASCII decimals: float() alone would also take "nan", "1_0" and other scripts' digits.
_DECIMAL = re.compile(rb"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?")


def outputs_equal(got: bytes, expected: bytes, checker: CheckerName = "tokens", *, tolerance: float = 1e-6) -> bool:
    """Compare standard outputs.

    Args:
        checker: `tokens`: equal sequences of whitespace-separated tokens; `exact`: equal bytes; `floats`: tokens, and
            where both are decimal numbers they may differ by `tolerance`; `unordered_lines`: equal multisets of
            lines, each compared by tokens. `special` is no matter of bytes and not for here.
        tolerance: absolute or relative, whichever is met; for `floats` alone.

    Raises:
        ValueError: for an unknown checker.
    """
    if checker == "exact":
        return got == expected
    if checker == "tokens":
        return _tokens_equal(got, expected)
    if checker == "unordered_lines":
        return _lines(got) == _lines(expected)
    if checker == "floats":
        expected_tokens = expected.split()
        got_tokens = got.split(None, len(expected_tokens))
        return len(got_tokens) == len(expected_tokens) and all(
            _tokens_close(one, other, tolerance) for one, other in zip(got_tokens, expected_tokens, strict=True)
        )
    raise ValueError(f"unknown checker {checker!r}; expected tokens, exact, floats or unordered_lines")


def json_equal(got: str, expected: str) -> bool:
    """Compare two JSON texts by plain types: true is not 1, 1.0 is not 1 (but 1 is 1.0), "1" is not 1.

    Args:
        got: what the program returned; text that is no JSON equals nothing.
        expected: from the problem's test.

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
    return _same(value, wanted)


def _same(got: Any, wanted: Any) -> bool:
    if type(wanted) is float and type(got) in (int, float):
        return bool(got == wanted)
    if type(got) is not type(wanted):
        return False
    if type(wanted) is list:
        return len(got) == len(wanted) and all(_same(one, other) for one, other in zip(got, wanted, strict=True))
    if type(wanted) is dict:
        return got.keys() == wanted.keys() and all(_same(got[key], wanted[key]) for key in wanted)
    return bool(got == wanted)


def _tokens_equal(got: bytes, expected: bytes) -> bool:
    """Without a list of every token of what a program may have printed in megabytes."""
    wanted = expected.split()
    return got == expected or got.split(None, len(wanted)) == wanted


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
    one, other = float(got), float(expected)
    return (
        math.isfinite(one) and math.isfinite(other) and math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)
    )
