"""MBPP: short Python functions from one sentence and three asserts (MiMo 2.4)."""

from __future__ import annotations

import ast
from pathlib import Path

from openmimo.eval.benchmarks.asserts import Loaded, unit_tests
from openmimo.rows import read_rows
from openmimo.types import Problem

PROMPT = "{text}\n\nIt must pass this test:\n```python\n{test}\n```\n\nGive the function in one fenced code block."
TEST_IDS = range(11, 511)  # the published test split


def mbpp(path: Path, *, ids: range = TEST_IDS) -> Loaded:
    """Problems of the public file (`text`, `code`, `task_id`, `test_list`) whose asserts are plain equalities alone.

    Args:
        ids: task ids to read.
    """
    problems, left_out = [], {}
    for row in read_rows(path, ("text", "code", "task_id", "test_list")):
        if row["task_id"] not in ids:
            continue
        name = f"mbpp/{row['task_id']}"
        try:
            if str(row.get("test_setup_code") or "").strip():
                raise ValueError("tests need set-up code")
            statements = [s for test in row["test_list"] for s in _parse(test)]
            called = _called(statements)
            tests = unit_tests(statements, called)
        except ValueError as error:
            left_out[name] = str(error)
            continue
        prompt = PROMPT.format(text=row["text"].strip(), test=row["test_list"][0].strip())
        solution = row["code"].replace("\r\n", "\n")
        problems.append(
            Problem(name, prompt, "code", tests=tests, entry_point=called, family="mbpp", solution=solution)
        )
    return Loaded(tuple(problems), left_out)


def _parse(test: str) -> list[ast.stmt]:
    try:
        return ast.parse(test.strip()).body
    except SyntaxError as error:
        raise ValueError("test is no Python") from error


def _called(statements: list[ast.stmt]) -> str:
    """The function that the first assert compares; empty where it is no plain comparison."""
    test = statements[0].test if statements and isinstance(statements[0], ast.Assert) else None
    if isinstance(test, ast.Compare) and isinstance(test.left, ast.Call) and isinstance(test.left.func, ast.Name):
        return test.left.func.id
    return ""
