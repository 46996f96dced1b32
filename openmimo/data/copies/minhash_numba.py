"""The kernels of `_kernels.c` in numba, bit for bit, for where it has not been built; and words by code point.

`sign`, `band_keys` and `join` take addresses, as the compiled ones do; what they compute is said there. The words that
decontamination compares (`words`, `runs`) are numba's alone.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

_LETTER, _ALONE = np.uint32(1 << 24), np.uint32(2 << 24)
_BASE = np.uint64(0x9E3779B97F4A7C15)


def sign(
    data: int, borders: int, table: int, factors: int, offsets: int, out: int,
    texts: int, ngram: int, hashes: int, lanes: int,
) -> None:  # fmt: skip
    """MinHash signatures of UTF-8 texts."""
    borders_N1 = _array(borders, (texts + 1,), np.int64)
    size = max(int(borders_N1[-1]), 1)
    arguments: list[Any] = [_array(data, (size,), np.uint8), borders_N1, _array(table, (0x110000,), np.uint32), ngram]
    arguments += [_array(address, (lanes,), np.uint32) for address in (factors, offsets)]
    arguments.append(_array(out, (texts, hashes), np.uint32))
    _sign(*arguments)


def band_keys(signatures: int, out: int, texts: int, bands: int, rows: int) -> None:
    """64-bit keys of the bands of signatures."""
    _band_keys(_array(signatures, (texts, bands * rows), np.uint32), bands, _array(out, (texts, bands), np.uint64))


def join(first: int, second: int, pairs: int, parent: int, nodes: int) -> None:
    """Connected components of pairs."""
    _join(_array(first, (pairs,), np.int64), _array(second, (pairs,), np.int64), _array(parent, (nodes,), np.int64))


def _array(address: int, shape: tuple[int, ...], dtype: Any) -> NDArray[Any]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    if not size:
        return np.empty(shape, dtype)
    return np.frombuffer((ctypes.c_uint8 * size).from_address(address), dtype).reshape(shape)


@njit(cache=True, nogil=True)
def _mix(x):
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@njit(cache=True, nogil=True)
def _hash_word(text, begin, end):
    h = np.uint64(end - begin) * np.uint64(0xA0761D6478BD642F)
    while begin < end:
        piece = np.uint64(0)
        for i in range(min(8, end - begin)):
            piece |= np.uint64(text[begin + i]) << np.uint64(8 * i)
        h = (h ^ piece) * np.uint64(0xE7037ED1A0B428DB)
        h ^= h >> np.uint64(32)
        begin += 8
    return h


@njit(cache=True, nogil=True)
def _encode(c, out, at):
    if c < 0x80:
        out[at] = c
        return at + 1
    if c < 0x800:
        out[at] = 0xC0 | c >> 6
        out[at + 1] = 0x80 | (c & 0x3F)
        return at + 2
    if c < 0x10000:
        out[at] = 0xE0 | c >> 12
        out[at + 1] = 0x80 | (c >> 6 & 0x3F)
        out[at + 2] = 0x80 | (c & 0x3F)
        return at + 3
    out[at] = 0xF0 | c >> 18
    out[at + 1] = 0x80 | (c >> 12 & 0x3F)
    out[at + 2] = 0x80 | (c >> 6 & 0x3F)
    out[at + 3] = 0x80 | (c & 0x3F)
    return at + 4


@njit(cache=True, nogil=True)
def _decode(text, at, end):
    """Code point and bytes of the character at `at`; 0 and 1 where it is none."""
    c = np.int64(text[at])
    more = 0 if c < 0x80 else -1 if c < 0xC2 else 1 if c < 0xE0 else 2 if c < 0xF0 else 3 if c < 0xF5 else -1
    if more < 0 or end - at <= more:
        return np.int64(0), 1
    if more:
        c &= 0x3F >> more
    for i in range(1, more + 1):
        if text[at + i] & 0xC0 != 0x80:
            return np.int64(0), 1
        c = c << 6 | np.int64(text[at + i] & 0x3F)
    if c > 0x10FFFF or (more == 2 and c < 0x800) or (more == 3 and c < 0x10000):
        return np.int64(0), 1
    return c, 1 + more


@njit(cache=True, nogil=True)
def _normalise(text, begin, end, table, out):
    at = 0
    while begin < end:
        code = np.int64(text[begin])
        size = 1
        if code >= 0x80:
            code, size = _decode(text, begin, end)
        begin += size
        entry = table[code]
        if code < 0x80:
            out[at] = np.uint8(entry & np.uint32(0xFF)) if entry & _LETTER else 32
            at += 1
        elif entry & _ALONE:
            out[at] = 32
            at = _encode(np.int64(entry & np.uint32(0xFFFFFF)), out, at + 1)
            out[at] = 32
            at += 1
        elif entry & _LETTER:
            at = _encode(np.int64(entry & np.uint32(0xFFFFFF)), out, at)
        else:
            out[at] = 32
            at += 1
    return at


@njit(cache=True, nogil=True)
def _sign(data, borders, table, ngram, factors, offsets, out):
    lanes, hashes = len(factors), out.shape[1]
    least = np.empty(lanes, np.uint32)
    longest = 0
    for t in range(len(borders) - 1):
        longest = max(longest, borders[t + 1] - borders[t])
    normal = np.empty(2 * longest + 64, np.uint8)
    words = np.empty(longest // 2 + longest // 3 + 2, np.uint64)  # "a b": 2 bytes a word; Han: 3, without blanks
    for t in range(len(borders) - 1):
        size = _normalise(data, borders[t], borders[t + 1], table, normal)
        count, begin = 0, -1
        for i in range(size):
            if normal[i] != 32:
                if begin < 0:
                    begin = i
            elif begin >= 0:
                words[count] = _hash_word(normal, begin, i)
                count += 1
                begin = -1
        if begin >= 0:
            words[count] = _hash_word(normal, begin, size)
            count += 1
        least[:] = np.uint32(0xFFFFFFFF)
        if count:
            shingles = runs(words[:count], min(ngram, count))
            for s in range(len(shingles)):
                x = np.uint32(shingles[s] >> np.uint64(32))
                for k in range(lanes):
                    value = np.uint32(x * factors[k] + offsets[k])
                    least[k] = min(least[k], value)
        out[t] = least[:hashes]


@njit(cache=True, nogil=True)
def runs(words, ngram):
    """Polynomial hash of each run of words, rolled along the text."""
    top = np.uint64(1)
    for _ in range(ngram - 1):
        top *= _BASE
    out = np.empty(len(words) - ngram + 1, dtype=np.uint64)
    h = np.uint64(0)
    for i in range(len(words)):
        if i >= ngram:
            h -= words[i - ngram] * top
        h = h * _BASE + words[i]
        if i >= ngram - 1:
            out[i - ngram + 1] = _mix(h)
    return out


@njit(cache=True, nogil=True)
def _band_keys(signatures, bands, out):
    rows = signatures.shape[1] // bands
    for t in range(signatures.shape[0]):
        for b in range(bands):
            h = np.uint64(b + 1)
            for r in range(rows):
                h = _mix(h * _BASE + np.uint64(signatures[t, b * rows + r]))
            out[t, b] = h


@njit(cache=True, nogil=True)
def _root(parent, i):
    while parent[i] != i:
        parent[i] = parent[parent[i]]
        i = parent[i]
    return i


@njit(cache=True, nogil=True)
def _join(first, second, parent):
    for i in range(len(parent)):
        parent[i] = i
    for i in range(len(first)):
        x, y = _root(parent, first[i]), _root(parent, second[i])
        parent[max(x, y)] = min(x, y)
    for i in range(len(parent)):  # a parent is never above its child, so one pass is enough
        parent[i] = parent[parent[i]]


@njit(cache=True, nogil=True)
def words(codes, classes):
    """Hashes, starts and ends of the words of one text, given by code point."""
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
