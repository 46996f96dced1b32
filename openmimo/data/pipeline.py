"""The page side as a list of stages on Daft: read, extract, drop copies, tag, decontaminate (MiMo 2.1).

A stage is a pure function on Arrow tables. It drops a row by naming a reason in a `dropped` column, so every loss is
counted and a sample of it kept. Its output is Parquet parts beside a manifest that holds a fingerprint of the stage's
config, chained to all earlier stages and the inputs. A finished stage is skipped, a killed one goes on at the part
where it stood, and the bytes are the same either way: parts depend on their input alone, never on clock or schedule.

    OUT/STAGE/HASH-00000-0000.parquet   rows;   HASH-00000.json   what this part kept and dropped
    OUT/STAGE/manifest.json             written last: the stage is complete
    OUT/funnel.json                     rows in, kept, dropped by reason, samples

Daft runs the parts: in threads on one machine, on Ray where `DAFT_RUNNER=ray` says so.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import heapq
import json
import os
import pickle
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import xxhash

from openmimo.checkpoint import aside
from openmimo.config import fingerprint
from openmimo.data.documents import DOCUMENT_SCHEMA, publish
from openmimo.data.redact import check_kinds, redact
from openmimo.log import progress, say

FORMAT = 3
"""Of parts and manifests; raise it when code changes what a stage makes of the same input."""

SAMPLES = 5  # ours: rows kept to look at, per stage and reason
SAMPLE_CHARACTERS = 400
ROWS_AT_ONCE, BYTES_AT_ONCE = 8192, 64_000_000  # ours: pages that reading holds in memory

INPUT_SCHEMA = pa.schema([("path", pa.string()), ("name", pa.string())])
"""What the first stage gets: one file to read a row."""

PAGE_SCHEMA = pa.schema(
    [("url", pa.string()), ("content", pa.large_binary()), ("media_type", pa.string()), ("source", pa.string())]
)

DROP_FIELDS = [pa.field("dropped", pa.string()), pa.field("detail", pa.string())]


@dataclass(frozen=True)
class DataConfig:
    """The page side of pre-training data (MiMo 2.1)."""

    pages: str = ""
    """Folder, WARC or file of web pages; empty takes this machine's own documentation."""
    max_pages: int = 600
    """Pages of this machine's documentation at most."""
    documents_per_shard: int = 512
    """Rows a part: the unit of parallel work and of resuming. Ours."""
    bands: int = 14
    """LSH bands. Ours: 14 x 8 as in FineWeb, half of the pairs at Jaccard 0.72 meet."""
    rows: int = 8
    """Hashes a band; bands x rows hashes in all, 112."""
    shingle_words: int = 5
    """Words a shingle (characters where a script has no spaces). Ours, as in FineWeb."""
    contamination_words: int = 16
    """Words in the run that a document may not share with a held-out problem. MiMo 3.1: 16-gram."""
    redact: tuple[str, ...] = ()
    """Kinds of personal data to replace by their names, of `redact.KINDS`: email, phone, card, ip. Ours: none."""
    held_out_share: float = 0.01
    """Share of every source's documents that is never trained on: pre-training reports its perplexity. Ours."""
    tagger: str = ""
    """Names the tagger's weights (a checkpoint's fingerprint): a change runs the tag stage again."""

    def __post_init__(self) -> None:
        for name in ("documents_per_shard", "bands", "rows", "shingle_words", "contamination_words"):
            if getattr(self, name) < 1:
                raise ValueError(f"DataConfig.{name} must be at least 1, got {getattr(self, name)}")
        if not 0.0 <= self.held_out_share < 1.0:
            raise ValueError(f"DataConfig.held_out_share must be at least 0 and below 1, got {self.held_out_share}")
        check_kinds(self.redact)


