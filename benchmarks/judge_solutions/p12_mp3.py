"""Codeforces 1198A: keep the window of distinct values that fits and covers most elements."""

import sys
from collections import Counter


def main():
    numbers = list(map(int, sys.stdin.read().split()))
    n, size_bytes = numbers[0], numbers[1]
    counts = Counter(numbers[2 : 2 + n])
    bits = min(8 * size_bytes // n, 20)
    width = 1 << bits
    sums = [0]
    for value in sorted(counts):
        sums.append(sums[-1] + counts[value])
    distinct = len(counts)
    if width >= distinct:
        print(0)
        return
    best = 0
    for start in range(distinct - width + 1):
        best = max(best, sums[start + width] - sums[start])
    print(n - best)


main()
