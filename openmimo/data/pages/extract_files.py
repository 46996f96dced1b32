"""`openmimo data extract`: files of pages to one file of documents (MiMo 2.1).

The pages are `bounded.py`'s work; here documents are written, whole or not at all, and everything else is counted.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from openmimo.data.pages.bounded import Bounds, Broken, extract_bounded
from openmimo.data.read import list_files, nothing_read
from openmimo.log import say
from openmimo.types import Document

FIELDS = ("id", "url", "title", "text", "source", "language", "tags")
ROWS_AT_ONCE, BYTES_AT_ONCE = 1000, 16_000_000  # ours: of a Parquet row group, in memory while it is made
UNNAMED = frozenset({"not a text page"})
"""Reasons that are no fault: pictures and scripts in an archive are counted, not named one by one."""


def extract_to(
    inputs: Sequence[Path],
    out: str,
    *,
    bounds: Bounds = Bounds(),
    complain: Callable[[str], None] = say,
) -> dict[str, Any]:
    """Read and extract every input into one file of documents; the file appears whole or not at all.

    Args:
        out: `.jsonl` or `.parquet`, or `-` for JSONL on standard output.
        complain: gets one line for each input, record or page that gave no document and should have.

    Returns:
        `pages` read, `documents` written, `broken` (what gave no document and should have), `reasons`: counts by
        reason of all that gave none. Without a document nothing is written.

    Raises:
        ValueError: for an unknown ending of `out`, or an input that is missing or of an unknown kind.
    """
    files = list_files(inputs)
    if not files:
        raise nothing_read(inputs, [])
    path = None if out == "-" else _checked(Path(out))
    counts: dict[str, Any] = {"pages": 0, "documents": 0, "broken": 0}
    reasons: Counter[str] = Counter()

    def documents() -> Iterator[Document]:
        for name, result in extract_bounded(files, bounds):
            counts["pages"] += not isinstance(result, Broken)
            if isinstance(result, Document):
                counts["documents"] += 1
                yield result
                continue
            full = result.reason if isinstance(result, Broken) else f"{result.reason}: {result.detail}"
            kind = full.partition(":")[0]
            reasons[kind] += 1
            if kind not in UNNAMED:
                counts["broken"] += 1
                complain(f"{name}: {full.removesuffix(': ')}")

    if path is None:
        _write_jsonl(documents(), sys.stdout.buffer)
    else:
        _write_file(documents(), path)
    return {**counts, "reasons": dict(sorted(reasons.items()))}


def bounds_of(num_workers: int | None, pdf_command: str, pdf_s: float) -> Bounds:
    """Bounds from what the command line says.

    Raises:
        ValueError: for less than one worker, no time, or a PDF command that cannot be run.
    """
    if num_workers is not None and num_workers < 1:
        raise ValueError(f"--workers must be at least 1, got {num_workers}")
    if not pdf_s > 0:
        raise ValueError(f"--pdf-seconds must be above 0, got {pdf_s:g}")
    if pdf_command:
        from openmimo.data.pages.pdf_command import check_command

        check_command(pdf_command)
    usual = min(Bounds().num_workers, os.cpu_count() or 1)
    return Bounds(num_workers=num_workers or usual, pdf_command=pdf_command, pdf_s=pdf_s)


def _checked(out: Path) -> Path:
    if out.suffix not in (".jsonl", ".parquet"):
        raise ValueError(f"cannot write {out}: expected a name that ends in .jsonl or .parquet, or - for stdout")
    if out.is_dir():
        raise ValueError(f"cannot write {out}: it is a folder")
    return out


def _write_file(documents: Iterator[Document], out: Path) -> None:
    from openmimo.checkpoint import aside, sync_folder

    first = next(documents, None)
    if first is None:
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = aside(out)
    try:
        with temporary.open("wb") as file:
            write = _write_parquet if out.suffix == ".parquet" else _write_jsonl
            write(_chain(first, documents), file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(out)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(out.parent)


def _chain(first: Document, rest: Iterator[Document]) -> Iterator[Document]:
    yield first
    yield from rest


def _write_jsonl(documents: Iterator[Document], file: BinaryIO) -> None:
    for document in documents:
        row = {name: getattr(document, name) for name in FIELDS}
        file.write(json.dumps(row, ensure_ascii=False, default=dict).encode("utf-8", "replace") + b"\n")
        file.flush()


def _write_parquet(documents: Iterator[Document], file: BinaryIO) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([(name, pa.large_string() if name == "text" else pa.string()) for name in FIELDS])
    rows: list[dict[str, str]] = []
    num_bytes = 0
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for document in documents:
            tags = json.dumps(dict(document.tags), ensure_ascii=False, sort_keys=True)
            plain = {name: tags if name == "tags" else getattr(document, name) for name in FIELDS}
            rows.append({name: value.encode("utf-8", "replace").decode() for name, value in plain.items()})
            num_bytes += len(document.text)
            if len(rows) == ROWS_AT_ONCE or num_bytes > BYTES_AT_ONCE:
                writer.write_table(pa.Table.from_pylist(rows, schema=schema))
                rows, num_bytes = [], 0
        writer.write_table(pa.Table.from_pylist(rows, schema=schema))
