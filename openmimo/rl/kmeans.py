"""Exact one-dimensional k-means, for clustering tests by pass rate (MiMo 3.3.1, decision 0006).

In one dimension clusters are runs of the sorted values, so the best partition is found by dynamic programming.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate


def kmeans(values: Sequence[float], k: int) -> tuple[int, ...]:
    """Cluster of each value, 0 for the lowest: the partition of least squared distance to the clusters' means.

    Equal values share a cluster, so there are at most as many clusters as different values. Of equally good partitions
    the one whose upper clusters are larger is taken. Time k x n^2 for n different values.

    Raises:
        ValueError: for k below 1.
    """
    if k < 1:
        raise ValueError(f"k-means needs at least 1 cluster, got {k}")
    points = sorted(set(values))
    weights = [values.count(point) for point in points]
    n, k = len(points), min(k, len(points))
    count = [0, *accumulate(weights)]
    total = [0.0, *accumulate(w * p for w, p in zip(weights, points, strict=True))]
    square = [0.0, *accumulate(w * p * p for w, p in zip(weights, points, strict=True))]

    def cost(first: int, last: int) -> float:
        """Squared distance of points first .. last - 1 to their mean."""
        return square[last] - square[first] - (total[last] - total[first]) ** 2 / (count[last] - count[first])

    best = [[0.0] + [float("inf")] * n]
    begin: list[list[int]] = [[0] * (n + 1)]
    for _ in range(k):
        costs, firsts = [float("inf")] * (n + 1), [0] * (n + 1)
        for last in range(1, n + 1):
            for first in range(last):
                found = best[-1][first] + cost(first, last)
                if found < costs[last] - 1e-12:
                    costs[last], firsts[last] = found, first
        best.append(costs)
        begin.append(firsts)
    cluster, last = {}, n
    for number in range(k, 0, -1):
        first = begin[number][last]
        cluster.update(dict.fromkeys(points[first:last], number - 1))
        last = first
    return tuple(cluster[value] for value in values)
