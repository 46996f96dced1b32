"""RL problems of one's own: JSONL as the judge takes it or as a run writes it, and public files in their own format."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from openmimo.config import missing_file
from openmimo.eval.benchmarks.gsm8k import gsm8k
from openmimo.eval.benchmarks.math import math
from openmimo.judge.code import check_problem
from openmimo.judge.problem_file import problem_from_json
from openmimo.rows import problem_from, read_rows
from openmimo.types import Problem

PRESETS = {
    "gsm8k": gsm8k,
    "math": lambda path: math(path, name=f"math/{path.name.partition('.')[0]}", unanswered=True),
}
"""Public files in their own format: `--problems gsm8k:FILE`."""


def path_of(given: str) -> Path:
    """The file of FILE or PRESET:FILE.

    Raises:
        ValueError: if it is not there, or a folder.
    """
    preset, colon, rest = given.partition(":")
    path = Path(rest) if colon and preset in PRESETS else Path(given)
    if path.is_dir():
        raise ValueError(f"{path} is a folder, expected a file of problems")
    if not path.is_file():
        if colon and not Path(given).parent.is_dir():
            raise ValueError(f"--problems {given}: {preset!r} is no preset; {', '.join(PRESETS)} are")
        raise missing_file(path)
    return path


def read_own_problems(given: str) -> list[Problem]:
    """Problems of FILE or PRESET:FILE.

    A file is JSONL, gzipped or not, a row a problem: as the judge takes it (`judge.problem_file`), or as a run writes
    it (`types.Problem`). Without an id it is FILE/NUMBER.

    Raises:
        ValueError: for a row that is no problem with a prompt, naming file and row.
    """
    path = path_of(given)
    preset = given.partition(":")[0]
    if not Path(given).is_file() and preset in PRESETS:
        return PRESETS[preset](path)
    found = []
    for number, row in enumerate(read_rows(path), 1):
        where = f"{path}, row {number}"
        problem = problem_from(row, where) if _is_ours(row) else problem_from_json(row, where)
        if not problem.prompt.strip():
            raise ValueError(f"{where} has no prompt: the problem as the model is asked it")
        if problem.kind == "math" and not problem.answer.strip():
            raise ValueError(f"{where}: answer must not be empty")
        if problem.kind == "code":
            check_problem(problem)
        found.append(problem if problem.id else dataclasses.replace(problem, id=f"{path.stem}/{number}"))
    return found


def _is_ours(row: Mapping[str, Any]) -> bool:
    """Whether a row is a `types.Problem` as a run writes it, rather than the judge's own form."""
    tests = row.get("tests")
    first = tests[0] if isinstance(tests, list) and tests else {}
    ours = {"family", "solution", "special_judge", "tolerance"} & set(row)
    return bool(ours) or (isinstance(first, Mapping) and {"input", "expected"} <= set(first))
