"""What `openmimo judge` does: solutions of one problem, or a batch of many, to rows in the order they were given.

All problems are read and checked before the first program runs. A row leaves as soon as it and all before it are
judged; no more than `_AHEAD` solutions are in hand at once, so a batch may be larger than memory.
"""

from __future__ import annotations

import io
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from pathlib import Path
from typing import IO, Any

from openmimo.config import missing_file, nearest
from openmimo.judge.code import check_problem, extract_code
from openmimo.judge.config import JudgeConfig
from openmimo.judge.pool import JudgePool
from openmimo.judge.problem_file import parse_json, problem_from_json, read_problem
from openmimo.types import Problem, Verdict

_AHEAD = 256
_SOURCE_SUFFIXES = (".py", ".cpp", ".cc")
_FIELDS = ("problem", "solutions")

Solution = tuple[dict[str, Any], Problem, str, bool]
"""What names it in its row, its problem, its text, and whether that is the program itself."""


def judge_files(problem_path: Path, solution_paths: Sequence[str], config: JudgeConfig) -> Iterator[dict[str, Any]]:
    """A row a solution file; see `row`. Nothing is judged before the first row is asked for.

    Raises:
        ValueError: at once, for a file that is missing, or a problem that cannot be judged.
    """
    problem = _checked(read_problem(problem_path), str(problem_path))
    if not solution_paths:
        raise ValueError(f"no solution of {problem_path} is given; name one file or more after it")
    for path in solution_paths:
        if not Path(path).is_file():
            raise ValueError(f"solution {path} is a folder") if Path(path).is_dir() else missing_file(Path(path))
    return judge_all(_from_files(problem, solution_paths), config)


def judge_batch(path: Path, config: JudgeConfig) -> tuple[int, Iterator[dict[str, Any]]]:
    """How many solutions a batch holds, and a row of each.

    Raises:
        ValueError: at once, for a line that is no {"problem", "solutions"}, or a problem that cannot be judged.
    """
    if not path.exists():
        raise missing_file(path)
    if path.is_dir():
        raise ValueError(f"{path} is a folder; name a file of problems and solutions")
    # Read twice, so that a mistake in the last line costs nothing; what can be read once only is kept.
    data = None if path.is_file() else path.read_bytes()

    def lines() -> IO[bytes]:
        return path.open("rb") if data is None else io.BytesIO(data)

    total = 0
    with lines() as file:
        for problem, solutions, where in _parse_batch(file, path):
            _checked(problem, where)
            total += len(solutions)
    return total, judge_all(_from_batch(lines, path), config)


def judge_all(solutions: Iterable[Solution], config: JudgeConfig) -> Iterator[dict[str, Any]]:
    """Judge, and give the rows in order.

    Raises:
        ValueError: if programs cannot be isolated here, and `config.accept_unsafe` is not set.
    """
    pending: deque[tuple[dict[str, Any], Problem, Future[Verdict]]] = deque()
    with JudgePool(None, config) as pool:
        for name, problem, text, source in solutions:
            pending.append((name, problem, pool.submit(problem, text, source=source)))
            while pending and (len(pending) >= _AHEAD or pending[0][2].done()):
                yield _next(pending)
        while pending:
            yield _next(pending)


def row(name: dict[str, Any], problem: Problem, verdict: Verdict) -> dict[str, Any]:
    """One line of `--json`. `passed` of `total` tests were accepted; a maths problem counts as one test."""
    if problem.kind == "math":
        passed, total = int(verdict.status == "accepted"), 1
    else:
        passed, total = sum(test.status == "accepted" for test in verdict.tests), len(problem.tests)
    return {
        **name,
        "status": verdict.status,
        "passed": passed,
        "total": total,
        "isolation": verdict.isolation,
        "detail": verdict.detail,
        "tests": [
            {
                "status": test.status,
                "cpu_s": round(test.cpu_s, 6),
                "wall_s": round(test.wall_s, 6),
                "peak_bytes": test.peak_bytes,
                "inferred": test.inferred,
            }
            for test in verdict.tests
        ],
    }


