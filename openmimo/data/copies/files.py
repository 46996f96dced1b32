"""Document rows out of JSONL and Parquet files, a bounded table at a time, in pieces that can be read apart.

A row has at least `id` and `text`; the other fields of DOCUMENT_SCHEMA are taken where they are there and any further
field is left out. A row that is no document is reported by file and place and costs its neighbours nothing. JSONL may
be packed (.gz, .zst) and is cut at line feeds alone: strings hold U+2028.
"""

from __future__ import annotations

import gzip
import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from openmimo.config import missing_file
from openmimo.data.documents import DOCUMENT_SCHEMA

PLAIN = (".jsonl", ".ndjson")
PACKED = tuple(name + packing for name in PLAIN for packing in (".gz", ".zst"))
SUFFIXES = (*PLAIN, *PACKED, ".parquet")

PIECE_BYTES = 64_000_000  # ours: the unit of parallel work
TABLE_ROWS, TABLE_BYTES = 4096, 8_000_000  # ours: a table holds no more, unless one row does
LONGEST_LINE = 64_000_000  # ours: a longer one is broken

NAMED = 20  # ours: faults of one piece that are told one by one


@dataclass
class Faults:
    """What was wrong in one piece."""

    lines: int = 0
    """Lines or rows read, good or not."""
    count: int = 0
    named: list[tuple[int, str]] = field(default_factory=list)
    """The first few: number of the line or row, counted from 1 in its piece, and what is wrong with it."""

    def add(self, number: int, reason: str) -> None:
        self.count += 1
        if len(self.named) < NAMED:
            self.named.append((number, reason))


@dataclass(frozen=True, slots=True)
class Piece:
    """Part of a file."""

    path: Path
    name: str
    """Relative to the input that it was found under."""
    first: int
    """First byte of JSONL, first row group of Parquet."""
    last: int
    """One past the last; a packed file has one piece, and 0 here."""


def list_documents(inputs: Sequence[Path]) -> list[tuple[Path, str]]:
    """(path, name) of every file to read, folders walked by name; hidden files and folders are left out.

    Raises:
        ValueError: if an input does not exist, is of another kind, or is a folder without such a file.
    """
    files: list[tuple[Path, str]] = []
    for entry in inputs:
        if not entry.exists():
            raise missing_file(entry)
        if not entry.is_dir():
            if not entry.name.lower().endswith(SUFFIXES):
                raise ValueError(
                    f"cannot read documents from {entry}: known endings are {', '.join(SUFFIXES)}; pages become "
                    "documents by openmimo data extract"
                )
            files.append((entry, entry.name))
            continue
        inside = [(path, path.relative_to(entry)) for path in entry.rglob("*")]
        found = [
            (path, name.as_posix())
            for path, name in inside
            if name.name.lower().endswith(SUFFIXES)
            and not any(part.startswith(".") for part in name.parts)
            and path.is_file()
        ]
        if not found:
            raise ValueError(f"no documents in {entry}: files that end in {', '.join(SUFFIXES)} are read")
        files += sorted(found, key=lambda pair: pair[1])
    return files


def cut(path: Path, name: str) -> list[Piece]:
    """A file's pieces, in order.

    Raises:
        ValueError: if it is no whole Parquet file, or its columns have no id and text.
    """
    low = name.lower()
    if low.endswith(PACKED):
        return [Piece(path, name, 0, 0)]
    if low.endswith(PLAIN):
        size = path.stat().st_size
        return [Piece(path, name, at, min(at + PIECE_BYTES, size)) for at in range(0, size, PIECE_BYTES)]
    try:
        with pq.ParquetFile(path) as file:
            lacking = {"id", "text"} - set(file.schema_arrow.names)
            sizes = [file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups)]
    except (OSError, pa.ArrowException) as error:
        raise ValueError(f"no whole Parquet file: {_first_line(error)}") from error
    if lacking:
        raise ValueError(f"no column {' and no column '.join(map(repr, sorted(lacking)))}")
    pieces, first, held = [], 0, 0
    for group, size in enumerate(sizes):
        held += size
        if held >= PIECE_BYTES or group == len(sizes) - 1:
            pieces.append(Piece(path, name, first, group + 1))
            first, held = group + 1, 0
    return pieces


