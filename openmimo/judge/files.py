"""Judge a file of responses: `openmimo judge PROBLEMS.jsonl RESPONSES.jsonl`.

A problem's row has the fields of `Problem` (id, prompt, kind, answer, tests of {input, expected}, entry_point); a
response's row has the problem's `id` and a `response`.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from pathlib import Path
from typing import Any

from openmimo.config import nearest
from openmimo.judge.pool import JudgeConfig, JudgePool
from openmimo.types import Problem, UnitTest, Verdict


def judge_file(
    problems: Path, responses: Path, *, num_workers: int | None = None, config: JudgeConfig | None = None
) -> Iterator[tuple[str, Verdict]]:
    """Judge every response.

    Returns:
        (problem id, verdict) in the order of the responses; a problem may have several.

    Raises:
        ValueError: for a row that is no JSON object, lacks a field, or names a problem that is not there.
    """
    by_id: dict[str, Problem] = {}
    for where, row in _rows(problems):
        problem = problem_from_row(row, where)
        if problem.id in by_id:
            raise ValueError(f"{where}: problem {problem.id!r} is there twice")
        by_id[problem.id] = problem
    answers = [(where, *_response(row, where)) for where, row in _rows(responses)]
    for where, problem_id, _ in answers:
        if problem_id not in by_id:
            raise ValueError(
                f"{where}: no problem {problem_id!r} in {problems}; the nearest is {nearest(problem_id, by_id)!r}"
            )
    with JudgePool(num_workers, config) as pool:
        waiting: list[tuple[str, Future[Verdict]]] = [
            (problem_id, pool.submit(by_id[problem_id], text)) for _, problem_id, text in answers
        ]
        for problem_id, future in waiting:
            yield problem_id, future.result()


def problem_from_row(row: Mapping[str, Any], where: str = "problem") -> Problem:
    """A problem from plain JSON types.

    Raises:
        ValueError: naming `where` and the field at fault.
    """
    known = {field.name: field for field in dataclasses.fields(Problem)}
    for name in row:
        if name not in known:
            raise ValueError(f"{where}: unknown field {name!r}; the nearest is {nearest(name, known)!r}")
    for name in ("id", "kind"):
        if name not in row:
            raise ValueError(f"{where}: the field {name!r} is missing")
    for name, value in row.items():
        if name != "tests" and not isinstance(value, str):
            raise ValueError(f"{where}: {name} must be text, got {value!r}")
    if row["kind"] not in ("math", "code"):
        raise ValueError(f"{where}: kind must be math or code, got {row['kind']!r}")
    tests = row.get("tests", ())
    if not isinstance(tests, (list, tuple)):
        raise ValueError(f"{where}: tests must be a list, got {tests!r}")
    return Problem(**{"prompt": "", **row, "tests": tuple(_test(test, where) for test in tests)})


def verdict_to_row(verdict: Verdict) -> dict[str, Any]:
    """Plain JSON types."""
    return dataclasses.asdict(verdict)


def _test(test: Any, where: str) -> UnitTest:
    try:
        built = UnitTest(**test)
    except TypeError as error:
        raise ValueError(f"{where}: a test needs input and expected, got {str(test)[:80]}") from error
    if not (isinstance(built.input, str) and isinstance(built.expected, str)):
        raise ValueError(f"{where}: a test's input and expected must be text, got {str(test)[:80]}")
    return built


def _response(row: Mapping[str, Any], where: str) -> tuple[str, str]:
    for name in ("id", "response"):
        if not isinstance(row.get(name), str):
            raise ValueError(f"{where}: a response needs the texts id and response, got {str(dict(row))[:80]}")
    return row["id"], row["response"]


def _rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"cannot read {path}: {error.strerror}") from error
    # Never splitlines(): strings hold U+2028.
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{where}: not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{where}: expected a JSON object, got {str(row)[:80]}")
        yield where, row
