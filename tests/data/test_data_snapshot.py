"""The page snapshot of this machine: real pages, the same bytes each time."""

from pathlib import Path

import pytest

from openmimo.data.pages.extract import extract
from openmimo.data.read import broken_collector, read
from openmimo.data.snapshot import snapshot_pages
from openmimo.types import Document


@pytest.mark.slow
def test_the_whole_snapshot_holds_megabytes_of_text_and_repeats_byte_for_byte(tmp_path: Path) -> None:
    snapshot = snapshot_pages(tmp_path / "one")
    assert snapshot_pages(tmp_path / "two").read_bytes() == snapshot.read_bytes()
    report, broken = broken_collector()
    documents = [extract(page) for page in read([snapshot], broken=report)]
    texts = {d.url: d.text for d in documents if isinstance(d, Document)}
    assert broken == [] and len(texts) >= 300 and sum(map(len, texts.values())) > 4_000_000
    assert list(texts) == sorted(texts)
    json_page = texts["http://pydoc.localhost/json.html"]
    assert "lightweight data\ninterchange format" in json_page and ">>> import json" in json_page
    everything = "\n".join(texts.values())
    assert str(Path(__file__).parents[2]) not in everything and "/root/" not in everything
    assert not any("object at 0x" in text for text in texts.values())


def test_what_a_killed_run_left_is_swept_away(tmp_path: Path) -> None:
    (tmp_path / "pages.warc.gz").write_bytes(b"whole")
    (tmp_path / ".pages.warc.gz.123.tmp").write_bytes(b"half")
    assert snapshot_pages(tmp_path).read_bytes() == b"whole"
    assert [path.name for path in tmp_path.iterdir()] == ["pages.warc.gz"]


def test_two_snapshots_are_byte_identical_and_one_is_not_made_twice(tmp_path: Path) -> None:
    first, again = (snapshot_pages(tmp_path / name, max_pages=60) for name in ("one", "two"))
    assert again.read_bytes() == first.read_bytes()
    report, broken = broken_collector()
    urls = [page.url for page in read([first], broken=report)]
    assert broken == [] and len(urls) == 60 and urls == sorted(urls) and "http://pydoc.localhost/abc.html" in urls
    assert sum("packages.localhost" in url for url in urls) == 30
    moment = again.stat().st_mtime_ns
    assert snapshot_pages(tmp_path / "two") == again and again.stat().st_mtime_ns == moment
    assert [p.name for p in again.parent.iterdir()] == [again.name]


def test_a_snapshot_of_no_page_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="max_pages must be at least 1, got 0"):
        snapshot_pages(tmp_path, max_pages=0)
