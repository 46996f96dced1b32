"""MinHash signatures of texts: the kernel of near-duplicate detection (MiMo 2.1: MinHash over all dumps at once).

A text is a set of shingles, each a run of n words; two texts agree in each of H hashes with probability equal to the
Jaccard similarity of their sets. Words are runs of letters, digits and marks, lower case; in scripts that write no
spaces every character is a word, so shingles there are character n-grams. Shapes: N = texts, H = hashes, B = bands.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numba import njit
from numpy.typing import NDArray

NUM_HASHES = 112  # 14 bands x 8 rows: half of the pairs at Jaccard 0.72 collide in at least one band
NGRAM = 5
EMPTY = np.uint64(0xFFFFFFFFFFFFFFFF)
"""Every entry of the signature of a text without a single word."""

# Code points of scripts that put no spaces between words: Thai, Lao, Myanmar, Khmer, kana, Han, Yi, Tai, Javanese.
SPACELESS = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19DF), (0x1A20, 0x1AAF), (0x3005, 0x3007),
    (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA000, 0xA4CF), (0xA980, 0xA9DF),
    (0xAA00, 0xAA5F), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x1B000, 0x1B16F), (0x20000, 0x323AF),
)  # fmt: skip

SEPARATOR, LETTER, ALONE = 0, 1, 2

_CHUNK_CHARACTERS = 4_000_000  # 16 MB of code points at a time


def signatures(
    texts: Sequence[str], *, num_hashes: int = NUM_HASHES, ngram: int = NGRAM, seed: int = 0
) -> NDArray[np.uint64]:
    """(N, H) uint64 signatures; a function of each text alone, so shards may be hashed anywhere.

    Args:
        texts: N texts, any script.
        num_hashes: H, at least 1.
        ngram: words a shingle, at least 1; a text with fewer words is one shingle of all of them.
        seed: of the hash functions; signatures under different seeds cannot be compared.

    Raises:
        ValueError: if num_hashes or ngram is below 1.
    """
    if num_hashes < 1 or ngram < 1:
        raise ValueError(f"num_hashes and ngram must be at least 1, got {num_hashes} and {ngram}")
    factors, offsets = hash_functions(num_hashes, seed)
    out = np.empty((len(texts), num_hashes), dtype=np.uint64)
    for first, last in _chunks(texts):
        codes, borders = code_points(texts[first:last])
        _signatures(codes, borders, character_classes(), ngram, factors, offsets, out[first:last])
    return out


def band_keys(signatures_NH: NDArray[np.uint64], *, bands: int, rows: int) -> NDArray[np.uint64]:
    """(N, B) uint64: texts that share a band's key agree in all of its rows (up to 64-bit accidents).

    Raises:
        ValueError: if bands x rows is not the number of hashes.
    """
    if bands * rows != signatures_NH.shape[1]:
        raise ValueError(f"{bands} bands x {rows} rows need {bands * rows} hashes, got {signatures_NH.shape[1]}")
    return _band_keys(np.ascontiguousarray(signatures_NH), bands, rows)


def word_hashes(text: str) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64], str]:
    """Hash, start and end (character offsets) of every word, and the lower-cased text that they index."""
    lowered = text.lower()
    codes, _ = code_points([lowered])
    hashes, starts, ends = _words(codes, character_classes())
    return hashes, starts, ends, lowered


def ngram_hashes(words: NDArray[np.uint64], ngram: int) -> NDArray[np.uint64]:
    """Hash of every run of `ngram` words; empty if there are fewer. The same words hash alike wherever they stand."""
    if len(words) < ngram:
        return np.empty(0, dtype=np.uint64)
    return _runs(words, ngram)


def hash_functions(num_hashes: int, seed: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Odd factors and offsets of H functions x -> a x + b mod 2^64, from a counter through splitmix64."""
    values = [_splitmix((seed * 0x10000 + i) & 0xFFFFFFFFFFFFFFFF) for i in range(2 * num_hashes)]
    return np.array([v | 1 for v in values[::2]], dtype=np.uint64), np.array(values[1::2], dtype=np.uint64)


