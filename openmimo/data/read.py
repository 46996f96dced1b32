"""Pages out of files: WARC, HTML, folders, jsonl, Parquet, PDF (MiMo 2.1).

Reading interprets nothing but containers. A row of jsonl or Parquet that is already a document (other rooms make them:
problem solutions, synthetic text) travels as a page of its own media type, `DOCUMENT`, and passes extraction unchanged.
A broken input is reported by name and costs its neighbours nothing: behind a torn or swollen record of an archive,
reading goes on at the next one.
"""

from __future__ import annotations

import gzip
import json
import mmap
import re
import zlib
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

MAX_PAGE_BYTES = {"application/pdf": 30_000_000}  # ours
MAX_OTHER_BYTES = 20_000_000
"""Of one page, decompressed: a parsed page takes about ten times its size."""
MAX_FALSE_STARTS = 100_000  # ours: bytes that look like a gzip member and are none, before an archive is given up
MAX_ROW_BYTES = 64_000_000  # ours: one document's line of jsonl

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
    robots: str = ""
    """What the server's X-Robots-Tag said, in lower case."""


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


def read_file(
    path: Path, name: str, *, broken: Report, start: int = 0, at: Callable[[int], None] | None = None
) -> Iterator[Page]:
    """The pages of one file.

    Args:
        broken: called with (name, reason); a reason's words before its first colon are its kind.
        start: byte of an archive to begin at, the beginning of a record; ignored for other files.
        at: called with each byte of an archive where a record begins, before the record is read.
    """
    low = name.lower()
    try:
        if low.endswith(WARC_SUFFIXES):
            yield from _warc(path, name, broken, start, at or (lambda position: None))
        elif low.endswith(JSONL_SUFFIXES):
            yield from _jsonl(path, name, broken)
        elif low.endswith(".parquet"):
            yield from _parquet(path, name, broken)
        else:
            yield _single(path, name)
    except Oversized as error:
        broken(name, f"too large: {error}")
    except Exception as error:
        broken(name, f"unreadable: {first_line(error)}")


class Oversized(ValueError):
    """A page of more bytes than may be held."""


def first_line(error: BaseException) -> str:
    """An error in one line: its type and what it says."""
    said = str(error).strip().splitlines()
    return f"{type(error).__name__}: {said[0]}" if said else type(error).__name__


def is_saved_page(name: str) -> bool:
    """Whether a file is one page by itself, no container of several."""
    return name.lower().endswith((*HTML_SUFFIXES, ".pdf"))


_CANONICAL = re.compile(
    rb"<link\b[^>]{0,300}?\brel\s*=\s*[\"']?canonical\b[^>]{0,300}>|<meta\b[^>]{0,300}?\bog:url\b[^>]{0,300}>",
    re.IGNORECASE,
)
_ADDRESS = re.compile(rb"(?:href|content)\s*=\s*[\"']?(https?://[^\s\"'<>]{3,2000})", re.IGNORECASE)


def declared_url(content: bytes) -> str:
    """The address that a saved page says it has, empty if it says none."""
    for tag in _CANONICAL.finditer(content[:200_000]):
        if found := _ADDRESS.search(tag.group()):
            return found.group(1).decode("utf-8", "replace").replace("&amp;", "&")
    return ""


def max_bytes(media_type: str) -> int:
    """Bytes that a page of this type may have, decompressed."""
    return MAX_PAGE_BYTES.get(media_type.split(";")[0].strip().lower(), MAX_OTHER_BYTES)


def _single(path: Path, name: str) -> Page:
    kind = "application/pdf" if name.lower().endswith(".pdf") else "text/html"
    with path.open("rb") as file:
        content = file.read(max_bytes(kind) + 1)
    if len(content) > max_bytes(kind):
        raise Oversized(f"{path.stat().st_size} bytes, {max_bytes(kind)} at most")
    if kind == "text/html":
        return Page(name, content, kind, DEFAULT_SOURCE)
    if b"%PDF-" not in content[:1024]:  # Acrobat's own tolerance
        raise ValueError("not a PDF file: no %PDF- at its start")
    return Page(name, content, kind, "pdf")


