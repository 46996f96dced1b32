"""Token sequences to packed rows: everything trainable becomes a `Batch`.

Best-fit: a row takes the longest pending sequence that still fits, so few slots are padding and nothing that fits a row
is ever cut. Positions restart in every document; attention and MTP stop at its borders (MiMo 2.3, 3.1).
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np

from openmimo.types import Batch


@dataclass(frozen=True, slots=True)
class Sample:
    """One document, conversation or rollout, ready to pack. All tuples have the length of token_ids."""

    token_ids: Sequence[int] | np.ndarray
    loss_weights: Sequence[float] | np.ndarray | None = None
    """None: every token but the first is a target."""
    advantage: float = 0.0
    old_logprobs: Sequence[float] | None = None
    group: int = -1


def fit_rows(lengths: Sequence[int], context: int) -> list[list[int]]:
    """Best-fit decreasing: indices of the sequences of each row.

    Raises:
        ValueError: if a sequence is longer than the context.
    """
    longest = max(lengths, default=0)
    if longest > context:
        raise ValueError(f"a sequence of {longest} tokens does not fit a row of {context}")
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (slots left, row), sorted
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        at = bisect_right(room, (lengths[index] - 1, len(rows)))
        if at < len(room):
            left, row = room.pop(at)
        else:
            left, row = context, len(rows)
            rows.append([])
        rows[row].append(index)
        insort(room, (left - lengths[index], row))
    return rows


def pack(sequences: Sequence[Sample], context: int) -> Batch:
    """Pack sequences into as few rows of `context` slots as best-fit finds."""
    rows = fit_rows([len(s.token_ids) for s in sequences], context)
    return stack([[sequences[i] for i in row] for row in rows], context)


def pack_evenly(sequences: Sequence[Sample], context: int) -> Batch:
    """Pack sequences into rows of nearly equal length, at most `context` slots; (R, longest row).

    The rows are as few as longest-first into the emptiest row allows. For batches whose row length may change from one
    to the next: hardly a slot is padding, where rows of a given length would be left half empty.

    Raises:
        ValueError: if a sequence is longer than the context.
    """
    lengths = [len(s.token_ids) for s in sequences]
    least = len(fit_rows(lengths, context)) and -(-sum(lengths) // context)
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    for count in range(least, len(lengths) + 1):
        rows: list[list[int]] = [[] for _ in range(count)]
        filled = [(0, row) for row in range(count)]
        for index in order:
            used, row = heappop(filled)
            rows[row].append(index)
            heappush(filled, (used + lengths[index], row))
        longest = max((used for used, _ in filled), default=0)
        if longest <= context:
            return stack([[sequences[i] for i in row] for row in rows], longest)
    raise AssertionError("a row for each sequence always fits")


def stack(rows: Sequence[Sequence[Sample]], context: int) -> Batch:
    """Rows whose sequences are already chosen -> Batch, (R, context)."""
    shape = (len(rows), context)
    token_ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    document_ids, groups = np.full(shape, -1, np.int64), np.full(shape, -1, np.int64)
    loss_weights, advantages, old = (np.zeros(shape, np.float32) for _ in range(3))
    learns = False
    for r, row in enumerate(rows):
        start = 0
        for d, sequence in enumerate(row):
            end = start + len(sequence.token_ids)
            token_ids[r, start:end] = sequence.token_ids
            positions[r, start:end] = np.arange(end - start)
            document_ids[r, start:end] = d
            loss_weights[r, start:end] = 1.0 if sequence.loss_weights is None else sequence.loss_weights
            loss_weights[r, start] = 0.0
            if sequence.old_logprobs is not None:
                learns = True
                old[r, start:end] = sequence.old_logprobs
                advantages[r, start:end] = sequence.advantage
                groups[r, start:end] = sequence.group
            start = end
    extra = {"advantages": advantages, "old_logprobs": old, "sequence_ids": groups} if learns else {}
    return Batch(token_ids, positions, document_ids, loss_weights, **extra)
