"""Documents as rows: the one form on disk, Parquet or JSONL, and how a file appears whole or not at all."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pyarrow as pa

from openmimo.checkpoint import aside, sync_folder
from openmimo.rows import write_rows
from openmimo.types import Document

DOCUMENT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("url", pa.string()),
        ("title", pa.string()),
        ("text", pa.large_string()),
        ("source", pa.string()),
        ("language", pa.string()),
        ("tags", pa.string()),  # one JSON object
        ("cluster_id", pa.string()),  # id of the best copy of this document; its own until dedup has run
        ("cluster_size", pa.int64()),  # documents that this one stands for, itself included
    ]
)
"""A document row, the one form on disk."""


def document_row(document: Document) -> dict[str, Any]:
    """A DOCUMENT_SCHEMA row, a cluster of its own. Lone surrogates, which no UTF-8 can hold, become `?`."""
    tags = json.dumps(dict(document.tags), ensure_ascii=False, sort_keys=True)
    row = {
        "id": document.id, "url": document.url, "title": document.title, "text": document.text,
        "source": document.source, "language": document.language, "tags": tags,
        "cluster_id": document.id, "cluster_size": 1,
    }  # fmt: skip
    return {k: v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for k, v in row.items()}


def write_tables(tables: Iterable[pa.Table], out: Path) -> None:
    """Tables of DOCUMENT_SCHEMA into one file, which appears whole or not at all; in .jsonl `tags` is an object.

    Raises:
        ValueError: if `out` ends in neither .jsonl nor .parquet.
    """
    if out.suffix == ".jsonl":
        rows = (row for table in tables for row in table.to_pylist())
        write_rows(out, ({**row, "tags": json.loads(row["tags"] or "{}")} for row in rows))
    elif out.suffix == ".parquet":
        _write_parquet(tables, out)
    else:
        raise ValueError(f"cannot write {out}: expected a name that ends in .jsonl or .parquet")


def _write_parquet(tables: Iterable[pa.Table], out: Path) -> None:
    import pyarrow.parquet as pq

    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = aside(out)
    try:
        with pq.ParquetWriter(temporary, DOCUMENT_SCHEMA, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table)
        publish(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path) -> None:
    """Put a finished file in its place, durably."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)
