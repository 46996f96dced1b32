"""GSM8K: grade-school word problems with an integer answer (MiMo 2.4)."""

from __future__ import annotations

from pathlib import Path

from openmimo.rows import read_rows
from openmimo.types import Problem

PROMPT = "{question}\n\nReason step by step, and put the final answer in \\boxed{{}}."


def gsm8k(path: Path) -> list[Problem]:
    """Problems of the public train or test file (`question`, `answer` ending in `#### N`).

    Raises:
        ValueError: for a row without a final answer.
    """
    problems = []
    for number, row in enumerate(read_rows(path, ("question", "answer"))):
        _, marker, final = row["answer"].rpartition("####")
        answer = final.strip().replace(",", "")
        if not (marker and answer):
            raise ValueError(f"{path}, row {number}: the answer must end in '#### N', got {row['answer'][-40:]!r}")
        problems.append(
            Problem(
                f"gsm8k/{path.stem}/{number}",
                PROMPT.format(question=row["question"].strip()),
                "math",
                answer=answer,
                family="gsm8k",
            )
        )
    return problems
