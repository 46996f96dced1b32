"""MATH and MATH-500: competition problems with a TeX answer (MiMo 2.4, 3.5)."""

from __future__ import annotations

from pathlib import Path

from openmimo.judge.math import extract_answer
from openmimo.rows import read_rows
from openmimo.types import Problem

PROMPT = "{problem}\n\nReason step by step, and put the final answer in \\boxed{{}}."


def math(path: Path, *, name: str = "math500") -> list[Problem]:
    """Problems of a public file (`problem`, `solution`, and `answer` where it has one).

    Without `answer` the gold is the last `\\boxed{}` of the solution.

    Raises:
        ValueError: for a row with neither.
    """
    problems = []
    for number, row in enumerate(read_rows(path, ("problem", "solution"))):
        answer = str(row.get("answer") or "").strip() or extract_answer(row["solution"])
        if not answer:
            raise ValueError(f"{path}, row {number} has no answer and no \\boxed{{}} in its solution")
        prompt = PROMPT.format(problem=row["problem"].strip())
        problems.append(Problem(f"{name}/{number}", prompt, "math", answer=answer, family=name))
    return problems
