"""Codeforces 1322B: bit by bit, count pairs whose sum has it set, by two pointers over the sorted remainders."""

import sys


def pairs_at_least(values, bound):
    """Pairs of the sorted values whose sum is at least the bound."""
    count, low = 0, 0
    high = len(values) - 1
    while low < high:
        if values[low] + values[high] >= bound:
            count += high - low
            high -= 1
        else:
            low += 1
    return count


def main():
    values = list(map(int, sys.stdin.read().split()))[1:]
    answer = 0
    for bit in range(25):
        half, whole = 1 << bit, 2 << bit
        rests = sorted(value % whole for value in values)
        count = pairs_at_least(rests, half) - pairs_at_least(rests, whole) + pairs_at_least(rests, whole + half)
        if count % 2:
            answer |= half
    print(answer)


main()
