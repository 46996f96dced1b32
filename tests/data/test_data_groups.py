"""Pure parts of deduplication by hand-worked numbers and against slow obvious versions; sorted runs on disk."""

import itertools
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from openmimo.data.copies.groups import best_first, contract, linked, rank_keys, unique_pairs
from openmimo.data.copies.spill import END, Runs, write_run


def pairs_of(array: np.ndarray) -> set[tuple[int, int]]:
    return set(zip(*array.tolist(), strict=True))


def test_rows_of_one_key_point_at_the_least_of_them() -> None:
    keys, rows = np.array([7, 8, 7, 9, 7, 8, 7], np.uint64), np.array([5, 1, 3, 0, 4, 2, 4], np.uint64)
    assert pairs_of(linked(keys, rows)) == {(5, 3), (4, 3), (2, 1)}
    assert linked(keys[:2], rows[:2]).shape == (2, 0)


def slow_stars(pairs: list[tuple[int, int]]) -> set[tuple[int, int]]:
    groups: list[set[int]] = []
    for pair in pairs:
        touched = [group for group in groups if group & set(pair)]
        groups = [group for group in groups if not group & set(pair)] + [set(pair).union(*touched)]
    return {(node, min(group)) for group in groups for node in group if node != min(group)}


PAIRS = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), max_size=25)


@settings(max_examples=100, deadline=None)
@given(PAIRS)
def test_contraction_makes_stars_of_components(pairs: list[tuple[int, int]]) -> None:
    array = np.array(pairs, dtype=np.uint64).reshape(-1, 2).T
    assert pairs_of(contract(array)) == slow_stars(pairs)


@settings(max_examples=100, deadline=None)
@given(PAIRS, st.lists(st.integers(1, 20), max_size=4))
def test_contracting_parts_again_and_again_gives_the_whole(pairs: list[tuple[int, int]], cuts: list[int]) -> None:
    array = np.array([pair for pair in pairs if pair[0] != pair[1]], dtype=np.uint64).reshape(-1, 2).T
    edges = [0, *sorted(cuts), 21]
    for _ in range(20):
        both = unique_pairs(np.concatenate([array, array[::-1]], axis=1))
        parts = [contract(both[:, (both[0] >= a) & (both[0] < b)]) for a, b in itertools.pairwise(edges)]
        array = unique_pairs(np.concatenate(parts, axis=1))
    assert pairs_of(array) == slow_stars(pairs)


def test_the_best_copy_has_the_higher_score_then_the_greater_length_then_the_smaller_tie() -> None:
    scores = np.array([0.5, np.nan, 0.5, -1.0, 0.5, 0.0, -0.0])
    lengths = np.array([10, 99, 12, 50, 12, 1, 1])
    ties = np.array([1, 1, 9, 1, 8, 7, 6], np.uint64)
    groups = np.zeros(7, np.uint64)
    order, starts = best_first(groups, rank_keys(scores, lengths, ties))
    assert (order.tolist(), starts.tolist()) == ([4, 2, 0, 6, 5, 3, 1], [0])
    order, starts = best_first(np.array([2, 1, 2, 1, 3, 3, 3], np.uint64), rank_keys(scores, lengths, ties))
    assert (order.tolist(), starts.tolist()) == ([3, 1, 2, 0, 4, 6, 5], [0, 2, 4])


@settings(max_examples=50, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2**64 - 1) | st.integers(0, 9), max_size=12), max_size=4), st.integers(1, 9))
def test_ranges_hold_every_record_once_and_few_at_a_time(
    tmp_path_factory: object, files: list[list[int]], most: int
) -> None:
    folder: Path = tmp_path_factory.mktemp("runs")  # type: ignore[attr-defined]
    for number, keys in enumerate(files):
        write_run(folder / f"{number}.npy", np.array([keys, list(range(len(keys)))], dtype=np.uint64).reshape(2, -1))
    runs = Runs(sorted(folder.iterdir()), 2)
    found: list[int] = []
    for low, high in runs.ranges(most):
        parts = list(runs.read(low, high, most))
        assert all(part.shape[1] <= most for part in parts) and (len(parts) == 1 or high - low == 1)
        assert all(low <= key < high for part in parts for key in part[0].tolist())
        found += [key for part in parts for key in part[0].tolist()]
    assert sorted(found) == sorted(key for keys in files for key in keys)
    assert runs.count() == runs.count(0, END) == len(found)
