"""Claim: a hostile page costs at most its own time and memory, is counted, and the pages beside it come out.

    python benchmarks/extract_hostile.py [benchmarks/results/extract_hostile.json]

`openmimo data extract`, as a user runs it, on a folder of good pages with each kind of hostile input between them:
pages of 100 MB, 100,000 open elements (balanced, unclosed, tables, MathML), a million attributes, broken UTF-8, NULs,
twenty megabytes of tags, formula delimiters without end; an archive with torn gzip members, a record and a
Content-Encoding that swell to hundreds of megabytes, a header without end; a PDF whose page swells. Each kind runs by
itself beside six good pages, then all together.

Figures: wall-clock seconds, and the peak of the whole process tree's resident memory, each process in full, sampled
every 20 ms (shared pages count as often as they are mapped); whether each good page's document came out the same as
without the hostile one, and what became of that one.
"""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT)]

import record  # noqa: E402

MAX_WALL_S, MAX_TREE_BYTES, MAX_TEXT_BYTES = 60.0, 1 << 30, 20_000_000
NUM_GOOD = 6
PARAGRAPH = "<p>Paragraph {n} says enough about its own matter that a reader takes it for the page's main content.</p>"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        base = run(Path(folder) / "good", {})
        rows = [run(Path(folder) / name, {name: make}) | {"input": name} for name, make in HOSTILE.items()]
        together = run(Path(folder) / "together", HOSTILE)
    for row in [*rows, together]:
        row["good_same"] = row.pop("good") == base["good"]
    base["good"] = len(base["good"])
    holds = all(
        row["good_same"] and row["exit"] == 0 and row["peak_bytes"] <= MAX_TREE_BYTES
        and row["longest_text_bytes"] <= MAX_TEXT_BYTES for row in [*rows, together]
    ) and all(row["wall_s"] <= MAX_WALL_S for row in rows)  # fmt: skip
    figures = {
        "holds": holds,
        "figures": {
            "kinds of hostile input": len(rows),
            "with every good page the same": sum(row["good_same"] for row in rows),
            "longest wall_s of one": max(row["wall_s"] for row in rows),
            "largest peak_bytes of one": max(row["peak_bytes"] for row in rows),
            "all together": together,
            "good pages alone": base,
        },
        "inputs": rows,
    }
    claim = "hostile input: at most 60 s and 1 GiB for the process tree, counted, and no good page lost"
    record.write(claim, "python benchmarks/extract_hostile.py", figures)


def run(folder: Path, hostile: dict[str, Callable[[], bytes]]) -> dict[str, Any]:
    """Extract a folder of good pages with these between them."""
    pages = folder / "pages"
    pages.mkdir(parents=True)
    for number in range(NUM_GOOD):
        (pages / f"{number}-good.html").write_text(good(number), encoding="utf-8")
    for number, (name, make) in enumerate(hostile.items()):
        (pages / f"{number % NUM_GOOD}-x-{name}").write_bytes(make())
    out = folder / "out.jsonl"
    command = [sys.executable, "-m", "openmimo", "data", "extract", str(pages), "-o", str(out), "--json"]
    started_s, peak = time.monotonic(), 0
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment) as process:
        while process.poll() is None:
            peak = max(peak, tree_bytes(process.pid))
            time.sleep(0.02)
        wall_s = time.monotonic() - started_s
        assert process.stdout is not None
        counts = json.loads(process.stdout.read())
    documents = [json.loads(line) for line in out.read_bytes().split(b"\n") if line]
    kept = {Path(d["source"]).name: d["text"] for d in documents}
    archived = [d["url"] for d in documents if d["url"]]
    return {
        "exit": process.returncode,
        "wall_s": round(wall_s, 2),
        "peak_bytes": peak,
        "reasons": counts["reasons"],
        "documents": counts["documents"],
        "documents_of_archives": len(archived),
        "longest_text_bytes": max(len(d["text"].encode()) for d in documents),
        "good": sorted((name, text) for name, text in kept.items() if "-good" in name),
    }


def tree_bytes(pid: int) -> int:
    """Resident memory of a process and all below it."""
    try:
        own = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        return own + sum(tree_bytes(child) for child in record.children(pid))
    except (FileNotFoundError, ProcessLookupError):
        return 0


# ---- inputs --------------------------------------------------------------------------------------------------------