# ---- archives ------------------------------------------------------------------------------------------------------


def _warc(path: Path, name: str, broken: Report, start: int, at: Callable[[int], None]) -> Iterator[Page]:
    if path.stat().st_size == 0:
        raise ValueError("no record in it: the file is empty")
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        gzipped = path.suffix == ".gz"
        if gzipped and data[:2] != b"\x1f\x8b":
            raise ValueError("not gzip data")
        position: int | None = start
        while position is not None:
            at(position)
            file.seek(position)
            run = _Run(position)
            yield from _records(file, name, broken, at, run)
            behind = run.last if run.last < len(data) else position  # one member of many records: its own end
            position = next_record(data, behind + 1, gzipped=gzipped)
            if run.failed and (run.inside or run.num_records == 0 or position is None):
                broken(f"{name}@{behind}", run.failed)
            elif position is None and gzipped and not run.cut and (wrong := _wrong_at_end(data, behind)):
                broken(f"{name}@{behind}", wrong)


@dataclass(slots=True)
class _Run:
    """How far reading came before a tear."""

    last: int
    """Byte where the last record seen begins."""
    num_records: int = 0
    inside: bool = False
    """The last record was begun and not finished."""
    cut: bool = False
    """The last record was reported already."""
    failed: str = ""
    """What was wrong; empty if nothing was."""


def _records(file: Any, name: str, broken: Report, at: Callable[[int], None], run: _Run) -> Iterator[Page]:
    """Pages from where the file stands to its end or the first tear; `run` says which."""
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    limit = max(MAX_OTHER_BYTES, *MAX_PAGE_BYTES.values()) + 100_000  # and its HTTP header
    try:
        for record in ArchiveIterator(file, record_types=WarcRecordType.any_type, parse_http=False):
            run.last, run.inside, run.cut = record.stream_pos, True, False
            run.num_records += 1
            at(run.last)
            if record.record_type in (WarcRecordType.response, WarcRecordType.resource):
                url = (record.headers.get("WARC-Target-URI") or "").strip("<>")
                block = record.reader.read(limit)
                page, wrong = _page_of(record, url, block, limit)
                if wrong:
                    broken(f"{name}@{run.last} {url}", wrong)
                    run.cut = True
                if page is not None:
                    yield page
                if len(block) == limit:
                    return  # what is left of it is skipped unread
            run.inside = False
        if not run.num_records:
            run.failed = "unreadable: no WARC record"
    except Exception as error:
        run.failed = f"unreadable: {first_line(error)}"


def next_record(data: Any, position: int, *, gzipped: bool) -> int | None:
    """The first byte from `position` on where a WARC record begins (a gzip member of its own, if gzipped), or None."""
    mark = b"\x1f\x8b\x08" if gzipped else b"\nWARC/1."
    for _ in range(MAX_FALSE_STARTS):
        found = data.find(mark, position)
        if found < 0:
            return None
        if not gzipped:
            return int(found) + 1
        try:
            if zlib.decompressobj(31).decompress(data[found : found + 1000], 5) == b"WARC/":
                return int(found)
        except zlib.error:
            pass
        position = found + 1
    return None


def _wrong_at_end(data: Any, position: int) -> str:
    """What is wrong with the gzip member that begins at `position` as the last of a file, empty if nothing is.

    One too large to be a record is not judged.
    """
    inflate = zlib.decompressobj(31)
    for begin in range(position, len(data), 1 << 20):
        piece = data[begin : begin + (1 << 20)]
        while piece and not inflate.eof:
            inflate.decompress(piece, 1 << 22)
            piece = inflate.unconsumed_tail
        if inflate.eof:
            rest = len(inflate.unused_data) + max(0, len(data) - begin - (1 << 20))
            return f"cut short: no record in the last {rest} bytes" if rest else ""
        if begin - position > MAX_OTHER_BYTES:
            return ""
    return "cut short: the last gzip member has no end"


