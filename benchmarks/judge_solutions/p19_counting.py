"""Codeforces 1342C: the pattern repeats after a * b numbers; prefix sums over one period."""

import sys


def main():
    numbers = iter(map(int, sys.stdin.read().split()))
    for _ in range(next(numbers)):
        a, b, q = next(numbers), next(numbers), next(numbers)
        period = a * b
        sums = [0] * (period + 1)
        for x in range(period):
            sums[x + 1] = sums[x] + (x % a % b != x % b % a)

        def upto(x, sums=sums, period=period):
            whole, rest = divmod(x + 1, period)
            return whole * sums[period] + sums[rest]

        print(*[upto(right) - upto(left - 1) for left, right in ((next(numbers), next(numbers)) for _ in range(q))])


main()
