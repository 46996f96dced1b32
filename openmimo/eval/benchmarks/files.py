"""Rows of a benchmark's public file, JSONL, gzipped or not."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


def rows(path: Path, fields: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Rows of a JSONL file that all have `fields`.

    Raises:
        ValueError: for a missing file, or a row that is no object or lacks a field, with its number.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; give the benchmark's own public file")
    data = path.read_bytes()
    try:
        text = gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} is no whole gzip file: {error}") from error
    for number, line in enumerate(text.split(b"\n"), 1):  # never splitlines(): strings hold U+2028
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise ValueError(f"{path}:{number} is not JSON: {error}") from error
        if not isinstance(row, dict):
            raise ValueError(f"{path}:{number} is a {type(row).__name__}, expected an object")
        for name in fields:
            if name not in row:
                raise ValueError(f"{path}:{number} lacks {name!r}; it has {', '.join(sorted(row))}")
        yield row