@dataclass(frozen=True)
class Stage:
    """One step: a pure function on Arrow tables."""

    name: str
    run: Callable[..., pa.Table | Iterable[pa.Table]]
    """Rows in, the same rows out in the same order; one with a reason in column `dropped` ends here, `detail` says
    more. The first stage gets INPUT_SCHEMA rows and returns pages, as one table or several. With `learn`, its second
    argument is what that returned."""
    config: dict[str, Any]
    """All that `run` depends on besides its rows, as plain JSON: its fingerprint decides what is done again."""
    whole: bool = False
    """Needs all rows at once. `run` then returns columns to set (`dropped` and `detail` among them), a row each."""
    prepare: Callable[[pa.Table], pa.Table] | None = None
    """With whole: computed part by part in parallel; `run` gets all parts' results instead of all documents."""
    learn: Callable[[Sequence[Callable[[Sequence[str]], pa.Table]]], Any] | None = None
    """Works out once, from all parts, what `run` needs besides its own; kept beside the parts. Each part is given as a
    function: names of columns -> those columns of it."""


@dataclass(frozen=True)
class FunnelStage:
    """What one stage did."""

    name: str
    rows_in: int
    kept: int
    dropped: dict[str, int]
    """Rows by reason."""
    samples: dict[str, list[dict[str, Any]]] = field(repr=False)
    """By reason, and `kept`: a few rows each (id, url, title, start of the text, detail), drawn by seed."""


@dataclass(frozen=True)
class Funnel:
    """What became of every page, and where the survivors are."""

    stages: tuple[FunnelStage, ...]
    parts: tuple[Path, ...]
    """The last stage's Parquet files, in order: DOCUMENT_SCHEMA rows."""


def stages(config: DataConfig, *, held_out: Sequence[str], tag: Callable[..., pa.Table] | None) -> list[Stage]:
    """The list is the diagram.

    Args:
        held_out: texts of evaluation problems; none means nothing to decontaminate against.
        tag: the tag stage's `run`, which sets `tags`; its method `learn`, if it has one, is the stage's. None leaves
            documents untagged. It is told apart by config.tagger and its name, not by its code.
    """
    hashes = {"bands": config.bands, "rows": config.rows, "ngram": config.shingle_words}
    problems = {"ngram": config.contamination_words, "held_out": _digest("\n\x00".join(held_out))}
    listed = [
        Stage("read", read_stage, {}),
        Stage("extract", extract_stage, {}),
        Stage("url-copies", _drop_url_copies, {}, whole=True, prepare=_url_keys),
        Stage("near-copies", _drop_near_copies, hashes, whole=True, prepare=partial(_minhash_keys, **hashes)),
        Stage("redact", partial(redact_stage, kinds=config.redact), {"kinds": config.redact})
        if config.redact
        else None,
        Stage("tag", tag, {"tagger": config.tagger, "name": _name_of(tag)}, learn=getattr(tag, "learn", None))
        if tag
        else None,
        Stage("decontaminate", Decontaminate(tuple(held_out), config.contamination_words), problems),
    ]
    return [stage for stage in listed if stage]


def run_pipeline(
    stages: Sequence[Stage], inputs: Sequence[Path], out: Path, *, seed: int, documents_per_shard: int = 512
) -> Funnel:
    """Run what is not done yet, and return the whole funnel.

    Args:
        inputs: files or folders, see `read.list_files`.
        out: folder, made if missing; one run at a time.
        seed: draws the samples.
        documents_per_shard: rows a part at most; the first stage's output is cut so, and later parts follow it.

    Raises:
        ValueError: for a missing input, two stages of one name, another run in `out`, a damaged part, or a stage that
            returns other rows than it was given.
        RuntimeError: if a stage fails on a part; names both, and what it said.
    """
    from openmimo.data.read import list_files

    if documents_per_shard < 1:
        raise ValueError(f"documents_per_shard must be at least 1, got {documents_per_shard}")
    names = [stage.name for stage in stages]
    if not names or len(set(names)) != len(names):
        raise ValueError(f"a pipeline needs at least one stage, each of its own name, got {names}")
    files = list_files(inputs)
    if not files:
        raise ValueError(f"no file to read in {', '.join(map(str, inputs))}")
    out.mkdir(parents=True, exist_ok=True)
    with _only_run(out):
        basis = {"format": FORMAT, "seed": seed, "documents_per_shard": documents_per_shard,
                 "inputs": [(name, _file_digest(path)) for path, name in files]}  # fmt: skip
        key = fingerprint(basis)
        tables: list[Path | pa.Table] = [
            pa.table({"path": [str(path.resolve())], "name": [name]}, schema=INPUT_SCHEMA) for path, name in files
        ]
        done: list[FunnelStage] = []
        parts: list[Path] = []
        for number, stage in enumerate(stages):
            key = fingerprint({"after": key, "stage": stage.name, "config": stage.config})
            step = _Step(stage, out / stage.name, key, seed, cut=0 if number else documents_per_shard)
            manifest = step.finished() or step.execute(tables)
            parts = [step.folder / part["file"] for part in manifest["parts"]]
            tables = list(parts)
            done.append(FunnelStage(name=stage.name, **manifest["funnel"]))
        funnel = Funnel(tuple(done), tuple(parts))
        _write_json(out / "funnel.json", funnel_dict(funnel, out))
    return funnel


