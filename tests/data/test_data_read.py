"""Reading: every container, and inputs that are torn, empty, or not what they claim."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openmimo.data.read import DOCUMENT, KNOWN_SUFFIXES, Page, broken_collector, list_files, read
from openmimo.data.snapshot import warc_record


def warc(*bodies: str) -> list[bytes]:
    return [
        warc_record("response", f"http://w.x/{i}", b.encode(), "text/html; charset=utf-8") for i, b in enumerate(bodies)
    ]


def read_all(*inputs: Path) -> tuple[list[Page], list[tuple[str, str]]]:
    report, broken = broken_collector()
    return list(read(inputs, broken=report)), broken


def test_every_container_gives_pages(tmp_path: Path) -> None:
    (tmp_path / "a.warc.gz").write_bytes(b"".join(warc("<p>one", "<p>two")))
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/b.html").write_text("<p>three")
    (tmp_path / "c.jsonl").write_text(
        '{"text": "four \u2028 lines", "url": "http://u"}\n\n{"text": "five", "id": "x", "source": "s"}\n'
    )
    pq.write_table(pa.table({"text": ["six"], "other": [1]}), tmp_path / "d.parquet")
    (tmp_path / "e.pdf").write_bytes(b"%PDF-1.4")
    (tmp_path / "notes.txt").write_text("not read")
    pages, broken = read_all(tmp_path)
    assert broken == []
    assert [(p.url, p.media_type, p.source) for p in pages] == [
        ("http://w.x/0", "text/html; charset=utf-8", "web"), ("http://w.x/1", "text/html; charset=utf-8", "web"),
        ("http://u", DOCUMENT, "c"), ("", DOCUMENT, "s"), ("", DOCUMENT, "d"),
        ("e.pdf", "application/pdf", "pdf"), ("sub/b.html", "text/html", "web"),
    ]  # fmt: skip
    assert pages[0].content == b"<p>one"
    assert json.loads(pages[2].content)["text"] == "four \u2028 lines"
    assert json.loads(pages[4].content) == {"id": "d.parquet:1", "source": "d", "text": "six"}


def test_broken_inputs_are_named_and_cost_nothing_else(tmp_path: Path) -> None:
    records = warc("<p>" + "one " * 500, "<p>" + "two " * 500)
    (tmp_path / "a.warc.gz").write_bytes((records[0] + records[1])[:-40])
    (tmp_path / "b.jsonl").write_text('{"text": "good"}\n{"text": 1}\n{"te\n[]\n{"text": "also good"}\n')
    (tmp_path / "c.parquet").write_bytes(b"PAR1 not really")
    (tmp_path / "d.pdf").write_bytes(b"hello")
    (tmp_path / "e.warc.gz").write_bytes(b"no gzip")
    (tmp_path / "f.warc").write_bytes(b"")
    (tmp_path / "g.jsonl.gz").write_bytes(gzip.compress(b'{"text": "kept"}\n' * 200)[:-9])
    (tmp_path / "h.html").write_text("<p>last")
    pages, broken = read_all(tmp_path)
    names = [name for name, _ in broken]
    assert [n.split("@")[0] for n in names if n.startswith("a.")] == ["a.warc.gz"]
    assert [n for n in names if n.startswith("b.")] == ["b.jsonl:2", "b.jsonl:3", "b.jsonl:4"]
    assert {"c.parquet", "d.pdf", "e.warc.gz", "f.warc", "g.jsonl.gz"} <= set(names)
    assert pages[0].url == "http://w.x/0" and pages[-1].content == b"<p>last"
    assert sum(p.media_type == DOCUMENT for p in pages) >= 2


def test_error_pages_of_a_crawl_are_skipped(tmp_path: Path) -> None:
    missing = gzip.decompress(warc("<p>not found")[0]).replace(b"200 OK", b"404 No")
    (tmp_path / "a.warc").write_bytes(missing + gzip.decompress(warc("<p>found")[0]))
    pages, broken = read_all(tmp_path / "a.warc")
    assert [p.content for p in pages] == [b"<p>found"] and broken == []


def test_unknown_and_missing_inputs_are_errors(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(ValueError, match=r"cannot read .*a\.txt: known endings are \.html"):
        list_files([tmp_path / "a.txt"])
    with pytest.raises(ValueError, match="no such input"):
        list_files([tmp_path / "b.html"])
    assert ".warc.gz" in KNOWN_SUFFIXES
