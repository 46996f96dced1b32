"""CodeChef digjump: breadth-first search; a digit's positions are joined once."""

from collections import deque


def main():
    digits = input().strip()
    places = {}
    for i, digit in enumerate(digits):
        places.setdefault(digit, []).append(i)
    steps = [-1] * len(digits)
    steps[0] = 0
    queue = deque([0])
    while queue:
        i = queue.popleft()
        for j in places.pop(digits[i], []) + [i - 1, i + 1]:
            if 0 <= j < len(digits) and steps[j] < 0:
                steps[j] = steps[i] + 1
                queue.append(j)
    print(steps[-1])


main()
