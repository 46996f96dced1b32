"""Held-out problems kept out of training text by n-gram overlap (MiMo 2.1, 3.1, 3.2: 16-gram).

A document is dropped when it shares any run of n words with a held-out text. Words are lower-case runs of letters and
digits, so punctuation, TeX braces and line breaks hide nothing. A held-out text shorter than n words counts by exact
match: found as a whole anywhere in the document if it has at least 8 words, else equal to the document or to one of
its lines. Rolling hashes find candidates; the words themselves confirm each one.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from openmimo.data.minhash import ngram_hashes, word_hashes

NGRAM = 16  # MiMo 3.1
MIN_EMBEDDED_WORDS = 8  # ours: a shorter whole problem ("What is 2 + 2?") stands in many pages by chance


@dataclass(frozen=True)
class Index:
    """Held-out texts, ready to be looked for. Build with `build_index`."""

    ngram: int
    num_texts: int
    hashes: dict[int, NDArray[np.uint64]] = field(repr=False)
    """Run length -> sorted hashes of the runs of so many words to look for."""
    grams: frozenset[str] = field(repr=False)
    """The same runs as words: what confirms a hash."""
    short: frozenset[str] = field(repr=False)
    """Texts of fewer than MIN_EMBEDDED_WORDS words: matched against whole documents and whole lines."""


def build_index(held_out: Iterable[str], *, ngram: int = NGRAM) -> Index:
    """Index of held-out texts.

    Args:
        held_out: problem statements; texts without a word are left out.
        ngram: words a run, at least 1; 16 decides, 13 and 8 are for reports.

    Raises:
        ValueError: if ngram is below 1.
    """
    if ngram < 1:
        raise ValueError(f"ngram must be at least 1, got {ngram}")
    by_length: dict[int, set[int]] = {}
    grams: set[str] = set()
    short: set[str] = set()
    count = 0
    for text in held_out:
        hashes, starts, ends, lowered = word_hashes(text)
        words = [lowered[s:e] for s, e in zip(starts.tolist(), ends.tolist(), strict=True)]
        if not words:
            continue
        count += 1
        if len(words) < min(ngram, MIN_EMBEDDED_WORDS):
            short.add(_plain_words(text))
            continue
        run = min(ngram, len(words))
        by_length.setdefault(run, set()).update(ngram_hashes(hashes, run).tolist())
        grams.update(" ".join(words[i : i + run]) for i in range(len(words) - run + 1))
    arrays = {run: np.array(sorted(found), dtype=np.uint64) for run, found in sorted(by_length.items())}
    return Index(ngram, count, arrays, frozenset(grams), frozenset(short))


def contaminated(text: str, index: Index) -> str | None:
    """The first run of words (longest run length first) that the text shares with a held-out text, or None."""
    hashes, starts, ends, lowered = word_hashes(text)
    for run in sorted(index.hashes, reverse=True):
        found = ngram_hashes(hashes, run)
        if not len(found):
            continue
        for i in np.flatnonzero(_is_in(found, index.hashes[run])).tolist():
            gram = " ".join(
                lowered[s:e] for s, e in zip(starts[i : i + run].tolist(), ends[i : i + run].tolist(), strict=True)
            )
            if gram in index.grams:
                return gram
    return _short_match(text, index) if index.short else None


def overlap_report(
    texts: Sequence[str], held_out: Sequence[str], *, ngrams: Sequence[int] = (16, 13, 8)
) -> dict[int, int]:
    """How many of the texts each run length would drop: tighter runs drop more."""
    counts: Counter[int] = Counter()
    for ngram in ngrams:
        index = build_index(held_out, ngram=ngram)
        counts[ngram] = sum(contaminated(text, index) is not None for text in texts)
    return {ngram: counts[ngram] for ngram in ngrams}


def _is_in(values: NDArray[np.uint64], known: NDArray[np.uint64]) -> NDArray[np.bool_]:
    places = np.searchsorted(known, values)
    places[places == len(known)] = 0
    return known[places] == values


def _short_match(text: str, index: Index) -> str | None:
    for line in [text, *text.split("\n")] if "\n" in text else [text]:
        # No word of a short problem is as long as this limit; an exact match needs no more than a look-up.
        if len(line) <= 40 * MIN_EMBEDDED_WORDS and (words := _plain_words(line)) in index.short:
            return words
    return None


def _plain_words(text: str) -> str:
    return " ".join(re.findall(r"[^\W_]+", text.lower()))
