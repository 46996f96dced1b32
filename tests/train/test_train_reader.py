"""Batches made ahead: in order, with their errors in their turn, and no thread left behind."""

import threading
import time
from collections.abc import Iterator

import pytest

from openmimo.train.reader import Reader


def test_items_come_in_order_and_at_most_two_ahead() -> None:
    made = []

    def items() -> Iterator[int]:
        for n in range(20):
            made.append(n)
            yield n

    with Reader(items, ahead=2) as reader:
        for expected, item in enumerate(reader):
            assert item == expected
            time.sleep(0.002)
            assert len(made) <= expected + 4  # one in hand, two ready, one waiting to be put
    assert made == list(range(20))


def test_an_error_comes_after_the_items_before_it() -> None:
    def items() -> Iterator[int]:
        yield 1
        raise ValueError("source 'a' is used up")

    seen = []
    with Reader(items) as reader, pytest.raises(ValueError, match="used up"):
        for item in reader:
            seen.append(item)
    assert seen == [1]


def test_leaving_early_ends_the_thread() -> None:
    def endless() -> Iterator[int]:
        while True:
            yield 0

    with Reader(endless) as reader:
        assert next(iter(reader)) == 0
    assert not any(thread.name == "reader" for thread in threading.enumerate())
