"""Deduplication of files in fixed memory against a slow obvious twin, over kills and over several dumps."""

import gzip
import json
import random
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from openmimo.cli import main
from openmimo.data.copies import files, steps
from openmimo.data.copies.dedup import rank_facts, ranks, text_keys
from openmimo.data.copies.global_dedup import dedup_to, parse_bytes
from openmimo.data.copies.steps import DedupConfig, Run
from openmimo.data.documents import DOCUMENT_SCHEMA, document_row
from openmimo.data.urls import canonical_url
from openmimo.rows import document_from, write_rows
from openmimo.types import Document

BASE = " ".join(f"word{i}" for i in range(60))
Row = dict[str, Any]


def documents_table(documents: Iterable[Document]) -> pa.Table:
    return pa.Table.from_pylist([document_row(document) for document in documents], schema=DOCUMENT_SCHEMA)


def wild_rows(count: int, seed: int) -> list[Row]:
    """Documents of which many are near copies, share a URL, or both; chains of copies of copies."""
    rng = random.Random(seed)
    texts = [" ".join(f"w{rng.randrange(400)}" for _ in range(60)) for _ in range(max(1, count // 4))]
    rows = []
    for i in range(count):
        words = rng.choice(texts).split()
        for _ in range(rng.randrange(4)):
            words[rng.randrange(60)] = f"x{rng.randrange(9)}"
        if rng.random() < 0.3:
            texts.append(" ".join(words))
        row: Row = {"id": f"d{i}", "text": " ".join(words), "url": "", "tags": {"quality": None}}
        if rng.random() < 0.5:
            row["url"] = f"https://site.org/{rng.randrange(count)}" + rng.choice(["", "#top", "?utm_source=x"])
        if rng.random() < 0.3:
            row["tags"] = {"quality": rng.randrange(3) / 2}
        rows.append(row)
    return rows


def slow_dedup(dumps: list[list[Row]], config: DedupConfig) -> dict[str, tuple[int, int]]:
    """All at once and in plain Python, older dumps first: id -> (size of its cluster, dump)."""
    rows = [row for dump in dumps for row in dump]
    dump_of = [number for number, dump in enumerate(dumps) for _ in dump]
    table = documents_table([document_from(row) for row in rows])
    order = ranks(rank_facts(table)).T.tolist()
    settings = {name: value for name, value in asdict(config).items()}
    keys = text_keys(table["text"], **settings).tolist()

    def best(group: list[int]) -> int:
        return min(group, key=lambda i: (dump_of[i], *order[i], i))

    by_url: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        by_url.setdefault(canonical_url(row["url"]) if row.get("url") else f"none {i}", []).append(i)
    sizes = {best(group): len(group) for group in by_url.values()}
    label = {i: i for i in sizes}
    for i in sizes:
        for j in sizes:
            if j < i and any(a == b for a, b in zip(keys[i], keys[j], strict=True)) and label[i] != label[j]:
                old, new = max(label[i], label[j]), min(label[i], label[j])
                label = {n: new if at == old else at for n, at in label.items()}
    clusters: dict[int, list[int]] = {}
    for i, at in label.items():
        clusters.setdefault(at, []).append(i)
    found = {best(group): sum(sizes[i] for i in group) for group in clusters.values()}
    return {rows[i]["id"]: (size, dump_of[i]) for i, size in found.items()}


def read_rows(path: Path) -> list[Row]:
    if path.suffix == ".parquet":
        rows: list[Row] = pq.read_table(path).to_pylist()
        return rows
    with path.open("rb") as file:
        return [json.loads(line) for line in file]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Pieces, chunks and ranges of a few records, as if the memory were tiny."""
    monkeypatch.setattr(files, "PIECE_BYTES", 3000)
    monkeypatch.setattr(files, "TABLE_ROWS", 3)
    monkeypatch.setattr(steps, "CHUNK_ROWS", 4)
    monkeypatch.setattr(Run, "_most", lambda self, fields: 40)
    yield


FEW = DedupConfig(bands=4, rows=2)


@pytest.mark.parametrize("seed", range(2))
def test_files_give_what_the_slow_twin_gives_in_any_memory(
    seed: int, small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = wild_rows(70, seed)
    write_rows(tmp_path / "a.jsonl", rows[:40])
    pq.write_table(pa.Table.from_pylist(rows[40:]), tmp_path / "b.parquet", row_group_size=5)
    inputs = [tmp_path / "a.jsonl", tmp_path / "b.parquet"]
    counts = dedup_to(inputs, tmp_path / "out.jsonl", config=FEW)
    kept = read_rows(tmp_path / "out.jsonl")
    expected = slow_dedup([rows], FEW)
    assert {row["id"]: row["cluster_size"] for row in kept} == {name: size for name, (size, _) in expected.items()}
    by_id = {row["id"]: row for row in rows}
    assert all(row["text"] == by_id[row["id"]]["text"] and row["cluster_id"] == row["id"] for row in kept)
    assert [row["id"] for row in kept] == [row["id"] for row in rows if row["id"] in expected], "in the inputs' order"
    assert counts.documents == 70 and counts.kept == len(kept)
    assert counts.kept + counts.removed_url + counts.removed_minhash == 70
    assert counts.clusters == sum(row["cluster_size"] > 1 for row in kept)
    monkeypatch.undo()
    assert dedup_to(inputs, tmp_path / "again.jsonl", config=FEW) == counts
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "out.jsonl").read_bytes()


def test_one_cluster_larger_than_the_memory_of_a_range(small: None, tmp_path: Path) -> None:
    rows = [{"id": f"d{i:03d}", "text": BASE, "url": "http://a.b/" if i < 50 else ""} for i in range(120)]
    write_rows(tmp_path / "a.jsonl", rows)
    counts = dedup_to([tmp_path / "a.jsonl"], tmp_path / "out.parquet", max_removed=1.0, config=FEW)
    (row,) = read_rows(tmp_path / "out.parquet")
    assert (counts.removed_url, counts.removed_minhash, row["cluster_size"]) == (49, 70, 120)


def test_a_long_chain_of_copies_is_one_cluster(small: None, tmp_path: Path) -> None:
    words = [f"w{i}" for i in range(140)]
    rows = [{"id": f"d{i}", "text": " ".join(words[i : i + 60])} for i in range(80)]
    random.Random(0).shuffle(rows)
    write_rows(tmp_path / "a.jsonl", rows)
    counts = dedup_to([tmp_path / "a.jsonl"], tmp_path / "out.jsonl", max_removed=1.0, config=FEW)
    assert counts.kept == 1


@pytest.mark.parametrize("seed", range(2))
def test_dump_by_dump_is_all_at_once_with_older_dumps_first(seed: int, small: None, tmp_path: Path) -> None:
    rows = wild_rows(90, seed + 10)
    dumps = [rows[:30], rows[30:60], rows[60:]]
    kept: set[str] = set()
    for number, dump in enumerate(dumps):
        write_rows(tmp_path / f"{number}.jsonl", dump)
        dedup_to([tmp_path / f"{number}.jsonl"], tmp_path / f"out{number}.jsonl", config=FEW, index=tmp_path / "index")
        new = {row["id"] for row in read_rows(tmp_path / f"out{number}.jsonl")}
        expected = slow_dedup(dumps[: number + 1], FEW)
        assert new == {name for name, (_, dump_number) in expected.items() if dump_number == number}
        kept |= new
    assert kept >= set(slow_dedup(dumps, FEW)), (
        "the rest had been written before a later document joined their clusters"
    )


def test_an_index_says_how_many_earlier_clusters_a_new_document_joins(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def window(start: int) -> Row:
        return {"id": f"d{start}", "text": " ".join(f"w{i}" for i in range(start, start + 200))}

    write_rows(tmp_path / "old.jsonl", [window(0), window(100)])
    write_rows(tmp_path / "new.jsonl", [*map(window, range(5, 100, 5)), {"id": "other", "text": "another one"}])
    index = tmp_path / "index"
    assert dedup_to([tmp_path / "old.jsonl"], tmp_path / "o1.jsonl", index=index).kept == 2
    assert dedup_to([tmp_path / "new.jsonl"], tmp_path / "o2.jsonl", index=index, max_removed=1.0).kept == 1
    assert "join 1 of the clusters written earlier" in capsys.readouterr().err


def test_a_repeated_dump_is_not_compared_with_itself(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_rows(tmp_path / "a.jsonl", [{"id": "a", "text": BASE}, {"id": "b", "text": BASE}])
    arguments = ([tmp_path / "a.jsonl"], tmp_path / "out.jsonl")
    first = dedup_to(*arguments, index=tmp_path / "index")
    before = (tmp_path / "out.jsonl").read_bytes()
    assert dedup_to(*arguments, index=tmp_path / "index") == first
    assert (tmp_path / "out.jsonl").read_bytes() == before and "holds these inputs already" in capsys.readouterr().err
    with pytest.raises(ValueError, match="2 of 2 documents would go"):
        dedup_to(arguments[0], tmp_path / "other.jsonl", index=tmp_path / "index")
    with pytest.raises(ValueError, match=r"was made with .*'bands': 14.*, this run has .*'bands': 4"):
        dedup_to(*arguments, index=tmp_path / "index", config=FEW)


KILLED = """
import os, pathlib, signal, sys
from openmimo.data.copies import steps, files, global_dedup
files.PIECE_BYTES, steps.CHUNK_ROWS, left = 3000, 4, int(sys.argv[1])
real = pathlib.Path.replace
def replace(self, target):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(self, target)
pathlib.Path.replace = replace
folder = pathlib.Path(sys.argv[2])
global_dedup.dedup_to([folder / "in.jsonl"], folder / "out.parquet", index=folder / "index")
print("finished", left)
"""


def test_kill_9_at_any_moment_and_the_same_command_ends_in_the_same_bytes(tmp_path: Path) -> None:
    rows = wild_rows(40, 5)
    finals, total = [], 0
    for moment in (0, 9, -2, -1):
        folder = tmp_path / str(moment)
        folder.mkdir()
        write_rows(folder / "in.jsonl", rows)
        if moment < 0:  # from the end: its place depends on how many files there are
            moment += total + 1
        done = subprocess.run([sys.executable, "-c", KILLED, str(moment), str(folder)], capture_output=True, text=True)
        if moment == 0:
            total = -int(done.stdout.split()[1])
        else:
            assert done.returncode == -signal.SIGKILL, done.stderr
            again = subprocess.run([sys.executable, "-c", KILLED, "0", str(folder)], capture_output=True, text=True)
            assert again.returncode == 0, again.stderr
        assert sorted(path.name for path in folder.iterdir()) == ["in.jsonl", "index", "out.parquet"]
        assert sorted(path.name for path in (folder / "index").iterdir()) == ["000001", "index.json", "lock"]
        finals.append((folder / "out.parquet").read_bytes())
    assert len(set(finals)) == 1


def test_what_is_no_document_is_counted_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ['{"id": "a", "text": "one\u2028line"}', "{broken", '{"id": "b"}', "", '{"id": true, "text": "x"}', "[]",
             '{"id": 7, "text": "a half \\ud800 of a pair", "tags": [1], "url": 3, "cluster_size": "x"}']  # fmt: skip
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    whole = gzip.compress(b'{"id": "z", "text": "in a torn archive"}\n' * 2000)
    (tmp_path / "b.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "c.parquet").write_bytes(b"PAR1 is not enough")
    pq.write_table(pa.table({"id": ["p", None, "q"], "text": ["parquet text", "b", None]}), tmp_path / "d.parquet")
    pq.write_table(pa.table({"id": ["p"], "txt": ["b"]}), tmp_path / "e.parquet")
    with pa.CompressedOutputStream(tmp_path / "f.jsonl.zst", "zstd") as file:
        file.write(b'{"id": "s", "text": "packed by zstd"}\n')
    (tmp_path / "notes.txt").write_text("left out")
    counts = dedup_to([tmp_path], tmp_path / "out.jsonl", max_removed=1.0)
    err = capsys.readouterr().err
    for place in ("a.jsonl:2: not a doc", "a.jsonl:3", "a.jsonl:5", "a.jsonl:6", "b.jsonl.gz:", "c.parquet: no whole",
                  "d.parquet:2", "d.parquet:3", "e.parquet: no column 'text'"):  # fmt: skip
        assert place in err, err
    assert "9 broken inputs left out" in err
    kept = {row["id"]: row["text"] for row in read_rows(tmp_path / "out.jsonl")}
    assert kept == {"a": "one\u2028line", "7": "a half ? of a pair", "z": "in a torn archive", "p": "parquet text",
                    "s": "packed by zstd"}  # fmt: skip
    assert counts.kept == 5


def test_lines_are_numbered_through_the_pieces_of_a_file(
    small: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = [json.dumps({"id": str(i), "text": f"{i} " * 150}) for i in range(60)]
    lines[50] = "{"
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    counts = dedup_to([tmp_path / "a.jsonl"], tmp_path / "out.jsonl", max_removed=1.0)
    assert counts.documents == 59 and "a.jsonl:51: not a document row" in capsys.readouterr().err


def test_id_and_text_come_out_unchanged(tmp_path: Path) -> None:
    texts = ["tabs\tand  blanks ", "\ufeffmark", "a\r\nb\u2028c\u0085d\0e", "日本語 🙂", '"quoted" \\ {"a": 1}']
    rows = [{"id": f"<{i}>\n", "text": text, "tags": {"b": [1, None], "a": "é"}} for i, text in enumerate(texts)]
    write_rows(tmp_path / "a.jsonl", rows)
    for name in ("out.jsonl", "out.parquet"):
        dedup_to([tmp_path / "a.jsonl"], tmp_path / name)
        kept = read_rows(tmp_path / name)
        assert [(row["id"], row["text"]) for row in kept] == [(row["id"], row["text"]) for row in rows]
    assert json.loads(kept[0]["tags"]) == rows[0]["tags"]


def test_sizes_add_up_over_two_deduplications(tmp_path: Path) -> None:
    write_rows(tmp_path / "a.jsonl", [{"id": f"a{i}", "text": BASE + f" tail{i}"} for i in range(3)])
    write_rows(tmp_path / "b.jsonl", [{"id": f"b{i}", "text": BASE} for i in range(2)] + [{"id": "c", "text": "other"}])
    for name in ("a", "b"):
        dedup_to([tmp_path / f"{name}.jsonl"], tmp_path / f"{name}1.jsonl")
    counts = dedup_to([tmp_path / "a1.jsonl", tmp_path / "b1.jsonl"], tmp_path / "out.jsonl")
    assert [row["cluster_size"] for row in read_rows(tmp_path / "out.jsonl")] == [5, 1] and counts.clusters == 1


def mistake(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main(["data", "dedup", *arguments])
    found = capsys.readouterr()
    assert caught.value.code == 2 and found.out == "" and found.err.count("\n") == 1, found
    return found.err


def test_a_run_that_removes_too_much_stops_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source, out = tmp_path / "a.jsonl", tmp_path / "out.jsonl"
    write_rows(source, [{"id": str(i), "text": BASE} for i in range(20)])
    line = mistake(capsys, str(source), "-o", str(out))
    assert "19 of 20 documents would go" in line and "--max-removed 0.9" in line
    assert list(tmp_path.iterdir()) == [source]
    with pytest.raises(SystemExit) as caught:
        main(["data", "dedup", str(source), "-o", str(out), "--max-removed", "0.95", "--json"])
    assert caught.value.code == 0
    assert json.loads(capsys.readouterr().out) == {
        "documents": 20, "kept": 1, "removed_url": 0, "removed_minhash": 19, "clusters": 1
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--memory", "plenty"), "'plenty' is no size, 2GiB is one"),
        (("--memory", "1MiB"), "at least 768MiB, got 1MiB"),
        (("--max-removed", "1.5"), "must be 0 to 1, got 1.5"),
        (("--ngram", "0"), "ngram must be at least 1, got 0"),
    ],
)
def test_wrong_settings_are_one_line(
    arguments: tuple[str, ...], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_rows(tmp_path / "a.jsonl", [{"id": "a", "text": "b"}])
    assert said in mistake(capsys, str(tmp_path / "a.jsonl"), "-o", str(tmp_path / "out.jsonl"), *arguments)
    assert "ends in .jsonl or .parquet" in mistake(capsys, str(tmp_path / "a.jsonl"), "-o", str(tmp_path / "out.csv"))
    assert "openmimo data extract" in mistake(capsys, __file__, "-o", str(tmp_path / "out.jsonl"))
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_inputs_without_a_document_are_refused_with_the_reason(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for content, reason in (("", "the files are empty"), ("{}\n", "a.jsonl:1: not a document row")):
        (tmp_path / "a.jsonl").write_text(content)
        with pytest.raises(ValueError, match="no document in") as caught:
            dedup_to([tmp_path / "a.jsonl"], tmp_path / "out.jsonl")
        assert reason in str(caught.value)
        assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]
    capsys.readouterr()


def test_sizes_of_memory_are_read_as_people_write_them() -> None:
    assert [parse_bytes(text) for text in ("2GiB", "1.5 gb", "800MB", "4096", "1k")] == [
        2 << 30, 1_500_000_000, 800_000_000, 4096, 1000
    ]  # fmt: skip


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "a.jsonl"
    write_rows(source, [{"id": str(i), "text": f"text number {i}"} for i in range(3)])
    decide = Run.decide

    def changing(run: Any, *arguments: Any) -> Any:
        found = decide(run, *arguments)
        write_rows(source, [{"id": "other", "text": "another"}])
        return found

    monkeypatch.setattr(Run, "decide", changing)
    with pytest.raises(ValueError, match=r"a\.jsonl has changed while it was deduplicated"):
        dedup_to([source], tmp_path / "out.jsonl")
    assert list(tmp_path.iterdir()) == [source]


def test_a_line_too_long_to_hold_is_broken_and_the_next_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(files, "LONGEST_LINE", 100)
    lines = [{"id": "long", "text": "x" * 250}, {"id": "a", "text": "short"}, {"id": "longer", "text": "x" * 99}]
    write_rows(tmp_path / "a.jsonl", lines)
    assert dedup_to([tmp_path / "a.jsonl"], tmp_path / "out.jsonl").kept == 1
    assert "a.jsonl:1: not a document row: longer than 100 bytes" in capsys.readouterr().err
