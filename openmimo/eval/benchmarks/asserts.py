"""Tests written as Python asserts -> the judge's JSON calls, read as a tree and never run.

An assert `f(arguments) == literal` is carried where JSON can say the same: arguments without tuples, sets or keys that
are no text, since the program would be given something else. The judge's default checker then asks for what the assert
asks for, save that it takes a list for a tuple and no 0 for False. A problem is taken whole or left out with its
reason, so that no benchmark grows easier by the tests it lost.
"""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from openmimo.types import Problem, UnitTest


@dataclass(frozen=True)
class Loaded:
    """A benchmark's problems, and those that could not be carried."""

    problems: tuple[Problem, ...]
    left_out: dict[str, str]
    """Problem id -> why."""


def unit_tests(statements: Sequence[ast.stmt], called: str) -> tuple[UnitTest, ...]:
    """Asserts on the function `called` as tests, in order.

    Raises:
        ValueError: for the first statement that is no such assert, in one line; also when there is none at all.
    """
    tests = tuple(_unit_test(statement, called) for statement in statements)
    if not tests:
        raise ValueError("no assert at all")
    return tests


def _unit_test(statement: ast.stmt, called: str) -> UnitTest:
    if not isinstance(statement, ast.Assert):
        raise ValueError(f"statement is no assert: {type(statement).__name__}")
    test = statement.test
    if not (isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq)):
        raise ValueError("assert is no plain equality")
    call, literal = test.left, test.comparators[0]
    if not (isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == called):
        raise ValueError("assert is on something other than the function's result")
    if call.keywords or any(isinstance(a, ast.Starred) for a in call.args):
        raise ValueError("call has keyword or starred arguments")
    arguments = [_literal(a, "argument") for a in call.args]
    expected = _literal(literal, "expected value")
    if not _same_in_json(arguments, tuples=False):
        raise ValueError("argument has no JSON form: tuple, set, bytes, complex or key that is no text")
    if not _same_in_json(expected, tuples=True):  # a returned tuple arrives as a list
        raise ValueError("expected value has no JSON form: set, bytes, complex or key that is no text")
    return UnitTest(json.dumps(arguments), json.dumps(_as_python_equates(expected)))


def _literal(node: ast.expr, what: str) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, RecursionError) as error:
        raise ValueError(f"{what} is no literal") from error


def _as_python_equates(value: Any) -> Any:
    """Whole numbers as floats: to Python 240.0 == 240, and the judge takes either where a float is expected."""
    if type(value) is int and abs(value) <= 1 << 53:
        return float(value)
    if isinstance(value, (list, tuple)):
        return [_as_python_equates(item) for item in value]
    if isinstance(value, dict):
        return {k: _as_python_equates(v) for k, v in value.items()}
    return value


def _same_in_json(value: Any, *, tuples: bool) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if value is None or isinstance(value, (bool, int, str)):
        return True
    if isinstance(value, list) or (tuples and isinstance(value, tuple)):
        return all(_same_in_json(item, tuples=tuples) for item in value)
    if isinstance(value, dict):
        return all(isinstance(k, str) and _same_in_json(v, tuples=tuples) for k, v in value.items())
    return False
