"""The extract command: every kind of input, exit codes, and pages that hang, swell or crash beside good ones."""

import gzip
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from test_data_pdf import pdf

from openmimo.data.pages.bounded import Bounds, Broken, extract_bounded, extract_pages
from openmimo.data.pages.extract import Dropped, extract
from openmimo.data.pages.extract_files import FIELDS, bounds_of, extract_to
from openmimo.data.pages.hostile import MAX_ATTRIBUTES, MAX_DEPTH, hostile_markup
from openmimo.data.read import Page, list_files
from openmimo.data.snapshot import warc_record
from openmimo.types import Document

HEAD = '<title>T</title><meta name=robots content="NoArchive"><link rel=license href="http://l">'
WORDS = "<p>The following paragraph says enough about the matter that a reader takes it for the main content.</p>" * 3
GOOD = f"<html lang=en><head>{HEAD}</head><body><main>{WORDS}</main></body></html>"


def run(*arguments: object, cwd: Path) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).resolve().parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    command = [sys.executable, "-m", "openmimo", "data", "extract", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def test_every_kind_of_input_gives_documents_in_order(tmp_path: Path) -> None:
    folder = tmp_path / "in"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.html").write_text(
        GOOD.replace("<title>", '<link rel="canonical" href="https://a.b/c?x=1&amp;y=2"><title>')
    )
    (folder / "b.warc.gz").write_bytes(
        warc_record("response", "http://w.x/0", GOOD.encode(), "text/html")
        + warc_record("response", "http://w.x/pic", b"\x89PNG", "image/png")
        + warc_record("response", "http://w.x/1", GOOD.encode(), "text/html; charset=utf-8")
    )
    (folder / "c.pdf").write_bytes(pdf([(72, 700, "Hello there, reader of papers.")], title="Paper"))
    (folder / "sub/d.htm").write_text(GOOD)
    lines: list[str] = []
    found = extract_to([folder, folder / "a.html"], str(tmp_path / "out.jsonl"), complain=lines.append)
    assert found == {"pages": 7, "documents": 6, "broken": 0, "reasons": {"not a text page": 1}} and lines == []
    documents = rows(tmp_path / "out.jsonl")
    assert [tuple(d) for d in documents] == [FIELDS] * 6
    assert [(d["url"], d["source"].removeprefix(str(folder) + "/")) for d in documents] == [
        ("https://a.b/c?x=1&y=2", "a.html"), ("http://w.x/0", "web"), ("http://w.x/1", "web"), ("", "c.pdf"),
        ("", "sub/d.htm"), ("https://a.b/c?x=1&y=2", "a.html"),
    ]  # fmt: skip
    assert documents[0]["tags"] == {"robots": "noarchive", "licence": "http://l"}
    assert documents[0]["language"] == "en" and documents[3]["title"] == "Paper"
    extract_to([folder], str(tmp_path / "out.parquet"))
    table = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [{**row, "tags": json.loads(row["tags"])} for row in table] == documents[:5]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in", "out.jsonl", "out.parquet"]


def test_the_command_writes_counts_and_names_what_is_broken(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.html").write_text(GOOD)
    (tmp_path / "in/b.html").write_text("")
    (tmp_path / "in/c.pdf").write_text("no pdf")
    done = run("in", "-o", "out/new.jsonl", "--json", cwd=tmp_path)
    assert (done.returncode, json.loads(done.stdout)) == (
        0, {"pages": 2, "documents": 1, "broken": 2, "reasons": {"empty": 1, "unreadable": 1}},
    )  # fmt: skip
    assert done.stderr.split("\n") == [
        "in/b.html: empty", "in/c.pdf: unreadable: ValueError: not a PDF file: no %PDF- at its start", "",
    ]  # fmt: skip
    assert len(rows(tmp_path / "out/new.jsonl")) == 1
    piped = run("in/a.html", "-o", "-", "--json", cwd=tmp_path)
    assert json.loads(piped.stdout)["source"] == "in/a.html" and json.loads(piped.stderr)["documents"] == 1


def test_nothing_out_is_status_1_and_wrong_usage_2(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "old.jsonl").write_text("old")
    nothing = run("a.html", "empty", "-o", "old.jsonl", cwd=tmp_path)
    assert nothing.returncode == 1 and (tmp_path / "old.jsonl").read_text() == "old"
    for arguments, message in (
        (["a.html", "-o", "out.txt"], "expected a name that ends in .jsonl or .parquet"),
        (["empty", "-o", "out.jsonl"], "no page or document in empty"),
        (["b.html", "-o", "out.jsonl"], "does not exist"),
        (["a.html", "-o", "out.jsonl", "--workers", "0"], "--workers must be at least 1, got 0"),
    ):
        wrong = run(*arguments, cwd=tmp_path)
        assert wrong.returncode == 2 and message in wrong.stderr and len(wrong.stderr.strip().split("\n")) == 1
    assert not list(tmp_path.glob("out*"))


def archive(*records: bytes) -> bytes:
    return b"".join(records)


def record(number: int, body: bytes = GOOD.encode(), headers: str = "") -> bytes:
    http = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n{headers}\r\n".encode() + body
    head = (
        f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: <http://w.x/{number}>\r\n"
        f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(http)}\r\n\r\n"
    )
    return gzip.compress(head.encode() + http + b"\r\n\r\n", mtime=0)


