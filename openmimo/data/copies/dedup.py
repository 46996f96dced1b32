"""Exact and near duplicates over all inputs at once, best copy kept (MiMo 2.1): pure functions on Arrow tables.

First by canonical URL, then by MinHash LSH: texts that share the key of any of 14 bands of 8 hashes are joined, and
connected components of the pairs are the clusters. The best copy is the one its tagger scored highest, else the
longest, else that of the shortest URL; then a hash of id and URL decides, so the order of inputs does not. A pipeline
gives `drop_near_copies` the keys that its shards computed in parallel; `global_dedup.py` does the same on files of
any size.
"""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import xxhash
from numpy.typing import NDArray

from openmimo.data.copies.groups import best_first, contract, linked, rank_keys
from openmimo.data.copies.minhash import EMPTY, band_keys, signatures
from openmimo.data.urls import canonical_url

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
