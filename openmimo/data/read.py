"""Pages out of files: WARC, HTML, folders, jsonl, Parquet, PDF (MiMo 2.1).

Reading interprets nothing but containers. A row of jsonl or Parquet that is already a document (other rooms make them:
problem solutions, synthetic text) travels as a page of its own media type, `DOCUMENT`, and passes extraction unchanged.
A broken input is reported by name and costs its neighbours nothing.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from openmimo.log import say

DOCUMENT = "application/vnd.openmimo.document+json"
"""Media type of a page that is already a document: its content is one JSON object with at least `text`."""

DEFAULT_SOURCE = "web"
HTML_SUFFIXES = (".html", ".htm", ".xhtml")
WARC_SUFFIXES = (".warc", ".warc.gz")
JSONL_SUFFIXES = (".jsonl", ".jsonl.gz", ".ndjson")
KNOWN_SUFFIXES = (*HTML_SUFFIXES, *WARC_SUFFIXES, *JSONL_SUFFIXES, ".parquet", ".pdf")

ROW_FIELDS = ("id", "url", "title", "text", "source", "language", "tags", "cluster_id", "cluster_size")

Report = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Page:
    """One page as it was found."""

    url: str
    """Where it came from; a file without an address has its path, relative to the input it was found under."""
    content: bytes
    """Undecoded; for HTML the charset may be in media_type, in the page itself, or nowhere."""
    media_type: str
    """As the server said, parameters included: `text/html; charset=latin-1`, `application/pdf`, or DOCUMENT."""
    source: str
    """The mixture's stratum: `web`, `pdf`, or what a row says of itself."""


def read(inputs: Sequence[Path], *, broken: Report | None = None) -> Iterator[Page]:
    """Every page of every input, in the order given; folders are walked by name.

    Args:
        inputs: files or folders; a file is told by its ending, one of KNOWN_SUFFIXES.
        broken: called with (name, reason) for each input, record or row that could not be read; says it on stderr
            if None.

    Raises:
        ValueError: if an input does not exist, or its ending is unknown.
    """
    report = broken or (lambda name, reason: say(f"read: {name}: {reason}"))
    for path, name in list_files(inputs):
        yield from read_file(path, name, broken=report)


def list_files(inputs: Sequence[Path]) -> list[tuple[Path, str]]:
    """(path, name) of every file to read; the name is relative to the input it came from, so it holds no machine path.

    Files of unknown endings inside a folder are left out; named one by one they are an error.
    """
    files: list[tuple[Path, str]] = []
    for entry in inputs:
        if entry.is_dir():
            inside = [p for p in entry.rglob("*") if p.is_file() and p.name.lower().endswith(KNOWN_SUFFIXES)]
            files += sorted(((p, p.relative_to(entry).as_posix()) for p in inside), key=lambda pair: pair[1])
        elif not entry.exists():
            raise ValueError(f"no such input: {entry}")
        elif not entry.name.lower().endswith(KNOWN_SUFFIXES):
            raise ValueError(f"cannot read {entry}: known endings are {', '.join(KNOWN_SUFFIXES)}")
        else:
            files.append((entry, entry.name))
    return files


def read_file(path: Path, name: str, *, broken: Report) -> Iterator[Page]:
    """The pages of one file; a torn archive gives what stands before the tear."""
    low = name.lower()
    reader = (
        _warc if low.endswith(WARC_SUFFIXES)
        else _jsonl if low.endswith(JSONL_SUFFIXES)
        else _parquet if low.endswith(".parquet")
        else _single
    )  # fmt: skip
    try:
        yield from reader(path, name, broken)
    except Exception as error:
        broken(name, f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'unreadable'}")


def _single(path: Path, name: str, broken: Report) -> Iterator[Page]:
    content = path.read_bytes()
    if name.lower().endswith(".pdf"):
        if not content.lstrip()[:5] == b"%PDF-":
            raise ValueError("not a PDF file: no %PDF- at its start")
        yield Page(name, content, "application/pdf", "pdf")
    else:
        yield Page(name, content, "text/html", DEFAULT_SOURCE)


