"""Reading: every container, and inputs that are torn, empty, or not what they claim."""

import gzip
import json
import zlib
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openmimo.data.read import DOCUMENT, KNOWN_SUFFIXES, Page, broken_collector, declared_url, list_files, read
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


def test_an_archive_is_read_on_behind_a_torn_record(tmp_path: Path) -> None:
    records = warc(*("<p>" + f"{i} words " * 500 for i in range(4)))
    plain = [gzip.decompress(record) for record in records]
    whole = b"".join(records)
    single = gzip.compress(b"".join(plain))
    for name, content, numbers, num_broken in (
        ("whole.warc.gz", whole, "0123", 0),
        ("one-member.warc.gz", single, "0123", 0),
        ("torn.warc.gz", records[0] + records[1][:150] + records[2] + records[3], "023", 1),
        ("flipped.warc.gz", whole.replace(records[1][100:140], b"\xff" * 40), "023", 1),
        ("end.warc.gz", whole[:-5], "0123", 1),
        ("cut.warc.gz", whole[:-100], "012", 1),
        ("header.warc.gz", b"".join(records[:3]) + records[3][:60], "012", 1),
        ("plain.warc", b"".join(plain), "0123", 0),
        ("false.warc.gz", records[0] + b"\x1f\x8b\x08" * 200_000, "0", 1),
    ):
        (tmp_path / name).write_bytes(content)
        pages, broken = read_all(tmp_path / name)
        assert "".join(p.url[-1] for p in pages if b"words </p>" not in p.content)[: len(numbers)] == numbers, name
        assert len(broken) >= 1 if num_broken else not broken, (name, broken)


def test_bodies_are_decoded_and_bounded(tmp_path: Path) -> None:
    def record(headers: str, body: bytes, status: str = "200 OK") -> bytes:
        http = f"HTTP/1.1 {status}\r\nContent-Type: text/html\r\n{headers}\r\n".encode() + body
        head = "WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://w.x/\r\nContent-Type: application/http\r\n"
        return f"{head}Content-Length: {len(http)}\r\n\r\n".encode() + http + b"\r\n\r\n"

    chunked = b"5\r\n<p>on\r\n1;x=y\r\ne\r\n0\r\n\r\n"
    (tmp_path / "a.warc").write_bytes(
        record("Content-Encoding: gzip\r\n", gzip.compress(b"<p>one"))
        + record("Content-Encoding: deflate\r\n", zlib.compress(b"<p>one"))
        + record("Content-Encoding: gzip\r\n", b"<p>one")  # decoded already
        + record("Transfer-Encoding: chunked\r\n", chunked)
        + record("Transfer-Encoding: chunked\r\n", b"<p>one")
        + record("X-Robots-Tag: NoIndex\r\n", b"<p>one")
        + record("", b"<p>moved", "301 Moved")
        + record("Content-Encoding: gzip\r\n", gzip.compress(b"<p>" * 20_000_000))
        + record("Content-Encoding: gzip\r\n", gzip.compress(b"<p>one")[:-4])
    )
    pages, broken = read_all(tmp_path / "a.warc")
    assert [p.content for p in pages] == [b"<p>one"] * 6 and pages[5].robots == "noindex"
    assert [reason.partition(":")[0] for _, reason in broken] == ["too large", "unreadable"]


def test_large_files_are_refused_unread(tmp_path: Path) -> None:
    with (tmp_path / "a.html").open("wb") as file:
        file.truncate(100_000_000)
    pages, broken = read_all(tmp_path / "a.html")
    assert pages == [] and broken == [("a.html", "too large: 100000000 bytes, 20000000 at most")]


def test_a_saved_page_s_own_address_is_found() -> None:
    for head in ('<link rel="canonical" href="https://a.b/c?d=1&amp;e">',
                 "<link href=https://a.b/c?d=1&amp;e rel=canonical>",
                 '<meta property="og:url" content="https://a.b/c?d=1&amp;e" />'):  # fmt: skip
        assert declared_url(f"<html><head>{head}".encode()) == "https://a.b/c?d=1&e"
    assert declared_url(b'<link rel="canonical" href="/relative">') == declared_url(b"<p>none") == ""
