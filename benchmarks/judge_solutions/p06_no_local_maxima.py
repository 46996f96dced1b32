"""Codeforces 1068D: ways by the last value, apart by whether it may still be greater than both its neighbours."""

import sys

MODULUS = 998244353
TOP = 200


def main():
    values = list(map(int, sys.stdin.read().split()))[1:]
    # pending[v]: the last element is v, greater than the one before, and the next must be at least v.
    # settled[v]: the last element is v, and one at least as great stands before it.
    pending = [0] * (TOP + 1)
    settled = [0] * (TOP + 1)
    for v in range(1, TOP + 1):
        if values[0] in (-1, v):
            pending[v] = 1
    for value in values[1:]:
        below = 0
        above = sum(settled) % MODULUS
        next_pending = [0] * (TOP + 1)
        next_settled = [0] * (TOP + 1)
        for v in range(1, TOP + 1):
            if value in (-1, v):
                next_pending[v] = below
                next_settled[v] = (above + pending[v]) % MODULUS
            below = (below + pending[v] + settled[v]) % MODULUS
            above -= settled[v]
        pending, settled = next_pending, next_settled
    print(sum(settled) % MODULUS)


main()
