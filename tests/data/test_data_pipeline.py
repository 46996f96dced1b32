"""The pipeline: counts, skipping, invalidation, and real kill -9 at random moments."""

import importlib.util
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from rich.console import Console

from openmimo.data.documents import DOCUMENT_SCHEMA
from openmimo.data.pipeline import (
    DataConfig,
    Funnel,
    Stage,
    funnel_table,
    read_documents,
    read_funnel,
    run_pipeline,
    show_funnel,
    stages,
)
from openmimo.data.snapshot import warc_record

HELD_OUT = ["Natalia sold clips to 48 of her friends in April, and then she sold half as many clips in May."]


def make_inputs(folder: Path, num_pages: int = 40) -> Path:
    """A WARC of pages with every fate, and a jsonl of documents."""
    rng = random.Random(0)
    records = []
    for i in range(num_pages):
        words = " ".join(rng.choices([f"word{k}" for k in range(400)], k=120))
        body = f"<title>Page {i}</title><main><p>{words}</p><p>{words[::-1]}</p></main>"
        records.append(warc_record("response", f"http://w.x/{i}", body.encode(), "text/html"))
        if i % 10 == 0:
            records.append(warc_record("response", f"https://www.w.x/{i}?utm_source=a", body.encode(), "text/html"))
            records.append(warc_record("response", f"http://mirror.x/{i}", body.encode(), "text/html"))
    records.append(warc_record("response", "http://w.x/empty", b"", "text/html"))
    records.append(warc_record("response", "http://w.x/image", b"\x89PNG", "image/png"))
    folder.mkdir(parents=True)
    (folder / "pages.warc.gz").write_bytes(b"".join(records))
    rows = [{"id": f"s{i}", "text": " ".join(rng.choices("abcdefghijklmnop", k=30))} for i in range(20)]
    rows[3]["text"] = f"Well: {HELD_OUT[0]} How many?"
    (folder / "solutions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + "torn {\n")
    return folder


def tag_lengths(documents: pa.Table) -> pa.Table:
    tags = [json.dumps({"quality": len(text) / 1e6}) for text in documents["text"].to_pylist()]
    return documents.set_column(documents.schema.get_field_index("tags"), "tags", pa.array(tags, pa.string()))


def run(inputs: Path, out: Path, config: DataConfig, tag: Callable[[pa.Table], pa.Table] | None = None) -> Funnel:
    return run_pipeline(
        stages(config, held_out=HELD_OUT, tag=tag),
        [inputs],
        out,
        seed=0,
        documents_per_shard=config.documents_per_shard,
    )


def contents(out: Path) -> dict[str, bytes]:
    return {p.relative_to(out).as_posix(): p.read_bytes() for p in sorted(out.rglob("*")) if p.is_file()}


SMALL = DataConfig(documents_per_shard=16)


def test_every_row_is_kept_or_dropped_with_a_reason(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    funnel = run(make_inputs(tmp_path / "in"), tmp_path / "out", SMALL, tag_lengths)
    assert [(s.name, s.rows_in, s.kept, s.dropped) for s in funnel.stages] == [
        ("read", 71, 70, {"broken input": 1}),
        ("extract", 70, 68, {"empty": 1, "not a text page": 1}),
        ("url-copies", 68, 64, {"same URL": 4}),
        ("near-copies", 64, 60, {"near duplicate": 4}),
        ("tag", 60, 60, {}),
        ("decontaminate", 60, 59, {"16-gram of a held-out problem": 1}),
    ]
    (lost,) = funnel.stages[-1].samples["16-gram of a held-out problem"]
    assert lost["id"] == "s3" and lost["detail"].startswith("natalia sold clips to 48")
    assert funnel.stages[0].samples["broken input"][0]["url"] == "solutions.jsonl:21"
    tables = list(read_documents(funnel))
    rows = pa.concat_tables(tables)
    assert rows.schema == DOCUMENT_SCHEMA and rows.num_rows == 59
    sizes = dict(zip(rows["url"].to_pylist(), rows["cluster_size"].to_pylist(), strict=True))
    assert sum(sizes[url] for url in sizes if url and url.endswith("0")) == 12
    assert read_funnel(tmp_path / "out") == funnel
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(funnel_table(funnel))
    assert "near duplicate 4" in console.export_text()
    noise = capfd.readouterr()
    assert noise.out == "" and noise.err == ""
    show_funnel(funnel)
    told = capfd.readouterr().err
    assert "data: near-copies: 64 in, 60 kept, near duplicate 4\n" in told and told.count("\n") == 6


def test_a_finished_stage_is_skipped_and_a_changed_one_takes_what_follows_with_it(tmp_path: Path) -> None:
    inputs, out = make_inputs(tmp_path / "in"), tmp_path / "out"
    run(inputs, out, SMALL)

    def moments() -> dict[str, int]:
        return {name: (out / name / "manifest.json").stat().st_mtime_ns for name in names}

    names = ["read", "extract", "url-copies", "near-copies", "decontaminate"]
    first = moments()
    run(inputs, out, SMALL)
    assert moments() == first
    run(inputs, out, DataConfig(documents_per_shard=16, shingle_words=3))
    second = moments()
    assert [name for name in names if second[name] != first[name]] == ["near-copies", "decontaminate"]
    (inputs / "more.html").write_text("<p>A new page appears.")
    run(inputs, out, DataConfig(documents_per_shard=16, shingle_words=3))
    assert all(moments()[name] != second[name] for name in names)
    (out / "extract").joinpath(next(p.name for p in (out / "extract").glob("*.parquet"))).unlink()
    run(inputs, out, SMALL)
    fresh = tmp_path / "fresh"
    run(inputs, fresh, SMALL)
    assert contents(out) == contents(fresh)


def test_what_a_stage_learns_from_all_parts_is_worked_out_once(tmp_path: Path) -> None:
    calls = []

    def learn(parts: Sequence[Callable[[Sequence[str]], pa.Table]]) -> int:
        calls.append([part(["text"]).column_names for part in parts])
        return sum(len(text) for part in parts for text in part(["text"])["text"].to_pylist())

    def mark(documents: pa.Table, total: int) -> pa.Table:
        place = documents.schema.get_field_index("language")
        return documents.set_column(place, "language", pa.array([str(total)] * len(documents)))

    rows = [{"id": f"{n}", "text": "x" * n} for n in range(1, 41)]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    listed = [*stages(SMALL, held_out=[], tag=None)[:2], Stage("mark", mark, {}, learn=learn)]

    def done() -> list[str]:
        funnel = run_pipeline(listed, [tmp_path / "in.jsonl"], tmp_path / "out", seed=0, documents_per_shard=16)
        return [row["language"] for table in read_documents(funnel) for row in table.to_pylist()]

    assert done() == ["820"] * 40 and calls == [[["text"]] * 3]
    next((tmp_path / "out" / "mark").glob("*00001.json")).unlink()
    (tmp_path / "out" / "mark" / "manifest.json").unlink()
    assert done() == ["820"] * 40 and len(calls) == 1


def test_personal_data_is_redacted_where_it_is_asked_for(tmp_path: Path) -> None:
    rows = [{"id": "a", "text": "Ann, ann@example.org, 8.8.8.8"}, {"id": "b", "text": "Nothing of the kind."}]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    plain = run(tmp_path / "in.jsonl", tmp_path / "plain", SMALL)
    assert "redact" not in [stage.name for stage in plain.stages]
    funnel = run(tmp_path / "in.jsonl", tmp_path / "out", DataConfig(documents_per_shard=16, redact=("email", "ip")))
    found = {row["id"]: row for table in read_documents(funnel) for row in table.to_pylist()}
    assert found["a"]["text"] == "Ann, <email>, <ip>"
    assert json.loads(found["a"]["tags"])["redacted"] == {"email": 1, "ip": 1}
    assert found["b"]["text"] == "Nothing of the kind." and "redacted" not in (found["b"]["tags"] or "")
    with pytest.raises(ValueError, match="'names' cannot be redacted"):
        DataConfig(redact=("names",))


COMMAND = """
import sys
sys.path[:0] = [{tests!r}]
from pathlib import Path
from test_data_pipeline import SMALL, run
run(Path({inputs!r}), Path({out!r}), SMALL)
"""


def test_kill_9_at_any_moment_and_the_same_command_ends_in_the_same_bytes(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in")
    run(inputs, tmp_path / "whole", SMALL)
    expected = contents(tmp_path / "whole")
    rng = random.Random(1)
    out = tmp_path / "killed"
    command = COMMAND.format(tests=str(Path(__file__).parent), inputs=str(inputs), out=str(out))
    kills, seen, tries = 0, set[tuple[str, ...]](), 0
    while tries < 6 or (tries < 40 and len(seen) < 2):  # on a slow machine several moments fall into one stage
        tries += 1
        child = subprocess.Popen([sys.executable, "-c", command], stderr=subprocess.DEVNULL)
        begun = time.monotonic()
        before = len(list(out.glob("*/*"))) if out.exists() else 0
        while child.poll() is None and time.monotonic() - begun < 20:  # until it has written something new
            if out.exists() and len(list(out.glob("*/*"))) > before:
                break
            time.sleep(0.002)
        time.sleep(rng.random() * 0.15)
        if child.poll() is None:
            child.send_signal(signal.SIGKILL)
            kills += 1
        child.wait()
        seen.add(tuple(sorted(p.parent.name for p in out.glob("*/manifest.json"))))
    assert kills >= 3 and len(seen) >= 2  # it was killed, and at different places
    time.sleep(0.5)  # an orphaned worker may be in its last write
    run(inputs, out, SMALL)
    assert contents(out) == expected


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_on_ray_the_bytes_are_those_of_the_native_runner(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in")
    run(inputs, tmp_path / "native", SMALL)
    command = COMMAND.format(tests=str(Path(__file__).parent), inputs=str(inputs), out=str(tmp_path / "ray"))
    subprocess.run([sys.executable, "-c", command], check=True, env={**os.environ, "DAFT_RUNNER": "ray"})
    assert contents(tmp_path / "ray") == contents(tmp_path / "native")


def test_a_torn_part_is_made_again(tmp_path: Path) -> None:
    inputs, out = make_inputs(tmp_path / "in", 12), tmp_path / "out"
    run(inputs, out, SMALL)
    expected = contents(out)
    part = next((out / "extract").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:-7])
    (out / "extract" / ".leftover.tmp").write_text("x")
    run(inputs, out, SMALL)
    assert contents(out) == expected


def test_stages_that_break_the_rules_are_named(tmp_path: Path) -> None:
    inputs = make_inputs(tmp_path / "in", 3)
    read, extract = stages(SMALL, held_out=[], tag=None)[:2]
    loses = Stage("loses", lambda table: table.slice(1), {})
    with pytest.raises(RuntimeError, match=r"stage 'loses' failed on part 0: ValueError: returned \d+ rows for \d+"):
        run_pipeline([read, extract, loses], [inputs], tmp_path / "a", seed=0)
    whole = Stage("whole", lambda table: table.slice(1), {}, whole=True)
    with pytest.raises(ValueError, match=r"stage 'whole' returned \d+ rows for \d+"):
        run_pipeline([read, extract, whole], [inputs], tmp_path / "a", seed=0)
    with pytest.raises(ValueError, match="each of its own name"):
        run_pipeline([read, read], [inputs], tmp_path / "b", seed=0)
    with pytest.raises(ValueError, match="no file to read"):
        (tmp_path / "nothing").mkdir()
        run_pipeline([read], [tmp_path / "nothing"], tmp_path / "b", seed=0)
    with pytest.raises(ValueError, match=r"DataConfig\.bands must be at least 1, got 0"):
        DataConfig(bands=0)
    with pytest.raises(ValueError, match=r"no finished data pipeline in .*: funnel\.json is missing"):
        read_funnel(tmp_path / "a")