def read_funnel(out: Path) -> Funnel:
    """The funnel of a finished run.

    Raises:
        ValueError: if there is none.
    """
    path = out / "funnel.json"
    if not path.exists():
        raise ValueError(f"no finished data pipeline in {out}: {path.name} is missing")
    raw = json.loads(path.read_text(encoding="utf-8"))
    return Funnel(tuple(FunnelStage(**s) for s in raw["stages"]), tuple(out / part for part in raw["parts"]))


def funnel_dict(funnel: Funnel, out: Path) -> dict[str, Any]:
    """Plain JSON of a funnel; parts relative to the run's folder."""
    return {
        "stages": [vars(stage) for stage in funnel.stages],
        "parts": [part.relative_to(out).as_posix() for part in funnel.parts],
    }


def funnel_table(funnel: Funnel) -> Any:
    """A rich table: one row a stage, one a reason."""
    from rich.table import Table

    table = Table("stage", "rows in", "kept", "dropped", "why", title="documents")
    for name in ("rows in", "kept", "dropped"):
        next(column for column in table.columns if column.header == name).justify = "right"
    for stage in funnel.stages:
        total = stage.rows_in - stage.kept
        reasons = sorted(stage.dropped.items(), key=lambda item: (-item[1], item[0]))
        why = ", ".join(f"{reason} {number:,}" for reason, number in reasons)
        table.add_row(stage.name, f"{stage.rows_in:,}", f"{stage.kept:,}", f"{total:,}", why)
    return table


def show_funnel(funnel: Funnel) -> None:
    """The funnel on standard error: a table in a terminal, else a line a stage."""
    if sys.stderr.isatty():
        from rich.console import Console

        Console(stderr=True).print(funnel_table(funnel))
        return
    for stage in funnel.stages:
        why = "".join(f", {reason} {number:,}" for reason, number in stage.dropped.items())
        say(f"data: {stage.name}: {stage.rows_in:,} in, {stage.kept:,} kept{why}")


def read_documents(funnel: Funnel) -> Iterator[pa.Table]:
    """The surviving documents, a part at a time."""
    for part in funnel.parts:
        yield pq.read_table(part, schema=DOCUMENT_SCHEMA)


# ---- the stages ----------------------------------------------------------------------------------------------------


def read_stage(files: pa.Table) -> Iterator[pa.Table]:
    """Files to pages, a bounded table at a time; what could not be read is a dropped row."""
    from openmimo.data.read import broken_collector, read_file

    schema = pa.schema([*PAGE_SCHEMA, *DROP_FIELDS])
    report, broken = broken_collector()
    rows: list[dict[str, Any]] = []
    size = 0
    for file in files.to_pylist():
        for page in read_file(Path(file["path"]), file["name"], broken=report):
            rows.append(
                {"url": page.url, "content": page.content, "media_type": page.media_type, "source": page.source}
            )
            size += len(page.content)
            if len(rows) >= ROWS_AT_ONCE or size >= BYTES_AT_ONCE:
                yield pa.Table.from_pylist(rows, schema=schema)
                rows, size = [], 0
    rows += [{"url": name, "dropped": "broken input", "detail": reason} for name, reason in broken]
    yield pa.Table.from_pylist(rows, schema=schema)


