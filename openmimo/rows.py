"""JSONL on disk: nouns as rows, written whole or not at all, never read with splitlines() (strings hold U+2028)."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from openmimo.checkpoint import sync_folder
from openmimo.types import Document, Problem, UnitTest


def write_rows(path: Path, rows: Iterable[Any]) -> int:
    """Write dataclasses or mappings, one a line; how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    count = 0
    with temporary.open("w", encoding="utf-8", newline="\n") as file:
        for row in rows:
            plain = dataclasses.asdict(row) if dataclasses.is_dataclass(row) and not isinstance(row, type) else row
            file.write(json.dumps(plain, ensure_ascii=False) + "\n")
            count += 1
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)
    return count


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """Rows of a JSONL file.

    Raises:
        ValueError: for a missing file, or a line that is no JSON object, with its number.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist")
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except ValueError as error:
                raise ValueError(f"{path}:{number} is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{path}:{number} is a {type(row).__name__}, expected an object")
            yield row


def read_problems(path: Path) -> list[Problem]:
    """Problems of a JSONL file.

    Raises:
        ValueError: for a row that is no problem.
    """
    return [problem_from(row, f"{path}, row {n}") for n, row in enumerate(read_rows(path), 1)]


def problem_from(row: Mapping[str, Any], where: str = "problem") -> Problem:
    """A problem from its row: id, prompt, kind, and answer (maths) or tests (code); the rest as `types.Problem`."""
    names = [f.name for f in dataclasses.fields(Problem)]
    missing = [name for name in ("id", "prompt", "kind") if name not in row]
    unknown = [name for name in row if name not in names]
    if missing or unknown:
        wrong = f"lacks {missing[0]!r}" if missing else f"has unknown field {unknown[0]!r}"
        raise ValueError(f"{where} {wrong}; the fields are {', '.join(names)}")
    if row["kind"] not in ("math", "code"):
        raise ValueError(f"{where} has kind {row['kind']!r}; math and code are known")
    tests = tuple(UnitTest(**test) for test in row.get("tests") or ())
    return Problem(**{**row, "tests": tests})


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
