"""Codeforces 12B: the least digit that is not 0 first, the others in order."""

number = input().strip()
answer = input().strip()
digits = sorted(number)
for i, digit in enumerate(digits):
    if digit != "0":
        digits.insert(0, digits.pop(i))
        break
print("OK" if "".join(digits) == answer else "WRONG_ANSWER")