def extract_stage(pages: pa.Table) -> pa.Table:
    """Pages to documents, in a process that may be killed: a hostile page costs only itself."""
    from openmimo.data.documents import document_row
    from openmimo.data.pages.bounded import Bounds, extract_pages
    from openmimo.data.pages.extract import Dropped
    from openmimo.data.read import Page

    rows = []
    given = pages.to_pylist()
    found = extract_pages(
        (Page(page["url"], page["content"], page["media_type"], page["source"]) for page in given),
        Bounds(num_workers=1),
    )
    for page, result in zip(given, found, strict=True):
        if isinstance(result, Dropped):
            rows.append(
                {"url": page["url"], "source": page["source"], "dropped": result.reason, "detail": result.detail}
            )
        else:
            rows.append({**document_row(result), "dropped": None, "detail": None})
    return pa.Table.from_pylist(rows, schema=pa.schema([*DOCUMENT_SCHEMA, *DROP_FIELDS]))


def redact_stage(documents: pa.Table, *, kinds: Sequence[str]) -> pa.Table:
    """Texts without personal data; what was replaced is counted in the tag `redacted`."""
    redacted = [redact(text, kinds) for text in documents["text"].to_pylist()]
    tags = [
        json.dumps({**json.loads(old or "{}"), "redacted": counts}, sort_keys=True) if counts else old
        for old, (_, counts) in zip(documents["tags"].to_pylist(), redacted, strict=True)
    ]
    columns = {"text": pa.array([text for text, _ in redacted], pa.large_string()), "tags": pa.array(tags, pa.string())}
    return _with_columns(documents, pa.table(columns))


@dataclass(frozen=True)
class Decontaminate:
    """Documents that share a run of words with a held-out problem are dropped; `detail` is the run."""

    held_out: tuple[str, ...] = field(repr=False)
    ngram: int

    def __call__(self, documents: pa.Table) -> pa.Table:
        from openmimo.data.decontaminate import contaminated

        index = self._index()
        found = [contaminated(text, index) for text in documents["text"].to_pylist()]
        reasons = [f"{self.ngram}-gram of a held-out problem" if gram else None for gram in found]
        return documents.append_column(DROP_FIELDS[0], pa.array(reasons, pa.string())).append_column(
            DROP_FIELDS[1], pa.array(found, pa.string())
        )

    def _index(self) -> Any:
        from openmimo.data.decontaminate import build_index

        held = vars(self)
        if "_built" not in held:
            object.__setattr__(self, "_built", build_index(self.held_out, ngram=self.ngram))
        return held["_built"]

    def __getstate__(self) -> dict[str, Any]:
        return {"held_out": self.held_out, "ngram": self.ngram}  # workers build their own index


def _url_keys(documents: pa.Table) -> pa.Table:
    from openmimo.data.copies.dedup import url_keys

    return url_keys(documents)


def _drop_url_copies(keyed: pa.Table) -> pa.Table:
    from openmimo.data.copies.dedup import drop_url_copies

    return drop_url_copies(keyed)


def _minhash_keys(documents: pa.Table, *, bands: int, rows: int, ngram: int) -> pa.Table:
    from openmimo.data.copies.dedup import minhash_keys

    return minhash_keys(documents, bands=bands, rows=rows, ngram=ngram)


def _drop_near_copies(keyed: pa.Table) -> pa.Table:
    from openmimo.data.copies.dedup import drop_near_copies

    return drop_near_copies(keyed)


