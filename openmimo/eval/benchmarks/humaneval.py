"""HumanEval: complete a function from its docstring (MiMo 2.4)."""

from __future__ import annotations

import ast
from pathlib import Path

from openmimo.eval.benchmarks.asserts import Loaded, unit_tests
from openmimo.rows import read_rows
from openmimo.types import Problem

PROMPT = (
    "Complete this Python function. Give the whole function, with its imports, in one fenced code block.\n\n"
    "```python\n{prompt}\n```"
)


def humaneval(path: Path) -> Loaded:
    """Problems of the public file whose `check` holds plain equalities alone; the rest with the reason."""
    problems, left_out = [], {}
    for row in read_rows(path, ("task_id", "prompt", "entry_point", "canonical_solution", "test")):
        try:
            tests = unit_tests(_statements(row["test"]), "candidate")
        except ValueError as error:
            left_out[row["task_id"]] = str(error)
            continue
        problems.append(
            Problem(
                row["task_id"],
                PROMPT.format(prompt=row["prompt"].strip()),
                "code",
                tests=tests,
                entry_point=row["entry_point"],
                family="humaneval",
                solution=row["prompt"] + row["canonical_solution"],
            )
        )
    return Loaded(tuple(problems), left_out)


def _statements(source: str) -> list[ast.stmt]:
    """The body of `check(candidate)`; asserts that hold of anything (`assert True`) are left out.

    Raises:
        ValueError: if there is none.
    """
    try:
        functions = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef) and n.name == "check"]
    except SyntaxError as error:
        raise ValueError("test is no Python") from error
    if not functions:
        raise ValueError("test has no function check")
    return [statement for statement in functions[0].body if not _says_nothing(statement)]


def _says_nothing(statement: ast.stmt) -> bool:
    if isinstance(statement, ast.Pass) or (
        isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Constant)
    ):
        return True
    return isinstance(statement, ast.Assert) and isinstance(statement.test, ast.Constant) and bool(statement.test.value)
