"""Exact and near duplicates over all inputs at once, best copy kept (MiMo 2.1): pure functions on Arrow tables.

First by canonical URL, then by MinHash LSH: texts that share the key of any of 14 bands of 8 hashes are joined, and
connected components of the pairs are the clusters. The best copy is the one its tagger scored highest, else the
longest, else that of the shortest URL; then a hash of id and URL decides, so the order of inputs does not. A pipeline
gives `drop_near_copies` the keys that its shards computed in parallel; `global_dedup.py` does the same on files of
any size. Also here: documents as rows.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from openmimo.checkpoint import sync_folder
from openmimo.data.groups import best_first, contract, linked, rank_keys
from openmimo.data.minhash import EMPTY, band_keys, signatures
from openmimo.data.urls import canonical_url
from openmimo.rows import write_rows
from openmimo.types import Document

DOCUMENT_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("url", pa.string()),
        ("title", pa.string()),
        ("text", pa.large_string()),
        ("source", pa.string()),
        ("language", pa.string()),
        ("tags", pa.string()),  # one JSON object
        ("cluster_id", pa.string()),  # id of the best copy of this document; its own until dedup has run
        ("cluster_size", pa.int64()),  # documents that this one stands for, itself included
    ]
)
"""A document row, the one form on disk."""

SCORE_TAGS = ("quality", "knowledge_density", "reasoning_depth")
"""Tags whose mean ranks the copies of a document; those that a document lacks are left out of its mean."""

# The facts that decide which copy stays: what a deduplication needs of a row besides its key.
RANK_SCHEMA = pa.schema(
    [
        ("id", pa.string()), ("url", pa.string()), ("score", pa.float64()), ("length", pa.int64()),
        ("tie", pa.uint64()), ("cluster_size", pa.int64()),
    ]
)  # fmt: skip


def url_keys(documents: pa.Table) -> pa.Table:
    """RANK_SCHEMA plus `key`: the canonical URL, empty for a document without one."""
    keys = [canonical_url(url or "") for url in documents["url"].to_pylist()]
    return rank_facts(documents).append_column("key", pa.array(keys, pa.string()))


def minhash_keys(documents: pa.Table, *, bands: int = 14, rows: int = 8, ngram: int = 5, seed: int = 0) -> pa.Table:
    """RANK_SCHEMA plus `bands`: B uint64 band keys a document."""
    keys_NB = text_keys(documents["text"], bands=bands, rows=rows, ngram=ngram, seed=seed)
    column = pa.FixedSizeListArray.from_arrays(pa.array(keys_NB.ravel(), pa.uint64()), bands)
    return rank_facts(documents).append_column("bands", column)


def text_keys(texts: pa.ChunkedArray, *, bands: int, rows: int, ngram: int, seed: int) -> NDArray[np.uint64]:
    """(N, B) band keys. A text without a word has keys of its characters, so it meets only what equals it."""
    signed_NH = signatures(texts, num_hashes=bands * rows, ngram=ngram, seed=seed)
    keys_NB = band_keys(signed_NH, bands=bands, rows=rows)
    for place in np.flatnonzero((signed_NH == EMPTY).all(axis=1)).tolist():
        keys_NB[place] = xxhash.xxh3_64_intdigest(texts[place].as_py().strip().encode(), seed=1)
    return keys_NB


def rank_facts(documents: pa.Table) -> pa.Table:
    """One RANK_SCHEMA row a document."""
    scores = [_score(tags) for tags in documents["tags"].to_pylist()]
    lengths = pc.cast(pc.utf8_length(documents["text"]), pa.int64())
    named = zip(documents["id"].to_pylist(), documents["url"].to_pylist(), strict=True)
    ties = [_tie(name, url or "") for name, url in named]
    columns = [documents["id"], documents["url"], pa.array(scores, pa.float64()), lengths,
               pa.array(ties, pa.uint64()), documents["cluster_size"]]  # fmt: skip
    return pa.Table.from_arrays(columns, schema=RANK_SCHEMA)


def ranks(facts: pa.Table) -> NDArray[np.uint64]:
    """(3, N) of RANK_SCHEMA rows, see `groups.rank_keys`."""
    score = pc.fill_null(facts["score"], float("nan")).to_numpy()
    return rank_keys(score, facts["length"].to_numpy(), facts["tie"].to_numpy())


def drop_url_copies(keyed: pa.Table) -> pa.Table:
    """What `url_keys` rows become: see `keep_best`."""
    numbers: dict[str, int] = {}
    labels = np.arange(keyed.num_rows, dtype=np.int64)
    for i, key in enumerate(keyed["key"].to_pylist()):
        if key:
            labels[i] = numbers.setdefault(key, i)
    return keep_best(keyed, labels, "same URL")


def drop_near_copies(keyed: pa.Table) -> pa.Table:
    """What `minhash_keys` rows become: see `keep_best`."""
    column = keyed["bands"].combine_chunks()
    keys_NB = column.flatten().to_numpy().reshape(keyed.num_rows, column.type.list_size)
    return keep_best(keyed, cluster(keys_NB), "near duplicate")


def cluster(keys_NB: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(N,) int64 labels: the smallest row number of each connected component of rows that share any key."""
    n, bands = keys_NB.shape
    nodes, roots = contract(linked(keys_NB.ravel(), np.repeat(np.arange(n, dtype=np.uint64), bands))).astype(np.int64)
    labels = np.arange(n, dtype=np.int64)
    labels[nodes] = roots
    return labels


