"""Codeforces 127C: for every flow of cold water the least hot water that is warm enough."""


def main():
    t1, t2, x1, x2, t0 = map(int, input().split())
    cold, hot = t0 - t1, t2 - t0
    if cold == 0 and hot == 0:
        print(x1, x2)
        return
    if cold == 0:
        print(x1, 0)
        return
    if hot == 0:
        print(0, x2)
        return
    # Excess heat is (y2 * hot - y1 * cold) / (y1 + y2); only hot water is the fall-back.
    best_excess, best_sum = hot * x2, x2
    answer = (0, x2)
    for y1 in range(1, min(x1, x2 * hot // cold) + 1):
        y2 = -(-y1 * cold // hot)
        if y2 > x2:
            break
        excess, total = y2 * hot - y1 * cold, y1 + y2
        difference = excess * best_sum - best_excess * total
        if difference < 0 or (difference == 0 and total > best_sum):
            best_excess, best_sum, answer = excess, total, (y1, y2)
    print(*answer)


main()