# ---- how a stage is run --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Step:
    """A stage at its place in one run: where it writes, under which fingerprint."""

    stage: Stage
    folder: Path
    key: str
    seed: int
    cut: int
    """Rows a part, for the first stage; 0 for a later one, whose parts follow its input."""

    def finished(self) -> dict[str, Any] | None:
        """The manifest, if this very stage is complete and its files are there."""
        manifest = _read_json(self.folder / "manifest.json")
        if manifest is None or manifest.get("format") != FORMAT or manifest.get("key") != self.key:
            return None
        return manifest if self._present(manifest["parts"]) else None

    def execute(self, tables: Sequence[Path | pa.Table]) -> dict[str, Any]:
        """Do the parts that are missing, then write the manifest."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._clear_strangers()
        if self.stage.whole:
            sidecars = self._whole(tables)
        else:
            learnt = self._learnt(tables, self.stage.learn) if self.stage.learn else None
            sidecars = self._parts(tables, partial(_run_part, self, learnt), "")
        manifest = {
            "format": FORMAT,
            "key": self.key,
            "stage": self.stage.name,
            "config": self.stage.config,
            "parts": [file for sidecar in sidecars for file in sidecar["files"]],
            "funnel": _merge([sidecar["funnel"] for sidecar in sidecars]),
        }
        _write_json(self.folder / "manifest.json", manifest)
        return manifest

    def _learnt(self, tables: Sequence[Path | pa.Table], learn: Callable[[Any], Any]) -> Any:
        """What the stage learns from all parts, by an earlier start if there was one."""
        path = self.folder / f"{self.key}-learnt.pickle"
        if not path.exists():
            found = learn([partial(_load, table) for table in tables])
            temporary = aside(path)
            temporary.write_bytes(pickle.dumps(found))
            publish(temporary, path)
        return pickle.loads(path.read_bytes())

    def _whole(self, tables: Sequence[Path | pa.Table]) -> list[dict[str, Any]]:
        if self.stage.prepare:
            prepared = self._parts(tables, partial(_prepare_part, self), "keys-")
            inputs: list[Path | pa.Table] = [self.folder / s["files"][0]["file"] for s in prepared]
        else:
            inputs = list(tables)
        loaded = [_load(table) for table in inputs]
        decided = _one_table(self.stage.run(pa.concat_tables(loaded)))
        total = sum(table.num_rows for table in loaded)
        if decided.num_rows != total:
            raise ValueError(f"stage {self.stage.name!r} returned {decided.num_rows} rows for {total}")
        starts = [sum(t.num_rows for t in loaded[:i]) for i in range(len(loaded))]
        sidecars = []
        for number, (source, table, start) in enumerate(zip(tables, loaded, starts, strict=True)):
            sidecar = self.sidecar("", number)
            if sidecar is None:
                columns = decided.slice(start, table.num_rows)
                sidecar = self.publish("", number, [_with_columns(_load(source), columns)])
            sidecars.append(sidecar)
        return sidecars

    def _parts(
        self, tables: Sequence[Path | pa.Table], work: Callable[[int, Path | pa.Table], str], kind: str
    ) -> list[dict[str, Any]]:
        """Sidecars of all parts in order; Daft makes those that are missing."""
        missing = [number for number in range(len(tables)) if self.sidecar(kind, number) is None]
        if missing:
            _on_daft([(number, tables[number]) for number in missing], work, self.stage.name)
        sidecars = [self.sidecar(kind, number) for number in range(len(tables))]
        assert all(sidecars), "a part was written and is gone"
        return [sidecar for sidecar in sidecars if sidecar]

    def sidecar(self, kind: str, number: int) -> dict[str, Any] | None:
        """What is known of a finished part, if its files are there."""
        found = _read_json(self.folder / f"{self.key}-{kind}{number:05d}.json")
        return found if found is not None and self._present(found["files"]) else None

    def publish(self, kind: str, number: int, tables: Iterable[pa.Table]) -> dict[str, Any]:
        """Write a part's surviving rows, then its sidecar."""
        files, counts = [], []
        for piece, table in enumerate(tables):
            kept, funnel = self._split(table)
            name = f"{self.key}-{kind}{number:05d}-{piece:04d}.parquet"
            files.append({"file": name, **_write_table(self.folder / name, kept)})
            counts.append(funnel)
        sidecar = {"files": files, "funnel": _merge(counts)}
        _write_json(self.folder / f"{self.key}-{kind}{number:05d}.json", sidecar)
        return sidecar

    def _split(self, table: pa.Table) -> tuple[pa.Table, dict[str, Any]]:
        """The rows that go on, and the count and samples of all."""
        if "dropped" not in table.column_names:
            return table, {"rows_in": table.num_rows, "kept": table.num_rows, "dropped": {},
                           "samples": _samples(table, "kept", self.seed)}  # fmt: skip
        reasons = table["dropped"]
        samples: dict[str, list[dict[str, Any]]] = {}
        dropped: dict[str, int] = {}
        for reason in sorted(set(reasons.drop_null().to_pylist())):
            rows = table.filter(pc.equal(reasons, reason))
            dropped[reason] = rows.num_rows
            samples |= _samples(rows, reason, self.seed)
        kept = table.filter(reasons.is_null())
        kept = kept.select([n for n in kept.column_names if n not in ("dropped", "detail")])
        samples |= _samples(kept, "kept", self.seed)
        return kept, {"rows_in": table.num_rows, "kept": kept.num_rows, "dropped": dropped, "samples": samples}

    def _present(self, files: Sequence[dict[str, Any]]) -> bool:
        paths = [(self.folder / file["file"], file["bytes"]) for file in files]
        return all(path.exists() and path.stat().st_size == size for path, size in paths)

    def _clear_strangers(self) -> None:
        """Remove what another fingerprint, or a killed write, left in this stage's folder."""
        for path in self.folder.iterdir():
            ours = path.suffix in (".parquet", ".json", ".pickle") or path.name.startswith(".")
            if ours and not path.name.startswith(f"{self.key}-"):
                path.unlink()