def keep_best(keyed: pa.Table, labels: NDArray[np.int64], reason: str) -> pa.Table:
    """One row a document: cluster_id, cluster_size, `dropped` (reason, or null for the copy that stays), `detail`.

    The size of a cluster counts the copies that earlier passes folded into its members.
    """
    order, starts = best_first(labels.astype(np.uint64), ranks(keyed))
    sizes = np.diff(starts, append=len(order))
    winners, totals = np.empty(len(order), np.int64), np.empty(len(order), np.int64)
    winners[order] = np.repeat(order[starts], sizes)
    if len(order):
        totals[order] = np.repeat(np.add.reduceat(keyed["cluster_size"].to_numpy()[order], starts), sizes)
    best = keyed.select(["id", "url"]).take(pa.array(winners))
    stays = pa.array(winners == np.arange(len(winners)))
    details = pc.utf8_rtrim_whitespace(pc.binary_join_element_wise("kept", best["id"], best["url"], " "))
    nothing = pa.scalar(None, pa.string())
    return pa.table(
        {
            "cluster_id": best["id"],
            "cluster_size": pa.array(totals),
            "dropped": pc.if_else(stays, nothing, reason),
            "detail": pc.if_else(stays, nothing, details),
        }
    )


def documents_table(documents: Iterable[Document]) -> pa.Table:
    """Rows of DOCUMENT_SCHEMA, each a cluster of its own."""
    rows = [document_row(document) for document in documents]
    return pa.Table.from_pylist(rows, schema=DOCUMENT_SCHEMA)


def document_row(document: Document) -> dict[str, Any]:
    """A DOCUMENT_SCHEMA row, a cluster of its own. Lone surrogates, which no UTF-8 can hold, become `?`."""
    tags = json.dumps(dict(document.tags), ensure_ascii=False, sort_keys=True)
    row = {
        "id": document.id, "url": document.url, "title": document.title, "text": document.text,
        "source": document.source, "language": document.language, "tags": tags,
        "cluster_id": document.id, "cluster_size": 1,
    }  # fmt: skip
    return {k: v.encode("utf-8", "replace").decode() if isinstance(v, str) else v for k, v in row.items()}


def write_documents(documents: Iterable[Document], out: Path) -> None:
    """Documents to `.jsonl` or `.parquet`, a thousand rows at a time, atomically."""

    def tables() -> Iterable[pa.Table]:
        rows = []
        for document in documents:
            rows.append(document_row(document))
            if len(rows) == 1000:
                yield pa.Table.from_pylist(rows, schema=DOCUMENT_SCHEMA)
                rows = []
        yield pa.Table.from_pylist(rows, schema=DOCUMENT_SCHEMA)

    write_tables(tables(), out)


def write_tables(tables: Iterable[pa.Table], out: Path) -> None:
    """Tables of DOCUMENT_SCHEMA into one file, which appears whole or not at all; in .jsonl `tags` is an object.

    Raises:
        ValueError: if `out` ends in neither .jsonl nor .parquet.
    """
    if out.suffix == ".jsonl":
        rows = (row for table in tables for row in table.to_pylist())
        write_rows(out, ({**row, "tags": json.loads(row["tags"] or "{}")} for row in rows))
    elif out.suffix == ".parquet":
        _write_parquet(tables, out)
    else:
        raise ValueError(f"cannot write {out}: expected a name that ends in .jsonl or .parquet")


def _write_parquet(tables: Iterable[pa.Table], out: Path) -> None:
    import pyarrow.parquet as pq

    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with pq.ParquetWriter(temporary, DOCUMENT_SCHEMA, compression="zstd") as writer:
            for table in tables:
                writer.write_table(table)
        publish(temporary, out)
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path) -> None:
    """Put a finished file in its place, durably."""
    with temporary.open("rb") as file:
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_folder(path.parent)


def _tie(name: str, url: str) -> int:
    """64 bits that prefer the shorter URL, any URL to none, and then nothing in particular."""
    length = min(len(url), 0xFFFFFE) if url else 0xFFFFFF
    return length << 40 | xxhash.xxh3_64_intdigest(f"{name}\0{url}".encode()) >> 24


def _score(tags: str | None) -> float | None:
    """The mean of a document's SCORE_TAGS, if it has any."""
    if not tags or tags == "{}":
        return None
    try:
        found = json.loads(tags)
        values = [found[name] for name in SCORE_TAGS if isinstance(found.get(name), int | float)]
    except (ValueError, AttributeError):
        return None
    return float(sum(values) / len(values)) if values else None