def good(number: int) -> str:
    body = "".join(PARAGRAPH.format(n=f"{number}.{i}") for i in range(5))
    return f"<html lang=en><head><title>Page {number}</title></head><body><main>{body}</main></body></html>"


def html(body: str) -> bytes:
    return f"<html><head><title>x</title></head><body>{body}</body></html>".encode()


def record_of(number: int, body: bytes, headers: str = "") -> bytes:
    http = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{headers}\r\n".encode() + body
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://w.x/{number}\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + http + b"\r\n\r\n", 6, mtime=0)


def beside(*hostile: bytes) -> bytes:
    """An archive with good records before, between and behind these."""
    found = record_of(0, good(0).encode())
    for number, piece in enumerate(hostile, 1):
        found += piece + record_of(number, good(number).encode())
    return found


def swelling_pdf() -> bytes:
    """A PDF of one page whose content stream is 300 MB of text operators in 300 KB."""
    content = zlib.compress(b"BT /F1 10 Tf 72 700 Td (words and words) Tj ET\n" * 6_000_000)
    objects = [
        b"<< /Type /Catalog /Pages 2 0 R >>",
        b"<< /Type /Pages /Kids [5 0 R] /Count 1 >>",
        b"<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>",
        b"<< /Length %d /Filter /FlateDecode >>\nstream\n%s\nendstream" % (len(content), content),
        b"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Contents 4 0 R "
        b"/Resources << /Font << /F1 3 0 R >> >> >>",
    ]
    out = b"%PDF-1.4\n"
    for number, body in enumerate(objects, 1):
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    return out + b"trailer << /Size 6 /Root 1 0 R >>\n%%EOF"


HOSTILE: dict[str, Callable[[], bytes]] = {
    "100-megabytes.html": lambda: html("words " * 17_000_000),
    "deep.html": lambda: html("<div>" * 100_000 + "x" + "</div>" * 100_000),
    "unclosed.html": lambda: html("<b><i><a href=x>" * 100_000 + "x"),
    "tables.html": lambda: html("<table><tr><td>" * 100_000 + "x"),
    "lists.html": lambda: html("<ul><li>" * 100_000 + "x"),
    "mathml.html": lambda: html("<math>" + "<mrow><msup>" * 100_000 + "x"),
    "attributes.html": lambda: html("<p " + " ".join(f"a{i}='{i}'" for i in range(1_000_000)) + ">x</p>"),
    "attributes-unquoted.html": lambda: html("<p " + " ".join(f"a{i}" for i in range(1_000_000)) + ">x</p>"),
    "utf-8.html": lambda: html("words ").replace(b"words", b"words \xff\xfe\xc3\x28 \xe2\x82 \xf0\x90" * 100_000),
    "nuls.html": lambda: html("words and more words").replace(b" ", b" \x00" * 1_000_000),
    "tags.html": lambda: html("<i></i>" * 2_800_000),
    "formulas.html": lambda: html("$\\(\\[\\begin{align}$$" * 200_000),
    "posts.html": lambda: html('<div class="post-body">' * 9_000 + "x"),
    "code.html": lambda: html("<pre>`" * 9_000 + "`" * 1_000_000),
    "entities.html": lambda: html("&lt;&amp;" * 2_000_000),
    "torn.warc.gz": lambda: beside(record_of(9, good(9).encode())[:150], record_of(9, good(9).encode())[:-9]),
    "torn-end.warc.gz": lambda: beside() + record_of(9, good(9).encode())[:-30],
    "garbage.warc.gz": lambda: beside(b"\x1f\x8b\x08" * 1000, b"\x00" * 100_000),
    "record-bomb.warc.gz": lambda: beside(record_of(9, b"<p>" + b"bomb " * 100_000_000)),
    "encoding-bomb.warc.gz": lambda: beside(
        record_of(9, gzip.compress(b"<p>" + b"bomb " * 200_000_000), "Content-Encoding: gzip\r\n")
    ),
    "header-bomb.warc.gz": lambda: beside(gzip.compress(b"WARC/1.0\r\nWARC-Type: " + b"x" * 500_000_000)),
    "swelling.pdf": swelling_pdf,
    "not-a.pdf": lambda: b"%PDF-1.7\n" + b"\xff" * 1_000_000,
}


if __name__ == "__main__":
    main()
