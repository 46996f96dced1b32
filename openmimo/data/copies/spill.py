"""Sorted runs on disk: what lets a computation over any number of records stay within a fixed memory.

A run is one .npy file of (fields, records) uint64, sorted by its first field, the key. Many runs together hold a data
set; a range of keys is read from all of them, and ranges are cut so that none holds more than a given number of
records. One key alone may hold more: then it comes in pieces.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

U64 = NDArray[np.uint64]
END = 1 << 64
"""One past the greatest key."""


def write_array(path: Path, array: NDArray) -> None:
    """An .npy file that appears whole or not at all; it need not outlive the machine."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with temporary.open("wb") as file:
        np.lib.format.write_array(file, np.ascontiguousarray(array), allow_pickle=False)
    temporary.replace(path)


def write_run(path: Path, records: U64) -> None:
    """(fields, records), put in the order of the first field."""
    keys = records[0]
    if len(keys) > 1 and not (keys[1:] >= keys[:-1]).all():
        records = records[:, np.argsort(keys, kind="stable")]
    write_array(path, records)


class Runs:
    """Several runs of the same fields, read by ranges of keys."""

    def __init__(self, paths: Sequence[Path], fields: int) -> None:
        self.paths = [path for path in paths if path.exists()]
        self.fields = fields

    def count(self, low: int = 0, high: int = END) -> int:
        """Records with low <= key < high."""
        return sum(last - first for first, last in (self._span(path, low, high) for path in self.paths))

    def ranges(self, most: int) -> list[tuple[int, int]]:
        """Ranges (low, high) that together hold every record, each with `most` records at most or with one key."""
        bounds = [(int(array[0, 0]), int(array[0, -1])) for array in map(_open, self.paths) if array.shape[1]]
        if not bounds:
            return []
        low, high = min(first for first, _ in bounds), max(last for _, last in bounds) + 1
        parts = max(1, -(-self.count() * 5 // (most * 4)))  # a little more than needed, for keys spread evenly
        edges = sorted({low + (high - low) * i // parts for i in range(parts)} | {high})
        return [found for first, last in itertools.pairwise(edges) for found in self._cut(first, last, most)]

    def _cut(self, low: int, high: int, most: int) -> Iterator[tuple[int, int]]:
        count = self.count(low, high)
        if count and (count <= most or high - low == 1):
            yield low, high
        elif count:
            middle = (low + high) // 2
            yield from self._cut(low, middle, most)
            yield from self._cut(middle, high, most)

    def read(self, low: int, high: int, most: int) -> Iterator[U64]:
        """The records of a range, (fields, n): at once if there are `most` at most, else a piece at a time."""
        if self.count(low, high) <= most:
            parts = [part for path in self.paths for part in self._pieces(path, low, high, most)]
            yield np.concatenate(parts, axis=1) if parts else np.empty((self.fields, 0), dtype=np.uint64)
            return
        for path in self.paths:
            yield from self._pieces(path, low, high, most)

    def _pieces(self, path: Path, low: int, high: int, most: int) -> Iterator[U64]:
        first, last = self._span(path, low, high)
        for start in range(first, last, most):
            yield np.array(_open(path)[:, start : min(start + most, last)])

    def _span(self, path: Path, low: int, high: int) -> tuple[int, int]:
        keys = _open(path)[0]
        first = int(np.searchsorted(keys, np.uint64(low))) if low > 0 else 0
        return first, int(np.searchsorted(keys, np.uint64(high))) if high < END else len(keys)


def _open(path: Path) -> U64:
    """Not read yet: pages come in as they are touched, and go with the array."""
    array: U64 = np.load(path, mmap_mode="r")
    return array