def read_piece(piece: Piece, faults: Faults) -> Iterator[pa.Table]:
    """Tables of DOCUMENT_SCHEMA, each document a cluster of as many as its row says, one if it says nothing.

    A packed file that is torn gives what stands before the tear, and the tear is reported.
    """
    if piece.name.lower().endswith(".parquet"):
        yield from _parquet(piece, faults)
        return
    columns: dict[str, list[Any]] = {name: [] for name in DOCUMENT_SCHEMA.names}
    size = 0
    for number, line in _lines(piece, faults):
        try:
            row = _row(json.loads(line))
        except (ValueError, RecursionError) as error:
            faults.add(number, f"not a document row: {_first_line(error)}")
            continue
        for name, value in row.items():
            columns[name].append(value)
        size += len(line)
        if len(columns["id"]) >= TABLE_ROWS or size >= TABLE_BYTES:
            yield _table(columns)
            columns, size = {name: [] for name in DOCUMENT_SCHEMA.names}, 0
    if columns["id"]:
        yield _table(columns)


def _lines(piece: Piece, faults: Faults) -> Iterator[tuple[int, bytes]]:
    """Numbered lines that begin in the piece and are not blank."""
    number = 0
    with _opened(piece.path) as file:
        at = piece.first
        if at:
            file.seek(at - 1)
            at += len(_line(file)) - 1  # the line that began before is the piece's before
        while not piece.last or at < piece.last:
            try:
                line = _line(file)
            except (OSError, EOFError, pa.ArrowException) as error:  # a torn or damaged archive
                faults.add(number + 1, f"the archive is damaged from here on: {_first_line(error)}")
                break
            if not line:
                break
            number += 1
            at += len(line)
            if not line.endswith(b"\n") and len(line) >= LONGEST_LINE:
                faults.add(number, f"not a document row: longer than {LONGEST_LINE} bytes")
                while line and not line.endswith(b"\n"):
                    line = _line(file)
                    at += len(line)
            elif line.strip():
                yield number, line
    faults.lines = number


def _line(file: BinaryIO) -> bytes:
    return file.readline(LONGEST_LINE)


def _opened(path: Path) -> Any:
    if path.suffix == ".gz":
        return gzip.open(path, "rb")
    if path.suffix == ".zst":
        return io.BufferedReader(cast(Any, pa.input_stream(path, compression="zstd")), 1 << 20)
    return path.open("rb", buffering=1 << 20)


def _row(row: Any) -> dict[str, Any]:
    """The fields of DOCUMENT_SCHEMA."""
    if not isinstance(row, dict):
        raise ValueError(f"expected an object with id and text, got {type(row).__name__}")
    name, text = row.get("id"), row.get("text")
    if isinstance(name, int) and not isinstance(name, bool):
        name = str(name)
    for key, value in (("id", name), ("text", text)):
        if not isinstance(value, str):
            got = json.dumps(value)[:40] if key in row else f"only {', '.join(sorted(row)) or 'no field'}"
            raise ValueError(f"expected a string {key!r}, got {got}")
    found = {key: row[key] if isinstance(row.get(key), str) else "" for key in ("url", "title", "source", "language")}
    size = row.get("cluster_size")
    size = size if isinstance(size, int) and not isinstance(size, bool) and 1 <= size < 1 << 62 else 1
    return {"id": name, "text": text, **found, "tags": _tags(row.get("tags")), "cluster_id": name, "cluster_size": size}


