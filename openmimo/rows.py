"""JSONL on disk: nouns as rows, written whole or not at all, never read with splitlines() (strings hold U+2028)."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from openmimo.checkpoint import aside, sync_folder
from openmimo.config import missing_file, nearest
from openmimo.types import CheckerName, Document, Problem, UnitTest


def write_rows(path: Path, rows: Iterable[Any]) -> int:
    """Write dataclasses or mappings, one a line; how many. If `rows` raises, nothing is left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = aside(path)
    count = 0
    try:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            for row in rows:
                plain = dataclasses.asdict(row) if dataclasses.is_dataclass(row) and not isinstance(row, type) else row
                file.write(json.dumps(plain, ensure_ascii=False) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)
    return count


def read_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank with their numbers, from 1, of a file, gzipped or not.

    Raises:
        ValueError: for a missing file or a torn gzip file.
    """
    if not path.is_file():
        raise missing_file(path)
    with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
        lines = enumerate(file, 1)
        while True:
            try:
                number, line = next(lines)
            except StopIteration:
                return
            except (gzip.BadGzipFile, EOFError) as error:
                raise ValueError(f"{path} is no whole gzip file: {error}") from error
            if line.strip():
                yield number, line


def read_rows(path: Path, fields: Sequence[str] = ()) -> Iterator[dict[str, Any]]:
    """Rows of a JSONL file, gzipped or not, that all have `fields`.

    Raises:
        ValueError: for a missing or torn file, a line that is no JSON object or lacks a field, with its number.
    """
    for number, line in read_lines(path):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number} is a {type(row).__name__}, expected an object")
        lacking = [name for name in fields if name not in row]
        if lacking:
            raise ValueError(f"{path}:{number} lacks {lacking[0]!r}; it has {', '.join(sorted(row))}")
        yield row


def read_problems(path: Path) -> list[Problem]:
    """Problems of a JSONL file.

    Raises:
        ValueError: for a row that is no problem.
    """
    return [problem_from(row, f"{path}, row {n}") for n, row in enumerate(read_rows(path), 1)]


def problem_from(row: Mapping[str, Any], where: str = "problem") -> Problem:
    """A problem from its row: id, prompt, kind, and answer (maths) or tests (code); the rest as `types.Problem`.

    Raises:
        ValueError: naming `where` and the field at fault.
    """
    names = [f.name for f in dataclasses.fields(Problem)]
    for name in row:
        if name not in names:
            raise ValueError(f"{where} has unknown field {name!r}; the nearest is {nearest(name, names)!r}")
    for name in ("id", "prompt", "kind"):
        if name not in row:
            raise ValueError(f"{where} lacks {name!r}; the fields are {', '.join(names)}")
    for name, value in row.items():
        if name not in ("tests", "tolerance", "limits") and not isinstance(value, str):
            raise ValueError(f"{where}: {name} must be text, got {str(value)[:80]!r}")
    checkers = get_args(CheckerName)
    if row.get("checker", "tokens") not in checkers:
        raise ValueError(f"{where} has checker {row['checker']!r}; {', '.join(checkers)} are known")
    tolerance, limits = row.get("tolerance", 1e-6), row.get("limits", {})
    if not isinstance(tolerance, (int, float)) or not tolerance >= 0:
        raise ValueError(f"{where}: tolerance must be 0 or more, got {tolerance!r}")
    if not isinstance(limits, Mapping) or not all(isinstance(value, (int, float)) for value in limits.values()):
        raise ValueError(f"{where}: limits must be an object of numbers, got {str(limits)[:80]!r}")
    if row["kind"] not in ("math", "code"):
        raise ValueError(f"{where} has kind {row['kind']!r}; math and code are known")
    tests = row.get("tests") or ()
    if not isinstance(tests, (list, tuple)):
        raise ValueError(f"{where}: tests must be a list, got {str(tests)[:80]!r}")
    return Problem(**{**row, "tests": tuple(_test_from(test, where) for test in tests)})


def _test_from(row: Any, where: str) -> UnitTest:
    try:
        test = UnitTest(**row)
    except TypeError as error:
        raise ValueError(
            f"{where}: a test has input, expected and maybe level or assertion, got {str(row)[:80]}"
        ) from error
    if not (isinstance(test.input, str) and isinstance(test.expected, str) and isinstance(test.assertion, str)):
        raise ValueError(f"{where}: a test's input, expected and assertion must be text, got {str(row)[:80]}")
    if test.level is not None and (not isinstance(test.level, int) or test.level < 0):
        raise ValueError(f"{where}: a test's level must be 0 or more, or null, got {test.level!r}")
    return test


def document_from(row: Mapping[str, Any]) -> Document:
    """A document from its Parquet or JSONL row; `tags` may be JSON text."""
    tags = row.get("tags") or {}
    return Document(
        id=row["id"],
        url=row.get("url") or "",
        text=row["text"],
        source=row.get("source") or "",
        title=row.get("title") or "",
        language=row.get("language") or "",
        tags=json.loads(tags) if isinstance(tags, str) else tags,
    )
