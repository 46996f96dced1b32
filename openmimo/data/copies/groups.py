"""Which documents belong together, and which of them is best: pure functions on arrays (MiMo 2.1).

A document is a row number. Documents that share the key of any band are joined; the connected components of these
pairs are the clusters. `contract` is all there is to finding components: applied to all pairs at once it gives them,
applied again and again to parts of the pairs that each hold every pair of some rows, it gives them too
(`global_dedup.py`). Shapes: N = documents, E = pairs, K = what ranks them.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from openmimo.data.copies.minhash import kernels

U64 = NDArray[np.uint64]


def rank_keys(score_N: NDArray[np.float64], length_N: NDArray[np.int64], tie_N: U64) -> U64:
    """(3, N) uint64 that sort the best copy first: higher score, then longer, then the smaller tie. NaN is no score."""
    bits = np.where(np.isnan(score_N), -np.inf, score_N + 0.0).view(np.uint64)
    ascending = np.where(bits >> np.uint64(63), ~bits, bits | np.uint64(1 << 63))
    return np.stack([~ascending, ~length_N.astype(np.uint64), tie_N])


def linked(keys_N: U64, rows_N: U64) -> U64:
    """(2, E) uint64 pairs: each row and the least row that shares its key, where the two differ; each pair once."""
    order = np.argsort(keys_N, kind="stable")
    keys, rows = keys_N[order], rows_N[order]
    starts = _starts(keys)
    if len(starts) == len(keys):
        return np.empty((2, 0), dtype=np.uint64)
    least = np.repeat(np.minimum.reduceat(rows, starts), np.diff(starts, append=len(keys)))
    apart = rows != least
    return unique_pairs(np.stack([rows[apart], least[apart]]))


def contract(pairs_2E: U64) -> U64:
    """(2, E') uint64: each row that is not the least of its component, ascending, and that least row."""
    nodes, places = np.unique(pairs_2E, return_inverse=True)
    if not len(nodes):
        return np.empty((2, 0), dtype=np.uint64)
    first, second = np.ascontiguousarray(places.reshape(2, -1), dtype=np.int64)
    parent = np.empty(len(nodes), dtype=np.int64)
    kernels().join(first.ctypes.data, second.ctypes.data, len(first), parent.ctypes.data, len(nodes))
    roots = nodes[parent]
    below = roots != nodes
    return np.stack([nodes[below], roots[below]])


def best_first(groups_N: U64, ranks_KN: U64) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places of all rows, group by group and the best of each group first; and where each group starts."""
    order = np.lexsort((*ranks_KN[::-1], groups_N))
    return order, _starts(groups_N[order])


def unique_pairs(pairs_2E: U64) -> U64:
    """Each pair once, sorted."""
    ordered = pairs_2E[:, np.lexsort((pairs_2E[1], pairs_2E[0]))]
    if not ordered.shape[1]:
        return ordered
    new = np.ones(ordered.shape[1], dtype=bool)
    new[1:] = (ordered[:, 1:] != ordered[:, :-1]).any(axis=0)
    return np.ascontiguousarray(ordered[:, new])


def _starts(ordered_N: U64) -> NDArray[np.int64]:
    """Where the value changes, the first place included."""
    if not len(ordered_N):
        return np.empty(0, dtype=np.int64)
    return np.concatenate([[0], np.flatnonzero(ordered_N[1:] != ordered_N[:-1]) + 1])