def _run_part(step: _Step, learnt: Any, number: int, table: Path | pa.Table) -> str:
    rows = _load(table)
    results = step.stage.run(rows, learnt) if step.stage.learn else step.stage.run(rows)
    if step.cut:
        tables = [results] if isinstance(results, pa.Table) else results
        step.publish("", number, (t.slice(i, step.cut) for t in tables for i in range(0, max(t.num_rows, 1), step.cut)))
        return ""
    result = _one_table(results)
    if result.num_rows != rows.num_rows:
        raise ValueError(f"returned {result.num_rows} rows for {rows.num_rows}; name a reason in `dropped` instead")
    step.publish("", number, [result])
    return ""


def _prepare_part(step: _Step, number: int, table: Path | pa.Table) -> str:
    assert step.stage.prepare
    rows = _load(table)
    prepared = step.stage.prepare(rows)
    if prepared.num_rows != rows.num_rows:
        raise ValueError(f"prepare returned {prepared.num_rows} rows for {rows.num_rows}")
    step.publish("keys-", number, [prepared])
    return ""


def _on_daft(
    tasks: Sequence[tuple[int, Path | pa.Table]],
    work: Callable[[int, Path | pa.Table], str],
    name: str,
) -> None:
    """Run `work` on every task, as many at a time as Daft has cores for."""
    quiet = {
        "DAFT_RUNNER": "native",
        "DAFT_PROGRESS_BAR": "0",
        "DAFT_ANALYTICS_ENABLED": "0",
        "SCARF_NO_ANALYTICS": "true",
    }
    for variable, value in quiet.items():
        os.environ.setdefault(variable, value)
    import daft

    numbers = [number for number, _ in tasks]
    by_number = dict(tasks)
    inputs = {n: t.to_pydict() if isinstance(t, pa.Table) else str(t) for n, t in by_number.items()}

    def guarded(number: int, given: str) -> str:
        try:
            value = json.loads(given)
            return work(number, Path(value) if isinstance(value, str) else pa.table(value, schema=INPUT_SCHEMA))
        except Exception as error:
            return f"{type(error).__name__}: {error}\x00{traceback.format_exc()}"

    run_part = daft.func(return_dtype=daft.DataType.string())(guarded)
    frame = daft.from_pydict({"number": numbers, "given": [json.dumps(inputs[n]) for n in numbers]}).into_batches(1)
    frame = frame.select(frame["number"], run_part(frame["number"], frame["given"]).alias("failed"))
    for row in progress(frame.iter_rows(), name, total=len(tasks), unit="parts"):
        if row["failed"]:
            message, _, trace = row["failed"].partition("\x00")
            failure = RuntimeError(f"stage {name!r} failed on part {row['number']}: {message}")
            failure.add_note(trace)
            raise failure


