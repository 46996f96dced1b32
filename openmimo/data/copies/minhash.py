"""MinHash signatures of texts: the kernel of near-duplicate detection (MiMo 2.1: MinHash over all dumps at once).

A text is a set of shingles, each a run of n words; two texts agree in each of H hashes with probability equal to the
Jaccard similarity of their sets. Words are runs of letters, digits and marks, lower case; in scripts that write no
spaces every character is a word, so shingles there are character n-grams. Shapes: N = texts, H = hashes, B = bands.

The arithmetic is compiled C (`_kernels.c`), or numba where it has not been built (`minhash_numba.py`): equal bits.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

NUM_HASHES = 112  # 14 bands x 8 rows: half of the pairs at Jaccard 0.72 collide in at least one band
NGRAM = 5
EMPTY = np.uint32(0xFFFFFFFF)
"""Every entry of the signature of a text without a single word."""

# Code points of scripts that put no spaces between words: Thai, Lao, Myanmar, Khmer, kana, Han, Yi, Tai, Javanese.
SPACELESS = (
    (0x0E00, 0x0EFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x1950, 0x19DF), (0x1A20, 0x1AAF), (0x3005, 0x3007),
    (0x3040, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xA000, 0xA4CF), (0xA980, 0xA9DF),
    (0xAA00, 0xAA5F), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x1B000, 0x1B16F), (0x20000, 0x323AF),
)  # fmt: skip

SEPARATOR, LETTER, ALONE = 0, 1, 2

_LANES = 16  # hash functions are filled up to a multiple of the widest registers


@functools.cache
def kernels() -> Any:
    """`sign`, `band_keys` and `join`: the compiled module, or numba's where it has not been built."""
    try:
        from openmimo.data.copies import _kernels
    except ImportError:
        from openmimo.data.copies import minhash_numba

        return minhash_numba
    return _kernels


