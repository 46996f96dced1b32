"""Held-out problems kept out of training text by n-gram overlap (MiMo 2.1, 3.1, 3.2: 16-gram).

A document is dropped when it shares any run of n words with a held-out text. Words are lower-case runs of letters and
digits, so punctuation, TeX braces and line breaks hide nothing. A held-out text shorter than n words counts by exact
match: found as a whole anywhere in the document if it has at least 8 words, else equal to the document or to one of
its lines. Rolling hashes find candidates; the words themselves confirm each one.

Sixteen words decide. Near-copies with a number or a name changed share shorter runs, and so do texts with nothing but
a phrase in common ("relatively prime positive integers"): a `Screen` looks for runs of 13 and 8 words too, to report
and not to drop.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from openmimo.config import missing_file
from openmimo.data.copies.minhash import ngram_hashes, word_hashes
from openmimo.rows import read_rows

NGRAM = 16  # MiMo 3.1
REPORTED = (16, 13, 8)
"""Run lengths that a screen looks at; which one decides is its `ngram`."""
FIELDS = ("prompt", "problem", "question", "text")
"""Where a benchmark's row keeps its problem; the first that is there."""
MIN_EMBEDDED_WORDS = 8  # ours: a shorter whole problem ("What is 2 + 2?") stands in many pages by chance


@dataclass(frozen=True)
class Index:
    """Held-out texts, ready to be looked for. Build with `build_index`."""

    ngram: int
    num_texts: int
    hashes: dict[int, NDArray[np.uint64]] = field(repr=False)
    """Run length -> sorted hashes of the runs of so many words to look for."""
    grams: Mapping[str, tuple[int, int]] = field(repr=False)
    """The same runs as words, which confirm a hash -> the first held-out text with it, and how many have it."""
    short: Mapping[str, tuple[int, int]] = field(repr=False)
    """Texts of fewer than MIN_EMBEDDED_WORDS words: matched against whole documents and whole lines."""


@dataclass(frozen=True)
class Match:
    """What a text shares with a held-out one."""

    gram: str
    """The words, lower case."""
    item: int
    """Number of the first held-out text that has them."""
    num_items: int
    """Held-out texts that have them: many speak for a phrase, one for a copy."""


@dataclass(frozen=True)
class Screen:
    """Held-out texts to look for at several run lengths. Build with `build_screen`."""

    ngram: int
    """The run length that decides."""
    texts: tuple[str, ...] = field(repr=False)
    indices: tuple[Index, ...]
    """By run length, shortest first: what a longer run finds, a shorter one finds too."""


@dataclass(frozen=True)
class Overlap:
    """The longest run length of a screen at which a text overlaps."""

    ngram: int
    match: Match


@dataclass(frozen=True)
class HeldOutFile:
    """A benchmark's texts."""

    path: Path
    column: str
    """Where they stood: one of FIELDS, `mixed`, or `line` in a plain text file."""
    texts: tuple[str, ...] = field(repr=False)


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
    grams: dict[str, tuple[int, int]] = {}
    short: dict[str, tuple[int, int]] = {}
    count = 0
    for number, text in enumerate(held_out):
        words, hashes = _words(text)
        if not words:
            continue
        count += 1
        if len(words) < min(ngram, MIN_EMBEDDED_WORDS):
            _own(short, {_plain_words(text)}, number)
            continue
        run = min(ngram, len(words))
        by_length.setdefault(run, set()).update(ngram_hashes(hashes, run).tolist())
        _own(grams, _grams(words, run), number)
    arrays = {run: np.array(sorted(found), dtype=np.uint64) for run, found in sorted(by_length.items())}
    return Index(ngram, count, arrays, grams, short)


def contaminated(text: str, index: Index) -> str | None:
    """The first run of words (longest run length first) that the text shares with a held-out text, or None."""
    return next((match.gram for match in matches(text, index)), None)


