"""Helpers of the stages; `test_run_nano.py` runs the stages themselves."""

import pytest

from openmimo.draft import spread


@pytest.mark.parametrize(
    ("num_items", "most", "expected"),
    [(6, 3, [0, 2, 4]), (7, 3, [0, 2, 4]), (3, 12, [0, 1, 2]), (5, 0, []), (0, 4, [])],
)
def test_samples_to_read_are_spread_and_never_more_than_asked_for(
    num_items: int, most: int, expected: list[int]
) -> None:
    assert spread(range(num_items), most) == expected