def _page_of(record: Any, url: str, block: bytes, limit: int) -> tuple[Page | None, str]:
    """The page in a record's block, None where the server did not answer with one; and what is wrong, if anything."""
    expected = int(record.headers.get("Content-Length") or 0)
    media = str(record.headers.get("Content-Type") or "text/html").lower()
    robots = ""
    if len(block) == limit:
        return None, f"too large: a record of {expected} bytes"
    if len(block) < expected:
        return None, f"cut short: {len(block)} of {expected} bytes"
    if media.startswith("application/http") or block.startswith(b"HTTP/"):
        status, headers, block = _http(block)
        if not 200 <= status < 300:
            return None, ""
        media = (headers.get("content-type") or "text/html").lower()
        robots = headers.get("x-robots-tag", "").lower()
        if "chunked" in headers.get("transfer-encoding", "").lower():
            block = _unchunked(block)
        try:
            block = _decoded(block, headers.get("content-encoding", ""), max_bytes(media))
        except Oversized as error:
            return None, f"too large: {error}"
        except (ValueError, zlib.error) as error:
            return None, f"unreadable: {first_line(error)}"
    if len(block) > max_bytes(media):
        return None, f"too large: {len(block)} bytes, {max_bytes(media)} at most"
    source = "pdf" if media.startswith("application/pdf") else DEFAULT_SOURCE
    return Page(url, block, media, source, robots), ""


def _http(block: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers in lower case, and body of an HTTP response."""
    head, _, body = block.partition(b"\r\n\r\n") if b"\r\n\r\n" in block[:65536] else block.partition(b"\n\n")
    first, *lines = head.decode("latin-1").split("\n")
    status = re.match(r"HTTP/[\d.]+\s+(\d{3})", first)
    pairs = (line.partition(":") for line in lines if ":" in line)
    return int(status.group(1)) if status else 200, {k.strip().lower(): v.strip() for k, _, v in pairs}, body


def _unchunked(body: bytes) -> bytes:
    """A body without its chunk sizes; archives often keep the header of bodies that are joined already."""
    pieces: list[bytes] = []
    position = 0
    while (size := re.compile(rb"([0-9a-fA-F]{1,8})[ \t]*(?:;[^\r\n]*)?\r\n").match(body, position)) is not None:
        length = int(size.group(1), 16)
        if length == 0:
            return b"".join(pieces)
        pieces.append(body[size.end() : size.end() + length])
        position = size.end() + length + 2
    return b"".join(pieces) if pieces and position >= len(body) else body


def _decoded(content: bytes, encoding: str, limit: int) -> bytes:
    """Undo a Content-Encoding that the crawler stored as it was; archives often keep the header of decoded bodies."""
    encoding = encoding.lower().strip()
    gzipped = encoding in ("gzip", "x-gzip") and content[:2] == b"\x1f\x8b"
    if not gzipped and not (encoding == "deflate" and content[:1] == b"\x78"):
        return content
    inflate = zlib.decompressobj(31 if gzipped else 15)
    plain = inflate.decompress(content, limit + 1)
    if len(plain) > limit:
        raise Oversized(f"more than {limit} bytes out of {len(content)}")
    if not inflate.eof:
        raise ValueError(f"its {encoding} body is cut short")
    return plain


# ---- rows ----------------------------------------------------------------------------------------------------------


def _jsonl(path: Path, name: str, broken: Report) -> Iterator[Page]:
    opened = gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")
    with opened as file:
        number = 0
        while line := file.readline(MAX_ROW_BYTES + 1):  # by b"\n" alone: strings hold U+2028
            number += 1
            if len(line) > MAX_ROW_BYTES:
                raise Oversized(f"line {number} has more than {MAX_ROW_BYTES} bytes")
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
