"""Verifiers such as a user may bring, good and bad."""

import os
import time


def same_length(gold, answer):
    return len(gold) == len(answer)


def with_detail(gold, answer):
    return gold == answer, f"looked at {answer}"


def raises(gold, answer):
    raise RuntimeError(f"cannot verify\n{answer}")


def hangs(gold, answer):
    time.sleep(60)


def answers_one(gold, answer):
    return 1


def prints(gold, answer):
    print("a line of the verifier's")
    return True


def leaves(gold, answer):
    raise SystemExit(0)


def dies(gold, answer):
    os.kill(os.getpid(), 9)


def crashes(gold, answer):
    os.abort()


def eats(gold, answer):
    return bool(bytearray(4 << 30))


NOT_A_FUNCTION = 3
