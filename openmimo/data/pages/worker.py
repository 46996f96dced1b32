"""A process that reads or extracts for another, which may kill it at any moment (MiMo 2.1: pages are hostile).

    python -m openmimo.data.pages.worker

Jobs come on standard input and answers go to standard output as frames: two lengths (4 bytes each, little-endian), a
JSON header, raw bytes. The process limits its own address space by job, so that a page which wants more fails here.
A job to read is answered by one frame a page or broken input, an `at` frame where each archive's record begins, and
`end`; a job to extract by one frame.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import os
import resource
import struct
import sys
from pathlib import Path
from typing import IO, Any

from openmimo.data.read import Page, declared_url, is_saved_page, read_file
from openmimo.types import Document

READING_BYTES = 130_000_000  # ours: a record, its decoded page, and the buffers between


def write_frame(stream: IO[bytes], header: dict[str, Any], body: bytes = b"") -> None:
    """Send one frame."""
    head = json.dumps(header).encode()
    stream.write(struct.pack("<II", len(head), len(body)) + head)
    stream.write(body)
    stream.flush()


def read_frame(stream: IO[bytes]) -> tuple[dict[str, Any], bytes] | None:
    """The next frame; None if the stream ended, even inside one. Takes no byte beyond it from an unbuffered stream."""
    sizes = _read_exactly(stream, 8)
    num_head, num_body = struct.unpack("<II", sizes) if len(sizes) == 8 else (0, 0)
    head = _read_exactly(stream, num_head)
    body = _read_exactly(stream, num_body)
    if not num_head or len(head) < num_head or len(body) < num_body:
        return None
    return json.loads(head), body


def _read_exactly(stream: IO[bytes], num_bytes: int) -> bytes:
    """So many bytes, or fewer if the stream ends before."""
    found = bytearray(num_bytes)
    have = 0
    with memoryview(found) as view:
        while have < num_bytes and (more := stream.readinto(view[have:])):  # type: ignore[attr-defined]
            have += more
    return bytes(found[:have]) if have < num_bytes else bytes(found)


def main() -> None:
    """Answer jobs until there are no more."""
    jobs, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # a library that prints must not print into the answers
    _warm_up()
    while (frame := read_frame(jobs)) is not None:
        job, body = frame
        if "files" in job:
            _read(job, answers)
        else:
            _extract(job, body, answers)


def _warm_up() -> None:
    """Import what pages need before memory is limited."""
    for name in (
        "resiliparse.parse.encoding", "resiliparse.parse.lang", "selectolax.lexbor",
        "xxhash", "openmimo.data.pages.extract", "openmimo.data.pages.forum", "openmimo.data.urls",
    ):  # fmt: skip
        importlib.import_module(name)


def _read(job: dict[str, Any], answers: IO[bytes]) -> None:
    """job: `files` ([path, name] each), `start` (byte of the first file to begin at)."""
    if not any(name.endswith(".parquet") for _, name in job["files"]):  # Arrow reserves far more than it uses
        _limit_memory(READING_BYTES)
    for number, (path, name) in enumerate(job["files"]):
        write_frame(answers, {"file": number})
        pages = read_file(
            Path(path),
            name,
            broken=lambda name, reason: write_frame(answers, {"broken": name, "reason": reason}),
            start=job["start"] if number == 0 else 0,
            at=lambda position: write_frame(answers, {"at": position}),
        )
        for page in pages:
            if is_saved_page(name):
                page = dataclasses.replace(page, url=declared_url(page.content), source=path)
            facts = {key: value for key, value in vars_of(page).items() if key != "content"}
            write_frame(answers, {"page": facts}, page.content)
    write_frame(answers, {"end": True})


def _extract(job: dict[str, Any], content: bytes, answers: IO[bytes]) -> None:
    """job: `page` (its fields but the content), `memory_bytes`, `max_text_bytes`, `pdf_command`."""
    from openmimo.data.pages.extract import Dropped, extract
    from openmimo.data.pages.pdf_command import parse_with

    page = Page(content=content, **job["page"])
    result: Document | Dropped
    try:
        if job["pdf_command"]:
            result = parse_with(job["pdf_command"], page, max_bytes=job["max_text_bytes"])
        else:
            _limit_memory(job["memory_bytes"])
            result = extract(page)
        if isinstance(result, Dropped) and result.detail.startswith(("MemoryError", "SelectolaxError")):
            result = Dropped("memory limit", f"more than {job['memory_bytes']} bytes")
        if isinstance(result, Document) and len(result.text) > job["max_text_bytes"]:
            result = Dropped("too large", f"{len(result.text)} characters of text")
        head, body = vars_of(result), b""
        if isinstance(result, Document):
            body = result.text.encode("utf-8", "replace")
            head |= {"text": "", "tags": dict(result.tags)}
    except MemoryError:
        head, body = vars_of(Dropped("memory limit", f"more than {job['memory_bytes']} bytes")), b""
    if len(body) > job["max_text_bytes"]:
        head, body = vars_of(Dropped("too large", f"{len(body)} bytes of text")), b""
    del content, page, result
    _limit_memory(None)
    write_frame(answers, head, body)


def vars_of(value: Any) -> dict[str, Any]:
    """The fields of a dataclass as they are; `asdict` would copy a page."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def _limit_memory(more_bytes: int | None) -> None:
    """Let this process have so much more address space than it has now, or, with None, any."""
    hard = resource.getrlimit(resource.RLIMIT_AS)[1]
    soft = hard
    if more_bytes is not None:
        pages = int(Path("/proc/self/statm").read_text().split()[0]) if Path("/proc/self/statm").exists() else 0
        soft = pages * resource.getpagesize() + more_bytes
        soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
    with contextlib.suppress(ValueError, OSError):  # systems that cannot limit it
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


if __name__ == "__main__":
    main()