def test_torn_and_swollen_records_cost_only_themselves(tmp_path: Path) -> None:
    bomb = record(3, b"<p>" + b"bomb " * 8_000_000)
    encoded = record(5, gzip.compress(b"<p>" + b"bomb " * 8_000_000), "Content-Encoding: gzip\r\n")
    zipped = record(6, gzip.compress(GOOD.encode()), "Content-Encoding: gzip\r\nX-Robots-Tag: noindex\r\n")
    chunks = record(7, b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD.encode()), "Transfer-Encoding: chunked\r\n")
    (tmp_path / "a.warc.gz").write_bytes(
        archive(record(0), record(1)[:150], record(2), bomb, record(4), encoded, zipped, chunks, record(8)[:-90])
    )
    lines: list[str] = []
    found = extract_to([tmp_path / "a.warc.gz"], str(tmp_path / "o.jsonl"), complain=lines.append)
    documents = rows(tmp_path / "o.jsonl")
    assert [d["url"][-1] for d in documents] == ["0", "2", "4", "6", "7"]
    assert len({d["text"] for d in documents}) == 1
    assert documents[3]["tags"]["robots"] == "noarchive, noindex"
    assert found["broken"] == 4 == len(lines) and found["reasons"] == {"cut short": 1, "too large": 2, "unreadable": 1}


