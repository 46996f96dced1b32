"""Codeforces 1139C: all sequences but those that stay within one component of red edges."""

import sys

MODULUS = 10**9 + 7


def main():
    numbers = list(map(int, sys.stdin.read().split()))
    n, k = numbers[0], numbers[1]
    parent = list(range(n + 1))

    def find(x):
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    for i in range(2, 2 + 3 * (n - 1), 3):
        u, v, black = numbers[i : i + 3]
        if black == 0:
            parent[find(u)] = find(v)
    sizes = [0] * (n + 1)
    for x in range(1, n + 1):
        sizes[find(x)] += 1
    bad = sum(pow(size, k, MODULUS) for size in sizes if size)
    print((pow(n, k, MODULUS) - bad) % MODULUS)


main()