def _tags(tags: Any) -> str:
    """One JSON object."""
    if isinstance(tags, str):
        try:
            tags = json.loads(tags)
        except (ValueError, RecursionError):
            return "{}"
    return json.dumps(tags, ensure_ascii=False, sort_keys=True, default=str) if isinstance(tags, dict) else "{}"


def _table(columns: dict[str, list[Any]]) -> pa.Table:
    arrays = []
    for wanted in DOCUMENT_SCHEMA:
        values = columns[wanted.name]
        try:
            arrays.append(pa.array(values, wanted.type))
        except UnicodeEncodeError:  # lone surrogates, which no UTF-8 can hold
            arrays.append(pa.array([v.encode("utf-8", "replace").decode() for v in values], wanted.type))
    return pa.Table.from_arrays(arrays, schema=DOCUMENT_SCHEMA)


def _parquet(piece: Piece, faults: Faults) -> Iterator[pa.Table]:
    number = 0
    with pq.ParquetFile(piece.path, buffer_size=1 << 20, pre_buffer=False) as file:
        columns = [name for name in file.schema_arrow.names if name in DOCUMENT_SCHEMA.names]
        groups = range(piece.first, piece.last)
        rows = sum(file.metadata.row_group(i).num_rows for i in groups)
        size = sum(file.metadata.row_group(i).total_byte_size for i in groups)
        at_once = max(1, min(TABLE_ROWS, TABLE_BYTES * rows // max(size, 1)))
        batches = file.iter_batches(at_once, row_groups=list(groups), columns=columns, use_threads=False)
        while True:
            try:
                batch = next(batches)
            except StopIteration:
                break
            except (OSError, pa.ArrowException) as error:
                faults.add(number + 1, f"the file is damaged from here on: {_first_line(error)}")
                break
            yield _typed(batch, number, faults)
            number += batch.num_rows
    faults.lines = number


def _typed(batch: pa.RecordBatch, before: int, faults: Faults) -> pa.Table:
    """The batch with the columns and types of DOCUMENT_SCHEMA, without rows that have no id or text."""
    found = {name: batch.column(name) for name in batch.schema.names}
    count = batch.num_rows
    strings = {name: _strings(found.get(name), count) for name in ("url", "title", "text", "source", "language")}
    ids = found["id"].cast(pa.string()) if pa.types.is_integer(found["id"].type) else _strings(found["id"], count)
    tags = found["tags"].to_pylist() if "tags" in found else [None] * count
    columns = {
        **{name: column if name == "text" else column.fill_null("") for name, column in strings.items()},
        "id": ids,
        "tags": pa.array([_tags(value) for value in tags], pa.string()),
        "cluster_id": ids,
        "cluster_size": _sizes(found.get("cluster_size"), count),
    }
    table = pa.table({name: columns[name] for name in DOCUMENT_SCHEMA.names}).cast(DOCUMENT_SCHEMA)
    good = pc.and_(table["id"].is_valid(), table["text"].is_valid())
    for place, fine in enumerate(good.to_pylist()):
        if not fine:
            faults.add(before + place + 1, "not a document row: id or text is null or no string")
    return table.filter(good)


def _strings(column: pa.Array | None, count: int) -> pa.Array:
    """The column, nulls where it holds no strings."""
    if column is not None and str(column.type) in ("string", "large_string", "string_view"):
        return column.cast(pa.large_string())
    return pa.nulls(count, pa.large_string())


def _sizes(column: pa.Array | None, count: int) -> pa.Array:
    """Numbers of 1 or more, 1 where the column holds something else."""
    if column is None or not pa.types.is_integer(column.type):
        return pa.array([1] * count, pa.int64())
    column = column.cast(pa.int64(), safe=False).fill_null(1)
    return pc.max_element_wise(column, pa.scalar(1, pa.int64()))


def _first_line(error: BaseException) -> str:
    words = str(error).strip()
    return words.split("\n")[0] if words else type(error).__name__
