"""One maker of MinHash signatures, ours or a peer, in an environment of its own; driven by `dedup_signatures.py`.

    python minhash_peer.py NAME DOCUMENTS.jsonl < A_LINE_A_ROUND

112 hashes, word 5-grams, one thread. Each gets its documents in the form it likes best, made before the clock starts:
an Arrow column for ours and for Daft, strings for the others. A line of JSON: CPU seconds of each round, and how well
the signatures of the file's first two documents agree, which is an estimate of their Jaccard similarity.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from itertools import chain
from typing import Any

HASHES, NGRAM = 112, 5


def ours(texts: list[str], *, numba: bool = False) -> Callable[[], Any]:
    import pyarrow as pa

    from openmimo.data.copies import minhash, minhash_numba

    if numba:
        minhash.kernels = lambda: minhash_numba  # type: ignore[assignment]
    else:
        assert minhash.kernels() is not minhash_numba, "the compiled kernel is missing"
    column = pa.array(texts, pa.large_string())
    return lambda: minhash.signatures(column, num_hashes=HASHES, ngram=NGRAM)


def daft(texts: list[str]) -> Callable[[], Any]:
    """Its fastest hash function of those it has; the expression normalises nothing, so the texts are lower case."""
    os.environ.update(DAFT_RUNNER="native", DAFT_PROGRESS_BAR="0", DAFT_ANALYTICS_ENABLED="0")
    import daft as library

    frame = library.from_pydict({"text": texts}).collect()
    signed = library.col("text").minhash(num_hashes=HASHES, ngram_size=NGRAM, seed=1, hash_function="xxhash3_64")

    def sign() -> Any:
        found = frame.select(signed).collect()
        return found.to_pydict()["text"] if len(texts) == 2 else found

    return sign


def rensa(texts: list[str], *, kind: str = "") -> Callable[[], Any]:
    from rensa import RMinHash

    made = getattr(RMinHash, f"digest_matrix_from_token_sets{kind}")

    def sign() -> Any:
        found = made([shingles(text) for text in texts], HASHES, 1)
        return found.to_rows() if len(texts) == 2 else found

    return sign


def datasketch(texts: list[str]) -> Callable[[], Any]:
    from datasketch import MinHash
    from xxhash import xxh32_intdigest

    def sign() -> Any:
        sets = ([s.encode() for s in shingles(text)] for text in texts)
        return [m.digest() for m in MinHash.generator(sets, num_perm=HASHES, hashfunc=xxh32_intdigest)]

    return sign


def datatrove(texts: list[str]) -> Callable[[], Any]:
    """Its standard recipe: spaCy's words of normalised English."""
    import tempfile

    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupSignature

    config = MinhashConfig(n_grams=NGRAM, num_buckets=14, hashes_per_bucket=8)
    step = MinhashDedupSignature(tempfile.mkdtemp(), config)
    return lambda: [list(chain(*step.get_signature(step.get_shingles(text)))) for text in texts]


def shingles(text: str) -> list[str]:
    """Runs of words as strings, the cheapest way there is in Python."""
    words = text.split()
    return [" ".join(words[i : i + NGRAM]) for i in range(len(words) - NGRAM + 1)]


MAKERS: dict[str, Callable[[list[str]], Callable[[], Any]]] = {
    "ours": ours,
    "ours, numba": lambda texts: ours(texts, numba=True),
    "daft": daft,
    "rensa": rensa,
    "rensa, rho": lambda texts: rensa(texts, kind="_rho"),
    "datasketch": datasketch,
    "datatrove": datatrove,
}


def main() -> None:
    name, path = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever prints does not speak to the benchmark
    with open(path, "rb") as file:
        texts = [json.loads(line)["text"] for line in file]
    pair = [list(row) for row in MAKERS[name](texts[:2])()]
    sign = MAKERS[name](texts)
    sign()
    print(json.dumps({"agree": sum(a == b for a, b in zip(*pair, strict=True)) / HASHES}), file=answers, flush=True)
    for _ in sys.stdin:
        began = time.process_time()
        sign()
        print(json.dumps({"cpu_s": time.process_time() - began}), file=answers, flush=True)


if __name__ == "__main__":
    main()