def test_pages_that_hang_swell_or_crash_cost_only_themselves(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    aside = tmp_path_factory.mktemp("aside")
    monkeypatch.setattr(tempfile, "tempdir", str(aside))
    for number in range(6):
        (tmp_path / f"good{number}.html").write_text(GOOD)
    (tmp_path / "good0-deep.html").write_text("<div>" * 100_000 + "x")
    (tmp_path / "good1-attributes.html").write_text("<p " + " ".join(f"a{i}=1" for i in range(100_000)) + ">x")
    (tmp_path / "good2-swells.html").write_text("<i></i>" * 400_000)
    (tmp_path / "good3-hangs.pdf").write_bytes(b"%PDF-hang")
    (tmp_path / "good4-crashes.pdf").write_bytes(b"%PDF-crash")
    command = tmp_path / "parser.sh"
    command.write_text('#!/bin/sh\ngrep -q hang "$1" && sleep 100\nkill -9 $PPID\n')
    bounds = Bounds(num_workers=2, pdf_command=f"sh {command} {{input}}", pdf_s=1.0, large_memory_bytes=60_000_000)
    found = {Path(name).name: result for name, result in extract_bounded(list_files([tmp_path]), bounds)}
    assert list(found) == sorted(found)
    assert all(isinstance(found[f"good{number}.html"], Document) for number in range(6))
    assert not list(aside.iterdir())  # not even of those that were killed
    bad = {name: result.reason for name, result in found.items() if isinstance(result, Dropped)}
    assert bad == {
        "good0-deep.html": "hostile markup", "good1-attributes.html": "hostile markup",
        "good2-swells.html": "memory limit", "good3-hangs.pdf": "time limit", "good4-crashes.pdf": "memory limit",
    }  # fmt: skip


def test_the_reader_goes_on_behind_a_record_that_takes_too_long(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.html")  # nobody ever writes to it
    (tmp_path / "b.html").write_text(GOOD)
    files = [(tmp_path / name, name) for name in ("a.html", "b.html")]
    found = [result for _, result in extract_bounded(files, Bounds(page_s=2.0))]
    assert found[0] == Broken("time limit: more than 2 s to read") and isinstance(found[1], Document)


def test_too_much_text_is_no_document(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(GOOD)
    ((_, result),) = extract_bounded(list_files([tmp_path]), Bounds(max_text_bytes=100))
    assert isinstance(result, Dropped) and result.reason == "too large"


def test_documents_are_those_of_extraction_in_this_process(tmp_path: Path) -> None:
    for number in range(20):
        (tmp_path / f"p{number:02}.html").write_text(
            GOOD.replace("matter", f"matter {number} ü 日本 \x00 $x_{number}$")
        )
    results = [result for _, result in extract_bounded(list_files([tmp_path]), Bounds(num_workers=3))]
    for number, result in enumerate(results):
        path = tmp_path / f"p{number:02}.html"
        assert result == extract(Page("", path.read_bytes(), "text/html", str(path)))


def test_hostile_markup_is_told_by_counting() -> None:
    assert hostile_markup(b"<div>" * MAX_DEPTH + b"</div>" * MAX_DEPTH + b"<p>" * 50_000) == ""
    assert hostile_markup(b"<div>" * 30_000) == f"nested 30000 deep, {MAX_DEPTH} at most"
    assert hostile_markup(b"</div>" * 30_000 + b"<div>" * 30_000) == f"nested 30000 deep, {MAX_DEPTH} at most"
    assert hostile_markup(b"<div></div>" * 30_000) == ""
    assert hostile_markup(b'<img src="data:' + b"A b=" * 100_000 + b'">') == ""
    many = MAX_ATTRIBUTES + 1
    assert (
        hostile_markup(b"<p" + b" a='1 2'" * many + b">") == f"{many} attributes in one tag, {MAX_ATTRIBUTES} at most"
    )


def test_a_pdf_command_s_text_becomes_the_document(tmp_path: Path) -> None:
    (tmp_path / "a.pdf").write_bytes(pdf([(72, 700, "text layer")]))
    outcomes = {}
    for name, command in {
        "good": "sh -c 'test -s {input} && echo Parsed: $x^2$'", "fails": "sh -c 'echo half; exit 3'",
        "silent": "true {input}", "noise": "sh -c 'printf \"\\377\"'", "floods": "yes",
    }.items():  # fmt: skip
        words = command if "{input}" in command else f"{command} {{input}}"
        bounds = bounds_of(1, words, 20.0)
        ((_, outcomes[name]),) = extract_bounded(list_files([tmp_path]), bounds)
    assert isinstance(outcomes["good"], Document) and outcomes["good"].text == "Parsed: $x^2$".replace("$x", "")
    assert {n: r.reason for n, r in outcomes.items() if isinstance(r, Dropped)} == {
        "fails": "PDF command failed", "silent": "empty", "noise": "PDF command failed", "floods": "too large",
    }  # fmt: skip
    for command, message in {
        "parser": "lacks {input}", "'parser {input}": "cannot read", "no-such-program {input}": "not on this machine",
    }.items():  # fmt: skip
        with pytest.raises(ValueError, match=message):
            bounds_of(None, command, 1.0)


def test_pages_that_have_been_read_come_out_in_their_order_each_within_its_bounds() -> None:
    pages = [Page(f"http://w.x/{n}", f"<p>Page {n} says something.".encode(), "text/html", "web") for n in range(20)]
    pages[7] = Page("http://w.x/7", b"<p>x" * 400_000, "text/html", "web")
    found = list(extract_pages(iter(pages), Bounds(num_workers=2, large_memory_bytes=1)))
    assert isinstance(found[7], Dropped) and found[7].reason in ("memory limit", "broken page")
    assert [one for n, one in enumerate(found) if n != 7] == [extract(p) for n, p in enumerate(pages) if n != 7]
    assert list(extract_pages(iter(()))) == []