def line(row: dict[str, Any]) -> str:
    """A row for a person. What a program printed must not steer the terminal."""
    name = " ".join(str(row[key]) for key in ("problem", "solution") if key in row)
    cpu_s = sum(test["cpu_s"] for test in row["tests"])
    passed = f"{row['passed']}/{row['total']}"
    text = f"{row['status']:<15} {passed:>9} {cpu_s:>8.2f} s  {name}"
    if row["detail"] and row["status"] != "accepted":
        text += f"  ({row['detail']})"
    return "".join(c if c.isprintable() else "\ufffd" for c in text)


HEAD = f"{'status':<15} {'passed':>9} {'CPU':>8}    solution"


def summary(statuses: Counter[str]) -> str:
    """How many solutions got which status."""
    return f"{statuses.total()} judged: " + ", ".join(f"{count} {status}" for status, count in statuses.most_common())


def is_source(text: str, suffix: str = "") -> bool:
    """Whether a text is a program as it stands, and not a response that holds one in a fenced block."""
    return suffix in _SOURCE_SUFFIXES or ("</think>" not in text and extract_code(text) is None)


def _next(pending: deque[tuple[dict[str, Any], Problem, Future[Verdict]]]) -> dict[str, Any]:
    name, problem, future = pending.popleft()
    try:
        return row(name, problem, future.result())
    except RuntimeError as error:
        raise ValueError(str(error)) from error


def _from_files(problem: Problem, paths: Sequence[str]) -> Iterator[Solution]:
    for path in paths:
        # Bytes that are no UTF-8 are kept: a program may declare another encoding.
        text = Path(path).read_bytes().decode("utf-8", "surrogateescape" if problem.kind == "code" else "replace")
        source = problem.kind == "code" and is_source(text, Path(path).suffix)
        yield {"solution": path}, problem, text, source


def _from_batch(lines: Callable[[], AbstractContextManager[IO[bytes]]], path: Path) -> Iterator[Solution]:
    with lines() as file:
        for problem, solutions, _ in _parse_batch(file, path):
            for number, text in enumerate(solutions):
                source = problem.kind == "code" and is_source(text)
                yield {"problem": problem.id, "solution": number}, problem, text, source


def _parse_batch(file: Iterable[bytes], path: Path) -> Iterator[tuple[Problem, list[str], str]]:
    for number, data in enumerate(file, 1):
        if not data.strip():
            continue
        where = f"{path}:{number}"
        entry = parse_json(data, where)
        if not isinstance(entry, dict):
            raise ValueError(f'{where} must be an object {{"problem", "solutions"}}, got a {type(entry).__name__}')
        for key in entry:
            if key not in _FIELDS:
                raise ValueError(f"{where} has unknown key {key!r}; the nearest is {nearest(key, _FIELDS)!r}")
        for key in _FIELDS:
            if key not in entry:
                raise ValueError(f"{where} lacks {key!r}")
        solutions = entry["solutions"]
        if not isinstance(solutions, list):
            raise ValueError(f"{where}: solutions must be a list of texts, got {str(solutions)[:80]!r}")
        wrong = next((n for n, text in enumerate(solutions) if not isinstance(text, str)), None)
        if wrong is not None:
            raise ValueError(f"{where}: solutions[{wrong}] must be text, got {str(solutions[wrong])[:80]!r}")
        yield problem_from_json(entry["problem"], f"{where}: problem"), solutions, where


def _checked(problem: Problem, where: str) -> Problem:
    if problem.kind == "code":
        try:
            check_problem(problem)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from error
    return problem


def self_test() -> dict[str, Any]:
    """The isolation that programs get here: `isolation` is full, without user namespaces or refused; reason; layers."""
    from openmimo.judge.sandbox import supervisor

    found = supervisor.self_test()
    return {"isolation": found.level, "reason": found.reason, "layers": found.layers}
