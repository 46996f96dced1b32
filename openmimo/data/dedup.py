"""Exact and near duplicates over all inputs at once, best copy kept (MiMo 2.1).

First by canonical URL, then by MinHash LSH: texts that share the key of any of 14 bands of 8 hashes are joined, and
union-find makes clusters of the pairs. The best copy is the one its tagger scored highest, else the longest; ties go to
the smaller URL, then the smaller id, so the order of inputs decides nothing but between equal rows. Nothing here
reads files but `dedup_to`; a pipeline gives `copies_of` the signatures that its shards computed in parallel.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit
from numpy.typing import NDArray

from openmimo.checkpoint import sync_folder
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

QUALITY_TAG = "quality"

# The facts that decide which copy stays: what a deduplication needs of a row besides its key.
RANK_SCHEMA = pa.schema(
    [
        ("id", pa.string()), ("url", pa.string()), ("quality", pa.float64()), ("length", pa.int64()),
        ("cluster_size", pa.int64()),
    ]
)  # fmt: skip


def url_keys(documents: pa.Table) -> pa.Table:
    """RANK_SCHEMA plus `key`: the canonical URL, empty for a document without one."""
    keys = [canonical_url(url or "") for url in documents["url"].to_pylist()]
    return rank_facts(documents).append_column("key", pa.array(keys, pa.string()))


def minhash_keys(documents: pa.Table, *, bands: int = 14, rows: int = 8, ngram: int = 5, seed: int = 0) -> pa.Table:
    """RANK_SCHEMA plus `bands`: B uint64 band keys a document, all zero for a text without a word."""
    from openmimo.data.minhash import EMPTY, band_keys, signatures

    signed = signatures(documents["text"].to_pylist(), num_hashes=bands * rows, ngram=ngram, seed=seed)
    keys = band_keys(signed, bands=bands, rows=rows)
    keys[(signed == EMPTY).all(axis=1)] = 0
    column = pa.FixedSizeListArray.from_arrays(pa.array(keys.ravel(), pa.uint64()), bands)
    return rank_facts(documents).append_column("bands", column)


def rank_facts(documents: pa.Table) -> pa.Table:
    """One RANK_SCHEMA row a document."""
    import pyarrow.compute as pc

    qualities = [_quality(tags) for tags in documents["tags"].to_pylist()]
    lengths = pc.cast(pc.utf8_length(documents["text"]), pa.int64())
    columns = [documents["id"], documents["url"], pa.array(qualities, pa.float64()), lengths, documents["cluster_size"]]
    return pa.Table.from_arrays(columns, schema=RANK_SCHEMA)


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
    bands = column.type.list_size
    keys_NB = column.flatten().to_numpy(zero_copy_only=False).reshape(keyed.num_rows, bands) if keyed.num_rows else None
    labels = cluster(keys_NB) if keys_NB is not None else np.empty(0, dtype=np.int64)
    return keep_best(keyed, labels, "near duplicate")


def cluster(keys_NB: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(N,) int64 labels: the smallest row number of each connected component of rows that share any band's key.

    Rows of zeros stand alone.
    """
    n, bands = keys_NB.shape
    parent = np.arange(n, dtype=np.int64)
    alone_N: NDArray[np.bool_] = np.equal(keys_NB.max(axis=1, initial=0), 0)
    for band in range(bands):
        order = np.argsort(keys_NB[:, band], kind="stable").astype(np.int64)
        order = order[~alone_N[order]]
        _join_runs(np.ascontiguousarray(keys_NB[:, band]), order, parent)
    _flatten(parent)
    return parent


def keep_best(keyed: pa.Table, labels: NDArray[np.int64], reason: str) -> pa.Table:
    """One row a document: cluster_id, cluster_size, `dropped` (reason, or null for the copy that stays), `detail`.

    The size of a cluster counts the copies that earlier passes folded into its members.
    """
    ids, urls = keyed["id"].to_pylist(), keyed["url"].to_pylist()
    quality, length = keyed["quality"].to_pylist(), keyed["length"].to_pylist()
    sizes = keyed["cluster_size"].to_pylist()
    best: dict[int, int] = {}
    total: dict[int, int] = {}

    def rank(i: int) -> tuple[Any, ...]:
        score = quality[i] if quality[i] is not None else -1.0  # untagged loses against any score
        return (-score, -length[i], urls[i], ids[i], i)

    for i, label in enumerate(labels.tolist()):
        total[label] = total.get(label, 0) + sizes[i]
        if label not in best or rank(i) < rank(best[label]):
            best[label] = i
    winners = [best[label] for label in labels.tolist()]
    details = [None if w == i else f"kept {ids[w]} {urls[w]}".strip() for i, w in enumerate(winners)]
    return pa.table(
        {
            "cluster_id": pa.array([ids[w] for w in winners], pa.string()),
            "cluster_size": pa.array([total[label] for label in labels.tolist()], pa.int64()),
            "dropped": pa.array([None if w == i else reason for i, w in enumerate(winners)], pa.string()),
            "detail": pa.array(details, pa.string()),
        }
    )  # fmt: skip


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


def dedup_to(inputs: Sequence[Path], out: Path) -> dict[str, int]:
    """Read documents or pages, drop copies by URL and by MinHash, write the rest; the file appears whole or not at all.

    Args:
        out: `.jsonl` or `.parquet`.

    Returns:
        Counts: `documents`, `kept`, `dropped: REASON` for each reason, `broken inputs`.

    Raises:
        ValueError: if the inputs hold no document at all.
    """
    from openmimo.data.extract import Dropped, extract
    from openmimo.data.read import broken_collector, nothing_read, read

    report, broken = broken_collector()
    counts: dict[str, int] = {"documents": 0, "kept": 0}
    found = []
    for result in map(extract, read(inputs, broken=report)):
        if isinstance(result, Dropped):
            counts[f"dropped: {result.reason}"] = counts.get(f"dropped: {result.reason}", 0) + 1
        else:
            found.append(result)
    if not found and len(counts) == 2:  # not even a dropped page
        raise nothing_read(inputs, broken)
    table = documents_table(found)
    counts["documents"] = table.num_rows
    for keys, drop in ((url_keys, drop_url_copies), (minhash_keys, drop_near_copies)):
        decided = drop(keys(table))
        for name in ("cluster_id", "cluster_size"):
            table = table.set_column(table.schema.get_field_index(name), name, decided[name])
        for reason in decided["dropped"].drop_null().to_pylist():
            counts[f"dropped: {reason}"] = counts.get(f"dropped: {reason}", 0) + 1
        table = table.filter(decided["dropped"].is_null())
    counts["kept"] = table.num_rows
    counts["broken inputs"] = len(broken)
    write_tables([table], out)
    return counts


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


def _quality(tags: str | None) -> float | None:
    try:
        value = json.loads(tags or "{}").get(QUALITY_TAG)
    except (ValueError, AttributeError):
        return None
    return float(value) if isinstance(value, (int, float)) else None


@njit(cache=True, nogil=True)
def _root(parent, i):
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(cache=True, nogil=True)
def _join_runs(keys, order, parent):
    """Union each row with its neighbour in key order if their keys are equal."""
    for i in range(len(order) - 1):
        if keys[order[i]] == keys[order[i + 1]]:
            a, b = _root(parent, order[i]), _root(parent, order[i + 1])
            if a != b:  # the smaller row number is the root: labels do not depend on the order of unions
                parent[max(a, b)] = min(a, b)


@njit(cache=True, nogil=True)
def _flatten(parent):
    for i in range(len(parent)):  # a parent is never larger than its child, so one pass is enough
        parent[i] = parent[parent[i]]
