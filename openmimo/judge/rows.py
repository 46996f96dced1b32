"""Judge rows of responses: what `openmimo judge PROBLEMS.jsonl RESPONSES.jsonl` prints."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from openmimo.config import nearest
from openmimo.judge.pool import JudgeConfig, JudgePool
from openmimo.types import Problem


def judge_rows(
    problems: Sequence[Problem],
    rows: Sequence[Mapping[str, Any]],
    *,
    num_workers: int | None = None,
    config: JudgeConfig | None = None,
) -> list[dict[str, Any]]:
    """Judge every response.

    Args:
        rows: {id, response}: the problem's id and the text; other fields are let be. A problem may have several.
        num_workers: processes; the config's figure if None.

    Returns:
        {id, status, detail, tests} in the order of the responses; a test as `types.TestResult`.

    Raises:
        ValueError: for a row that lacks a field, names a problem that is not there, or a problem that cannot be judged,
            before anything is judged.
    """
    by_id: dict[str, Problem] = {}
    for problem in problems:
        if problem.id in by_id:
            raise ValueError(f"problem {problem.id!r} is there twice")
        by_id[problem.id] = problem
    for number, row in enumerate(rows, 1):
        for name in ("id", "response"):
            if not isinstance(row.get(name), str):
                raise ValueError(f"response {number} needs the texts id and response, got {str(dict(row))[:80]}")
        if row["id"] not in by_id:
            close = nearest(row["id"], by_id)
            raise ValueError(
                f"response {number}: no problem {row['id']!r}; "
                + (f"the nearest is {close!r}" if close else "the file of problems is empty")
            )
    with JudgePool(num_workers, config) as pool:
        futures = [pool.submit(by_id[row["id"]], row["response"]) for row in rows]
        verdicts = [future.result() for future in futures]
    return [{"id": row["id"], **dataclasses.asdict(verdict)} for row, verdict in zip(rows, verdicts, strict=True)]
