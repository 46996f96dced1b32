"""Codeforces 1238B: shoot at the farthest one that still lives; the others come r nearer."""

import sys


def main():
    numbers = iter(map(int, sys.stdin.read().split()))
    for _ in range(next(numbers)):
        n, r = next(numbers), next(numbers)
        places = sorted({next(numbers) for _ in range(n)}, reverse=True)
        shots = 0
        for place in places:
            if place - shots * r <= 0:
                break
            shots += 1
        print(shots)


main()
