"""A corpus of any size with planted copies and a known answer, made as fast as a disk takes it.

Documents are words of 7 letters drawn at random, so two originals share next to no shingle. The first POOL documents
are what is copied: near copies have 1 word in 100 replaced (Jaccard 0.90 by word 5-grams), exact copies none, and URL
copies are other, shorter texts under the URL of a pool document with a tracking parameter. Low numbers of the pool are
copied more often (a square law), so clusters are of all sizes. All else is original.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

POOL, WORDS, BATCH = 20_000, 400, 20_000
NEAR, EXACT, SAME_URL = 0.12, 0.03, 0.05
"""Shares of the documents after the pool."""
BATCHES_A_FILE = 16


@dataclass
class Answer:
    """What a deduplication should find."""

    documents: int = 0
    near: int = 0
    exact: int = 0
    same_url: int = 0
    text_bytes: int = 0
    file_bytes: int = 0


def generate(folder: Path, text_bytes: int, *, seed: int = 0) -> Answer:
    """Parquet files (zstd) of `text_bytes` of text or a little more; each holds 320,000 documents at most."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(seed)
    letters = rng.integers(ord("a"), ord("z") + 1, (1 << 16, 8), dtype=np.uint8)
    letters[:, 7] = ord(" ")
    vocabulary = letters.view(np.uint64).ravel()
    pool = rng.integers(0, 1 << 16, (POOL, WORDS), dtype=np.uint16)
    found, number, writer = Answer(), 0, None
    while found.text_bytes < text_bytes:
        if number % BATCHES_A_FILE == 0:
            if writer:
                writer.close()
            path = folder / f"part-{number // BATCHES_A_FILE:05d}.parquet"
            writer = pq.ParquetWriter(path, _table(pool[:0], vocabulary, [], 0).schema, compression="zstd")
        assert writer
        if number == 0:
            tables = [_table(pool, vocabulary, np.arange(POOL), 0)]
        else:
            tables = _batch(rng, pool, vocabulary, found)
        for table in tables:
            writer.write_table(table)
            found.documents += table.num_rows
            found.text_bytes += pc.sum(pc.binary_length(table["text"])).as_py()
        number += 1
    if writer:
        writer.close()
    found.file_bytes = sum(path.stat().st_size for path in folder.iterdir())
    return found


def _batch(
    rng: np.random.Generator, pool: NDArray[np.uint16], vocabulary: NDArray[np.uint64], found: Answer
) -> list[pa.Table]:
    near, exact, same_url = (int(BATCH * share) for share in (NEAR, EXACT, SAME_URL))
    chosen = (POOL * rng.random(BATCH) ** 2).astype(np.int64)
    texts = rng.integers(0, 1 << 16, (BATCH - same_url, WORDS), dtype=np.uint16)
    texts[: near + exact] = pool[chosen[: near + exact]]
    places = rng.integers(0, WORDS, (near, WORDS // 100))
    texts[np.arange(near)[:, None], places] = rng.integers(0, 1 << 16, places.shape, dtype=np.uint16)
    start = found.documents
    own = np.arange(start, start + len(texts))
    short = rng.integers(0, 1 << 16, (same_url, WORDS * 3 // 4), dtype=np.uint16)
    found.near += near
    found.exact += exact
    found.same_url += same_url
    return [
        _table(texts, vocabulary, own, start),
        _table(short, vocabulary, chosen[-same_url:], start + len(texts), "?utm_source=feed"),
    ]


def _table(
    words: NDArray[np.uint16],
    vocabulary: NDArray[np.uint64],
    pages: NDArray[np.int64] | list[int],
    start: int,
    tail: str = "",
) -> pa.Table:
    """Documents numbered from `start`, of the given words, under the URLs of the given pages."""
    data = vocabulary[words]
    borders = np.arange(len(words) + 1, dtype=np.int64) * (8 * words.shape[1])
    texts = pa.LargeStringArray.from_buffers(len(words), pa.py_buffer(borders), pa.py_buffer(data))
    numbers = pa.array(np.arange(start, start + len(words))).cast(pa.string())
    urls = pc.binary_join_element_wise(
        "https://www.example.org/page", pa.array(pages, pa.int64()).cast(pa.string()), tail, "/"
    )
    urls = urls if tail else pc.utf8_rtrim(urls, "/")
    return pa.table({"id": numbers, "url": urls, "text": texts})


if __name__ == "__main__":
    import json
    import sys

    print(json.dumps(asdict(generate(Path(sys.argv[1]), int(float(sys.argv[2]) * 1e9)))))