def matches(text: str, index: Index) -> Iterator[Match]:
    """Every run of words that the text shares with a held-out text, longest run length first."""
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
                yield Match(gram, *index.grams[gram])
    if index.short and (words := _short_match(text, index)):
        yield Match(words, *index.short[words])


def build_screen(held_out: Iterable[str], *, ngram: int = NGRAM) -> Screen:
    """Held-out texts, ready to be looked for at `ngram` words and at those of REPORTED.

    Raises:
        ValueError: if ngram is below 1.
    """
    texts = tuple(held_out)
    lengths = sorted({ngram, *REPORTED})
    return Screen(ngram, texts, tuple(build_index(texts, ngram=length) for length in lengths))


def find_overlap(texts: Sequence[str], screen: Screen) -> Overlap | None:
    """The longest run length at which any of the texts overlaps, with the run that fewest held-out texts have."""
    best = None
    for index in screen.indices:
        found = [match for text in texts for match in matches(text, index)]
        if not found:
            break
        best = Overlap(index.ngram, min(found, key=lambda match: match.num_items))
    return best


def share_found(text: str, held_out: str, *, ngram: int) -> float:
    """Share of a held-out text's words that stand in runs of `ngram` words which the text has too, 0 to 1.

    Near 1: a copy, or a near-copy with a number changed; low: a phrase that both use.
    """
    words, _ = _words(held_out)
    run = min(ngram, len(words))
    known = _grams(_words(text)[0], run)
    found = np.zeros(len(words), bool)
    for i in range(len(words) - run + 1):
        if " ".join(words[i : i + run]) in known:
            found[i : i + run] = True
    return float(found.mean()) if words else 0.0


def read_held_out(path: Path) -> HeldOutFile:
    """A benchmark's texts: .jsonl(.gz) rows with one of FIELDS, or any other file, a text a line.

    Raises:
        ValueError: for a missing file, a row without text, or a file without any.
    """
    if not path.is_file():
        raise missing_file(path)
    texts, fields = [], set()
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        for number, row in enumerate(read_rows(path), 1):
            name = next((name for name in FIELDS if isinstance(row.get(name), str)), None)
            if name is None:
                have = ", ".join(sorted(row))
                raise ValueError(f"{path}, row {number}: a benchmark row has {' or '.join(FIELDS)}; it has {have}")
            texts.append(row[name])
            fields.add(name)
    else:
        try:
            with path.open(encoding="utf-8", newline="\n") as file:
                texts = [line.strip() for line in file if line.strip()]
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no UTF-8 text, a problem a line: {error}") from error
        fields.add("line")
    if not texts:
        raise ValueError(f"{path} holds no benchmark text: 0 rows")
    return HeldOutFile(path, fields.pop() if len(fields) == 1 else "mixed", tuple(texts))


def overlap_report(
    texts: Sequence[str], held_out: Sequence[str], *, ngrams: Sequence[int] = (16, 13, 8)
) -> dict[int, int]:
    """How many of the texts each run length would drop: tighter runs drop more."""
    counts: Counter[int] = Counter()
    for ngram in ngrams:
        index = build_index(held_out, ngram=ngram)
        counts[ngram] = sum(contaminated(text, index) is not None for text in texts)
    return {ngram: counts[ngram] for ngram in ngrams}


def _words(text: str) -> tuple[list[str], NDArray[np.uint64]]:
    """The words, lower case, and the hash of each."""
    hashes, starts, ends, lowered = word_hashes(text)
    return [lowered[s:e] for s, e in zip(starts.tolist(), ends.tolist(), strict=True)], hashes


def _grams(words: Sequence[str], run: int) -> set[str]:
    return {" ".join(words[i : i + run]) for i in range(len(words) - run + 1)}


def _own(owners: dict[str, tuple[int, int]], grams: Iterable[str], number: int) -> None:
    """Note that held-out text `number` has these runs."""
    alone = (number, 1)
    for gram in grams:
        known = owners.get(gram)
        owners[gram] = (known[0], known[1] + 1) if known else alone


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
