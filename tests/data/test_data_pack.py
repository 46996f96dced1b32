"""Packing: nothing lost, doubled or cut; little left empty."""

import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from openmimo.data.pack import Sample, fit_rows, pack, pack_evenly, stack

LENGTHS = st.integers(1, 40).flatmap(
    lambda context: st.tuples(st.just(context), st.lists(st.integers(1, context), max_size=60))
)


@settings(deadline=None)
@given(LENGTHS)
def test_rows_hold_every_sequence_once_and_never_too_much(case: tuple[int, list[int]]) -> None:
    context, lengths = case
    rows = fit_rows(lengths, context)
    assert sorted(i for row in rows for i in row) == list(range(len(lengths)))
    assert all(0 < sum(lengths[i] for i in row) <= context for row in rows)


def slow_best_fit(lengths: list[int], context: int) -> list[list[int]]:
    rows: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        left = [context - sum(lengths[j] for j in row) for row in rows]
        fitting = [r for r in range(len(rows)) if left[r] >= lengths[i]]
        if fitting:
            rows[min(fitting, key=lambda r: (left[r], r))].append(i)
        else:
            rows.append([i])
    return rows


@settings(deadline=None)
@given(LENGTHS)
def test_the_fast_search_is_best_fit_decreasing(case: tuple[int, list[int]]) -> None:
    context, lengths = case
    assert [sum(lengths[i] for i in r) for r in fit_rows(lengths, context)] == [
        sum(lengths[i] for i in r) for r in slow_best_fit(lengths, context)
    ]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(1, 9), min_size=1, max_size=12), min_size=1, max_size=30))
def test_a_batch_holds_every_token_of_every_sequence_in_order(sequences: list[list[int]]) -> None:
    batch = pack([Sample(s) for s in sequences], 12)
    found: Counter[tuple[int, ...]] = Counter()
    for r in range(len(batch.token_ids)):
        for d in range(batch.document_ids[r].max() + 1):
            inside = batch.document_ids[r] == d
            found[tuple(batch.token_ids[r][inside].tolist())] += 1
            assert batch.positions[r][inside].tolist() == list(range(int(inside.sum())))
            assert batch.loss_weights[r][inside].tolist() == [0.0] + [1.0] * (int(inside.sum()) - 1)
    assert found == Counter(map(tuple, sequences))
    padding = batch.document_ids < 0
    assert not batch.token_ids[padding].any() and not batch.loss_weights[padding].any()


def test_documents_of_natural_lengths_leave_little_empty() -> None:
    rng = random.Random(0)
    lengths = [max(1, min(2048, int(rng.lognormvariate(5.5, 1.0)))) for _ in range(3000)]
    rows = fit_rows(lengths, 2048)
    assert sum(lengths) / (2048 * len(rows)) > 0.99


def test_by_hand_with_everything_rl_needs() -> None:
    a = Sample([5, 6, 7], [0.0, 0.0, 1.0], advantage=2.0, old_logprobs=[0.0, 0.0, -0.5], group=3)
    b = Sample([8, 9], [1.0, 1.0], advantage=-1.0, old_logprobs=[0.0, -0.25], group=4)
    batch = stack([[a, b]], 6)
    assert batch.token_ids.tolist() == [[5, 6, 7, 8, 9, 0]]
    assert batch.positions.tolist() == [[0, 1, 2, 0, 1, 0]]
    assert batch.document_ids.tolist() == [[0, 0, 0, 1, 1, -1]]
    assert batch.loss_weights.tolist() == [[0, 0, 1, 0, 1, 0]]  # a document's first token is no target
    assert batch.advantages.tolist() == [[2, 2, 2, -1, -1, 0]]
    assert batch.old_logprobs.tolist() == [[0, 0, -0.5, 0, -0.25, 0]]
    assert batch.sequence_ids.tolist() == [[3, 3, 3, 4, 4, -1]]
    assert pack([Sample([1, 2])], 4).advantages is None
    assert batch.token_ids.dtype == np.int64 and batch.loss_weights.dtype == np.float32


def test_a_sequence_too_long_for_a_row_is_refused() -> None:
    with pytest.raises(ValueError, match="a sequence of 5 tokens does not fit a row of 4"):
        pack([Sample([1] * 5)], 4)


@given(st.lists(st.integers(1, 20), max_size=30))
def test_even_rows_hold_every_sequence_once_and_waste_at_most_one_sequence_a_row(lengths: list[int]) -> None:
    samples = [Sample([n + 1] * length, old_logprobs=[0.0] * length, group=n) for n, length in enumerate(lengths)]
    batch = pack_evenly(samples, 20)
    width = batch.token_ids.shape[1]
    filled = (batch.document_ids >= 0).sum(-1)
    assert width <= 20 and filled.sum() == sum(lengths)
    assert all((batch.token_ids == n + 1).sum() == length for n, length in enumerate(lengths))
    assert not lengths or (filled.max() == width and filled.max() - filled.min() <= max(lengths))


def test_even_rows_of_equal_sequences_have_no_padding() -> None:
    batch = pack_evenly([Sample([1] * 7)] * 6, 20)  # 42 tokens: 3 rows of 14, where rows of 20 would hold 2 each
    assert batch.token_ids.shape == (3, 14) and (batch.document_ids >= 0).all()


def test_even_rows_refuse_what_fits_no_row() -> None:
    with pytest.raises(ValueError, match="a sequence of 21 tokens does not fit a row of 20"):
        pack_evenly([Sample([1] * 21)], 20)
