"""MATH and MATH-500: competition problems with a TeX answer (MiMo 2.4, 3.5)."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from openmimo.config import missing_file
from openmimo.judge.math import extract_answer
from openmimo.rows import read_rows
from openmimo.types import Problem

PROMPT = "{problem}\n\nReason step by step, and put the final answer in \\boxed{{}}."


def math(path: Path, *, name: str = "math500", unanswered: bool = False) -> list[Problem]:
    """Problems of a public file: `problem`, with `answer` or `solution`; JSONL, or one JSON array in .json or .json.gz.

    Without `answer` the gold is the last `\\boxed{}` of the solution.

    Args:
        unanswered: a row with neither becomes a problem without an answer, for the caller to count and leave out.

    Raises:
        ValueError: otherwise for such a row.
    """
    problems = []
    rows = _array(path) if path.name.endswith((".json", ".json.gz")) else read_rows(path, ("problem",))
    for number, row in enumerate(rows):
        answer = str(row.get("answer") or "").strip() or extract_answer(str(row.get("solution") or ""))
        if not answer and not unanswered:
            raise ValueError(f"{path}, row {number} has no answer and no \\boxed{{}} in its solution")
        prompt = PROMPT.format(problem=row["problem"].strip())
        problems.append(Problem(f"{name}/{number}", prompt, "math", answer=answer or "", family=name))
    return problems


def _array(path: Path) -> list[dict[str, Any]]:
    """Objects with a `problem`, of a file that is one JSON array."""
    if not path.is_file():
        raise missing_file(path)
    try:
        found = json.loads(gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes())
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from error
    if not isinstance(found, list):
        raise ValueError(f"{path} is a {type(found).__name__}, expected an array of problems")
    for number, row in enumerate(found):
        if not isinstance(row, dict) or "problem" not in row:
            raise ValueError(f"{path}, row {number} lacks 'problem', got {str(row)[:60]!r}")
    return found
