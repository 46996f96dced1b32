"""Claim: LSH of 14 bands of 8 finds pairs as theory says, and of real copies at Jaccard 0.8 or more at least 0.99.

    OMP_NUM_THREADS=1 python benchmarks/dedup_lsh.py [FOLDER...] [benchmarks/results/dedup_lsh.json]

Generated: 40,000 pairs of texts of 60 to 600 words whose exact Jaccard similarity (word 5-grams, from the words
themselves) spreads over 0.5 to 1. A pair is hit if any band key agrees. Told by bins of 0.05: the share hit, and the
mean of 1 - (1 - J^8)^14 over the same pairs.

Real: 6,000 text files (.py, .md, .rst, .txt, .html, licences) of at least 50 words under the folders, by default the
packages of this Python; whole duplicates are left out first, so that they do not carry the figure. Exact similarity of
all pairs comes from an inverted index of the shingles themselves. Recall over pairs at 0.8 or more, over 20 seeds of
the hash functions: by direct hits, beside what theory says for these very pairs; of pairs in one cluster; and of texts
that are in one cluster with any of their copies.
"""

from __future__ import annotations

import sys
import sysconfig
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import record

from openmimo.data.copies.dedup import cluster
from openmimo.data.copies.minhash import NGRAM, band_keys, signatures, word_hashes

BANDS, ROWS = 14, 8
NUM_PAIRS = 40_000
AT_LEAST = 0.8
MOST_FILES = 6000
SEEDS = 20
"""Of the hash functions: copies come in families, whose pairs are found or missed together."""


def main() -> None:
    folders = [Path(word) for word in sys.argv[1:] if not word.endswith(".json")] or [
        Path(sysconfig.get_path("purelib"))
    ]
    record.write(
        "LSH hit rate by Jaccard bin against theory; recall at Jaccard 0.8 or more against all pairs",
        "OMP_NUM_THREADS=1 python benchmarks/dedup_lsh.py",
        {"bands": BANDS, "rows": ROWS, "ngram": NGRAM, "generated": generated(), "real": real(folders)},
    )


def theory(similarity: np.ndarray) -> np.ndarray:
    return np.asarray(1 - (1 - similarity**ROWS) ** BANDS)


def keys_of(texts: list[str], seed: int = 0) -> np.ndarray:
    return band_keys(signatures(texts, num_hashes=BANDS * ROWS, seed=seed), bands=BANDS, rows=ROWS)


def generated() -> dict[str, Any]:
    rng = np.random.default_rng(0)
    similarity, hit = np.empty(NUM_PAIRS), np.empty(NUM_PAIRS, bool)
    for start in range(0, NUM_PAIRS, 5000):
        pairs = [pair_of(rng) for _ in range(5000)]
        similarity[start : start + 5000] = [jaccard(shingles(a), shingles(b)) for a, b in pairs]
        keys = keys_of([" ".join(map(word, text)) for pair in pairs for text in pair])
        hit[start : start + 5000] = (keys[::2] == keys[1::2]).any(axis=1)
    expected = theory(similarity)
    bins, worst = {}, 0.0
    for low in np.arange(0.5, 1.0, 0.05):
        inside = (similarity >= low - 1e-9) & (similarity < (low + 0.05 if low < 0.94 else 1.01) - 1e-9)
        worst = max(worst, abs(hit[inside].mean() - expected[inside].mean()))
        bins[f"{low:.2f}-{low + 0.05:.2f}"] = {
            "pairs": int(inside.sum()),
            "hit": round(float(hit[inside].mean()), 4),
            "theory": round(float(expected[inside].mean()), 4),
        }
    high = similarity >= AT_LEAST
    return {
        "pairs": NUM_PAIRS,
        "bins": bins,
        "greatest distance from theory": round(float(worst), 4),
        "pairs at 0.8 or more": int(high.sum()),
        "recall at 0.8 or more": round(float(hit[high].mean()), 4),
        "theory for these pairs": round(float(expected[high].mean()), 4),
    }


def pair_of(rng: np.random.Generator) -> tuple[list[int], list[int]]:
    """A text and a copy with some words replaced, so many that similarities spread evenly."""
    length = int(rng.integers(60, 601))
    text = rng.integers(0, 50_000, length).tolist()
    aim = rng.uniform(0.5, 1.0)
    share = (1 - aim) / (1 + aim)  # of the shingles of each that the other lacks
    copy = list(text)
    for place in rng.permutation(length)[: rng.binomial(length, min(1.0, share / NGRAM * 1.15))]:
        copy[place] = int(rng.integers(0, 50_000))
    return text, copy