def signatures(
    texts: Sequence[str] | pa.Array | pa.ChunkedArray,
    *,
    num_hashes: int = NUM_HASHES,
    ngram: int = NGRAM,
    seed: int = 0,
) -> NDArray[np.uint32]:
    """(N, H) uint32 signatures; a function of each text alone, so shards may be hashed anywhere.

    Args:
        texts: N texts, any script; strings, or an Arrow column of them (null is the empty text), which is not copied.
        num_hashes: H, at least 1.
        ngram: words a shingle, at least 1; a text with fewer words is one shingle of all of them.
        seed: of the hash functions; signatures under different seeds cannot be compared.

    Raises:
        ValueError: if num_hashes or ngram is below 1.
    """
    if num_hashes < 1 or ngram < 1:
        raise ValueError(f"num_hashes and ngram must be at least 1, got {num_hashes} and {ngram}")
    data, borders_N1 = _utf8(texts)
    lanes = -(-num_hashes // _LANES) * _LANES
    factors, offsets = hash_functions(lanes, seed)
    out_NH = np.empty((len(borders_N1) - 1, num_hashes), dtype=np.uint32)
    arrays = (data, borders_N1, _table(), factors, offsets, out_NH)  # held until the kernel is done
    kernels().sign(*(array.ctypes.data for array in arrays), len(out_NH), ngram, num_hashes, lanes)
    return out_NH


def band_keys(signatures_NH: NDArray[np.uint32], *, bands: int, rows: int) -> NDArray[np.uint64]:
    """(N, B) uint64: texts that share a band's key agree in all of its rows (up to 64-bit accidents).

    Raises:
        ValueError: if bands x rows is not the number of hashes.
    """
    if bands * rows != signatures_NH.shape[1]:
        raise ValueError(f"{bands} bands x {rows} rows need {bands * rows} hashes, got {signatures_NH.shape[1]}")
    signatures_NH = np.ascontiguousarray(signatures_NH, dtype=np.uint32)
    keys_NB = np.empty((len(signatures_NH), bands), dtype=np.uint64)
    kernels().band_keys(signatures_NH.ctypes.data, keys_NB.ctypes.data, len(keys_NB), bands, rows)
    return keys_NB


def hash_functions(num_hashes: int, seed: int) -> tuple[NDArray[np.uint32], NDArray[np.uint32]]:
    """Odd factors and offsets of H functions x -> a x + b mod 2^32, from a counter through splitmix64."""
    values = [_splitmix((seed * 0x10000 + i) & 0xFFFFFFFFFFFFFFFF) for i in range(num_hashes)]
    factors = np.array([value >> 32 | 1 for value in values], dtype=np.uint32)
    return factors, np.array([value & 0xFFFFFFFF for value in values], dtype=np.uint32)


def word_hashes(text: str) -> tuple[NDArray[np.uint64], NDArray[np.int64], NDArray[np.int64], str]:
    """Hash, start and end (character offsets) of every word, and the lower-cased text that they index."""
    from openmimo.data.copies import minhash_numba

    lowered = text.lower()
    codes = np.frombuffer(lowered.encode("utf-32-le", "surrogatepass"), dtype=np.uint32)
    hashes, starts, ends = minhash_numba.words(codes, character_classes())
    return hashes, starts, ends, lowered


def ngram_hashes(words: NDArray[np.uint64], ngram: int) -> NDArray[np.uint64]:
    """Hash of every run of `ngram` words; empty if there are fewer. The same words hash alike wherever they stand."""
    if len(words) < ngram:
        return np.empty(0, dtype=np.uint64)
    from openmimo.data.copies import minhash_numba

    return minhash_numba.runs(words, ngram)


@lru_cache(maxsize=1)
def character_classes() -> NDArray[np.uint8]:
    """(0x110000,) uint8: SEPARATOR, LETTER (letters, digits, marks) or ALONE (a word by itself), by code point."""
    category = unicodedata.category
    classes = np.frombuffer(bytes(category(chr(c))[0] in "LNM" for c in range(0x110000)), dtype=np.uint8).copy()
    for first, last in SPACELESS:
        part = classes[first : last + 1]
        part[part == LETTER] = ALONE
    return classes


@lru_cache(maxsize=1)
def _table() -> NDArray[np.uint32]:
    """(0x110000,) uint32: a character's lower case, with its class in the high byte."""
    lower = np.arange(0x110000, dtype=np.uint32)
    for code in range(0x110000):
        character = chr(code)
        if character.isupper() or character.istitle():
            lower[code] = ord(character.lower()[0])  # only one has two, and its first is the letter
    return lower | character_classes().astype(np.uint32) << np.uint32(24)


def _utf8(texts: Sequence[str] | pa.Array | pa.ChunkedArray) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """All texts end to end and the N + 1 borders between them."""
    if isinstance(texts, pa.Array | pa.ChunkedArray):
        if texts.type != pa.large_string() or texts.null_count:
            texts = texts.cast(pa.large_string()).fill_null("")
        if isinstance(texts, pa.ChunkedArray):
            texts = texts.combine_chunks() if texts.num_chunks != 1 else texts.chunk(0)
        _, borders, data = texts.buffers()
        borders_N1 = np.frombuffer(borders or bytes(8), dtype=np.int64)[texts.offset :][: len(texts) + 1]
        return np.frombuffer(data or b" ", dtype=np.uint8), borders_N1
    encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
    borders_N1 = np.zeros(len(encoded) + 1, dtype=np.int64)
    np.cumsum([len(e) for e in encoded], out=borders_N1[1:])
    return np.frombuffer(b"".join(encoded) or b" ", dtype=np.uint8), borders_N1


def _splitmix(x: int) -> int:
    mask = 0xFFFFFFFFFFFFFFFF
    z = (x + 1) * 0x9E3779B97F4A7C15 & mask
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
    z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
    return z ^ z >> 31