def _warc(path: Path, name: str, broken: Report) -> Iterator[Page]:
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    if path.suffix == ".gz":
        _require(path, b"\x1f\x8b", "not gzip data")
    records = 0
    with path.open("rb") as file:
        kinds = WarcRecordType.response | WarcRecordType.resource
        for record in ArchiveIterator(file, record_types=kinds, parse_http=True):
            records += 1
            url = record.headers.get("WARC-Target-URI") or ""
            url = url.strip("<>")
            expected = int(record.headers.get("Content-Length") or 0)
            head = record.http_headers
            if head is not None and not 200 <= (head.status_code or 200) < 300:
                continue
            content = record.reader.read()
            if head is None and len(content) < expected:
                broken(f"{name}#{records} {url}", f"record cut short: {len(content)} of {expected} bytes")
                continue
            media = _media_type(record)
            try:
                content = _decoded(content, (head.get("Content-Encoding") or "") if head is not None else "")
            except Exception as error:
                broken(f"{name}#{records} {url}", f"{type(error).__name__}: {error}")
                continue
            yield Page(url, content, media, "pdf" if media.startswith("application/pdf") else DEFAULT_SOURCE)
    if path.suffix == ".gz":
        _check_gzip_end(path)
    if records == 0:
        raise ValueError("no response or resource record in it")


def _media_type(record: Any) -> str:
    if record.http_headers is not None:
        return str(record.http_headers.get("Content-Type") or "text/html").lower()
    return str(record.headers.get("Content-Type") or "text/html").lower()


def _decoded(content: bytes, encoding: str) -> bytes:
    """Undo a Content-Encoding that the crawler stored as it was; archives often keep the header of decoded bodies."""
    import zlib

    encoding = encoding.lower().strip()
    if encoding in ("gzip", "x-gzip") and content[:2] == b"\x1f\x8b":
        return gzip.decompress(content)
    if encoding == "deflate" and content[:1] == b"\x78":
        return zlib.decompress(content)
    return content


def _require(path: Path, magic: bytes, complaint: str) -> None:
    with path.open("rb") as file:
        if file.read(len(magic)) != magic:
            raise ValueError(complaint)


def _check_gzip_end(path: Path) -> None:
    """Raise if the last gzip member is torn: the archive reader stops there without a word."""
    with gzip.open(path, "rb") as file:
        while file.read(1 << 20):
            pass


def _jsonl(path: Path, name: str, broken: Report) -> Iterator[Page]:
    opened = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
    with opened as file:
        for number, line in enumerate(file, 1):  # by b"\n" alone: strings hold U+2028
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                yield _row_page(row, name, number)
            except ValueError as error:
                broken(f"{name}:{number}", f"not a document row: {error}")


def _parquet(path: Path, name: str, broken: Report) -> Iterator[Page]:
    import pyarrow.parquet as pq

    number = 0
    with pq.ParquetFile(path) as file:
        columns = [c for c in file.schema_arrow.names if c in ROW_FIELDS]
        for batch in file.iter_batches(batch_size=1024, columns=columns):
            for row in batch.to_pylist():
                number += 1
                try:
                    yield _row_page(row, name, number)
                except ValueError as error:
                    broken(f"{name}:{number}", f"not a document row: {error}")


def _row_page(row: Any, name: str, number: int) -> Page:
    """A page that holds an existing document; its missing fields get names that any machine would give."""
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        have = sorted(row) if isinstance(row, dict) else type(row).__name__
        raise ValueError(f"expected an object with a string field 'text', got {have}")
    kept = {key: row[key] for key in ROW_FIELDS if row.get(key) is not None}
    kept.setdefault("id", f"{name}:{number}")
    kept.setdefault("source", name.split("/")[-1].split(".")[0])
    content = json.dumps(kept, ensure_ascii=False, sort_keys=True).encode("utf-8", "replace")
    url, source = (str(kept.get(key, "")).encode("utf-8", "replace").decode() for key in ("url", "source"))
    return Page(url, content, DOCUMENT, source)  # without lone surrogates: no UTF-8 can hold them


def broken_collector() -> tuple[Report, list[tuple[str, str]]]:
    """A report function and the list it fills: for callers that count instead of printing."""
    found: list[tuple[str, str]] = []
    return lambda name, reason: found.append((name, reason)), found


def nothing_read(inputs: Sequence[Path], broken: Sequence[tuple[str, str]]) -> ValueError:
    """The error for inputs without one page, saying why where something was broken."""
    places = ", ".join(map(str, inputs))
    why = f"{broken[0][0]}: {broken[0][1]}" if broken else f"files that end in {', '.join(KNOWN_SUFFIXES)} are read"
    return ValueError(f"no page or document in {places}; {why}")