def _one_table(result: pa.Table | Iterable[pa.Table]) -> pa.Table:
    return result if isinstance(result, pa.Table) else pa.concat_tables(list(result))


def _with_columns(table: pa.Table, columns: pa.Table) -> pa.Table:
    """The table with these columns, replaced where it has them."""
    for name in columns.column_names:
        place = table.schema.get_field_index(name)
        column = columns.schema.field(name), columns[name]
        table = table.append_column(*column) if place < 0 else table.set_column(place, *column)
    return table


def _samples(table: pa.Table, reason: str, seed: int) -> dict[str, list[dict[str, Any]]]:
    """A few rows, drawn by a hash of seed and what names the row: the same whichever way rows are cut into parts."""
    if not table.num_rows or "url" not in table.column_names or "bands" in table.column_names:
        return {}
    names = table["id"] if "id" in table.column_names else table["url"]
    keys = [
        xxhash.xxh3_64_hexdigest(f"{seed} {n} {u}".encode())
        for n, u in zip(names.to_pylist(), table["url"].to_pylist(), strict=True)
    ]
    rows = []
    for i in heapq.nsmallest(SAMPLES, range(len(keys)), key=lambda i: (keys[i], i)):
        row = {n: table[n][i].as_py() for n in ("id", "url", "title", "text", "detail") if n in table.column_names}
        rows.append({"draw": keys[i], **{n: v[:SAMPLE_CHARACTERS] for n, v in row.items() if v}})
    return {reason: rows}


def _merge(funnels: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The funnel of a whole from those of its parts."""
    dropped: dict[str, int] = {}
    samples: dict[str, list[dict[str, Any]]] = {}
    for funnel in funnels:
        for reason, number in funnel["dropped"].items():
            dropped[reason] = dropped.get(reason, 0) + number
        for reason, rows in funnel["samples"].items():
            samples[reason] = samples.get(reason, []) + rows
    return {
        "rows_in": sum(f["rows_in"] for f in funnels),
        "kept": sum(f["kept"] for f in funnels),
        "dropped": dict(sorted(dropped.items())),
        "samples": {r: sorted(rows, key=lambda row: row["draw"])[:SAMPLES] for r, rows in sorted(samples.items())},
    }


# ---- files ---------------------------------------------------------------------------------------------------------


def _load(table: Path | pa.Table, columns: Sequence[str] | None = None) -> pa.Table:
    if isinstance(table, pa.Table):
        return table.select(columns) if columns else table
    try:
        return pq.read_table(table, columns=columns and list(columns)).combine_chunks()
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"{table} is damaged ({error}); delete its folder to make it again") from error


def _write_table(path: Path, table: pa.Table) -> dict[str, Any]:
    """Write a part under a temporary name, sync it, move it; rows, bytes and checksum of what stands there now."""
    temporary = aside(path)
    table = table.combine_chunks().replace_schema_metadata(None)
    pq.write_table(table, temporary, compression="zstd", write_statistics=False, row_group_size=1 << 20)
    facts = {"rows": table.num_rows, "bytes": temporary.stat().st_size, "xxh3": _file_digest(temporary)}
    publish(temporary, path)
    return facts


def _write_json(path: Path, value: Any) -> None:
    temporary = aside(path)
    temporary.write_text(json.dumps(value, ensure_ascii=False, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    publish(temporary, path)


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "replace")).hexdigest()[:16]


def _file_digest(path: Path) -> str:
    state = xxhash.xxh3_128()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            state.update(block)
    return state.hexdigest()


def _name_of(function: Any) -> str:
    return str(getattr(function, "__qualname__", type(function).__qualname__)) if function else ""


@contextlib.contextmanager
def _only_run(out: Path) -> Iterator[None]:
    """Hold the folder: two runs at once would sweep away each other's parts."""
    with (out / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(f"another run is writing to {out}") from None
        yield
