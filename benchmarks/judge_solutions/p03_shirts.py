"""Codeforces 1000A: shirts of the old list that the new one does not hold cost one change each."""

from collections import Counter

n = int(input())
old = Counter(input().strip() for _ in range(n))
new = Counter(input().strip() for _ in range(n))
print(sum((old - new).values()))