def word(number: int) -> str:
    return f"w{number:x}"


def shingles(words: list[Any]) -> set[tuple[Any, ...]]:
    return {tuple(words[i : i + NGRAM]) for i in range(max(1, len(words) - NGRAM + 1))}


def jaccard(a: set[Any], b: set[Any]) -> float:
    return len(a & b) / len(a | b)


def real(folders: list[Path]) -> dict[str, Any]:
    texts = read_texts(folders)
    sets = [shingles(words_of(text)) for text in texts]
    similarity = all_pairs(sets)
    pairs = np.array(list(similarity)).reshape(-1, 2)
    exact = np.array(list(similarity.values()))
    rates: dict[str, list[float]] = defaultdict(list)
    hits = np.zeros(len(exact))
    for seed in range(SEEDS):
        keys = keys_of(texts, seed)
        labels = cluster(keys)
        hit = (keys[pairs[:, 0]] == keys[pairs[:, 1]]).any(axis=1)
        together = labels[pairs[:, 0]] == labels[pairs[:, 1]]
        hits += hit / SEEDS
        rates["direct"].append(float(hit.mean()))
        rates["same cluster"].append(float(together.mean()))
        rates["a text with one of its copies"].append(covered(pairs, together))
    found = {}
    for low, high in ((0.8, 0.85), (0.85, 0.9), (0.9, 0.95), (0.95, 1.01)):
        inside = (exact >= low) & (exact < high)
        found[f"{low}-{min(high, 1.0)}"] = {
            "pairs": int(inside.sum()),
            "hit": round(float(hits[inside].mean()), 4),
            "theory": round(float(theory(exact[inside]).mean()), 4),
        }
    return {
        "texts": len(texts),
        "mean words": round(float(np.mean([len(s) for s in sets]))),
        "pairs at 0.8 or more": len(exact),
        "bins": found,
        "theory for these pairs": round(float(theory(exact).mean()), 4),
        "recall at 0.8 or more": {name: record.spread(values, digits=4) for name, values in rates.items()},
    }


def covered(pairs: np.ndarray, together: np.ndarray) -> float:
    """Share of the texts that have a copy, which some copy of theirs was joined to."""
    with_copy = np.unique(pairs)
    return len(np.unique(pairs[together])) / len(with_copy)


def read_texts(folders: list[Path]) -> list[str]:
    endings = {".py", ".md", ".rst", ".txt", ".html", ""}
    texts: dict[str, str] = {}
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if len(texts) == MOST_FILES:
                break
            if path.suffix.lower() not in endings or not path.is_file() or path.stat().st_size > 300_000:
                continue
            text = path.read_text(encoding="utf-8", errors="ignore")
            words = words_of(text)
            if len(words) >= 50:
                texts.setdefault(" ".join(words), text)
    return list(texts.values())


def words_of(text: str) -> list[str]:
    _, starts, ends, lowered = word_hashes(text)
    return [lowered[s:e] for s, e in zip(starts.tolist(), ends.tolist(), strict=True)]


def all_pairs(sets: list[set[Any]]) -> dict[tuple[int, int], float]:
    """Exact similarity of every pair at AT_LEAST or more.

    Only the rarest shingles of a set are looked up, so many that a pair which shares none of them is below AT_LEAST.
    """
    count: dict[Any, int] = defaultdict(int)
    for one in sets:
        for shingle in one:
            count[shingle] += 1
    places: dict[Any, list[int]] = defaultdict(list)
    found = {}
    for number in sorted(range(len(sets)), key=lambda i: len(sets[i])):
        one = sets[number]
        prefix = sorted(one, key=lambda s: (count[s], s))[: len(one) - int(np.ceil(AT_LEAST * len(one))) + 1]
        candidates = {other for shingle in prefix if count[shingle] > 1 for other in places[shingle]}
        for other in candidates:
            if len(sets[other]) >= AT_LEAST * len(one):
                similarity = jaccard(one, sets[other])
                if similarity >= AT_LEAST:
                    found[min(number, other), max(number, other)] = similarity
        for shingle in prefix:
            places[shingle].append(number)
    return found


if __name__ == "__main__":
    main()