def code_points(texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """All texts' code points, lower case, end to end, and the N + 1 borders between them."""
    encoded = [text.lower().encode("utf-32-le", "surrogatepass") for text in texts]
    borders = np.zeros(len(texts) + 1, dtype=np.int64)
    np.cumsum([len(e) // 4 for e in encoded], out=borders[1:])
    return np.frombuffer(b"".join(encoded), dtype=np.uint32), borders


@lru_cache(maxsize=1)
def character_classes() -> NDArray[np.uint8]:
    """(0x110000,) uint8: SEPARATOR, LETTER (letters, digits, marks) or ALONE (a word by itself), by code point."""
    category = unicodedata.category
    classes = np.frombuffer(bytes(category(chr(c))[0] in "LNM" for c in range(0x110000)), dtype=np.uint8).copy()
    for first, last in SPACELESS:
        part = classes[first : last + 1]
        part[part == LETTER] = ALONE
    return classes


def _chunks(texts: Sequence[str]) -> list[tuple[int, int]]:
    borders, size = [0], 0
    for i, text in enumerate(texts):
        size += len(text)
        if size >= _CHUNK_CHARACTERS:
            borders.append(i + 1)
            size = 0
    if borders[-1] != len(texts):
        borders.append(len(texts))
    return list(itertools.pairwise(borders))


def _splitmix(x: int) -> int:
    mask = 0xFFFFFFFFFFFFFFFF
    z = (x + 1) * 0x9E3779B97F4A7C15 & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return z ^ z >> 31


# ---- kernels: everything below is uint64 arithmetic that wraps ------------------------------------------------------


@njit(cache=True, nogil=True)
def _mix(x):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True, nogil=True)
def _words(codes, classes):
    """Hashes, starts and ends of the words of one text."""
    hashes = np.empty(len(codes), dtype=np.uint64)
    starts = np.empty(len(codes), dtype=np.int64)
    ends = np.empty(len(codes), dtype=np.int64)
    count, i, n = 0, 0, len(codes)
    while i < n:
        kind = classes[codes[i]]
        if kind == 0:
            i += 1
            continue
        starts[count] = i
        h = np.uint64(0xCBF29CE484222325)
        if kind == 2:
            h = (h ^ np.uint64(codes[i])) * np.uint64(0x100000001B3)
            i += 1
        else:
            while i < n and classes[codes[i]] == 1:
                h = (h ^ np.uint64(codes[i])) * np.uint64(0x100000001B3)
                i += 1
        hashes[count] = _mix(h)
        ends[count] = i
        count += 1
    return hashes[:count].copy(), starts[:count].copy(), ends[:count].copy()


@njit(cache=True, nogil=True)
def _runs(words, ngram):
    """Polynomial hash of each run of words, rolled along the text."""
    base = np.uint64(0x9E3779B97F4A7C15)
    top = np.uint64(1)
    for _ in range(ngram - 1):
        top *= base
    out = np.empty(len(words) - ngram + 1, dtype=np.uint64)
    h = np.uint64(0)
    for i in range(len(words)):
        if i >= ngram:
            h -= words[i - ngram] * top
        h = h * base + words[i]
        if i >= ngram - 1:
            out[i - ngram + 1] = _mix(h)
    return out


@njit(cache=True, nogil=True)
def _signatures(codes, borders, classes, ngram, factors, offsets, out):
    num_hashes = len(factors)
    for t in range(len(borders) - 1):
        words, _, _ = _words(codes[borders[t] : borders[t + 1]], classes)
        row = out[t]
        row[:] = np.uint64(0xFFFFFFFFFFFFFFFF)
        if len(words) == 0:
            continue
        shingles = _runs(words, min(ngram, len(words)))
        for s in range(len(shingles)):
            x = shingles[s]
            for k in range(num_hashes):
                value = x * factors[k] + offsets[k]
                row[k] = min(row[k], value)


@njit(cache=True, nogil=True)
def _band_keys(signatures, bands, rows):
    out = np.empty((signatures.shape[0], bands), dtype=np.uint64)
    for t in range(signatures.shape[0]):
        for b in range(bands):
            h = np.uint64(b + 1)
            for r in range(rows):
                h = _mix(h * np.uint64(0x9E3779B97F4A7C15) + signatures[t, b * rows + r])
            out[t, b] = h
    return out
