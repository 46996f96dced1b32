"""The compiled loop against the gathered path and against attention written out."""

import numpy as np
import pytest
import torch

from openmimo.engine.attention import ROW_MULTIPLE, PagedCache, Rows

KV_HEADS, GROUP, HEAD_DIM, BLOCK = 2, 3, 8, 4


def cache_and_table(num_sequences: int, num_blocks_each: int) -> tuple[PagedCache, np.ndarray]:
    order = np.random.default_rng(0).permutation(num_sequences * num_blocks_each).astype(np.int32)
    table = order.reshape(num_sequences, num_blocks_each)
    cache = PagedCache(
        1, table.size, BLOCK, KV_HEADS, HEAD_DIM, dtype=torch.float32, device=torch.device("cpu"), table_RJ=table
    )
    return cache, table


def random_rows(table: np.ndarray, lengths: list[int]) -> tuple[Rows, list[torch.Tensor]]:
    """All positions of every sequence as rows, and their q, k, v."""
    table_rows = [row for row, length in enumerate(lengths) for _ in range(length)]
    positions = [at for length in lengths for at in range(length)]
    rows = Rows.of([0] * len(positions), positions, table_rows, table, BLOCK)
    generator = torch.Generator().manual_seed(1)
    count = len(rows.slots_N)
    q = torch.randn(1, count, KV_HEADS * GROUP, HEAD_DIM, generator=generator) * 3
    k, v = (torch.randn(1, count, KV_HEADS, HEAD_DIM, generator=generator) for _ in range(2))
    return rows, [q, k, v]


def written_out(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, lengths: list[int]) -> torch.Tensor:
    out, first = torch.zeros_like(q, dtype=torch.float64), 0
    for length in lengths:
        for at in range(length):
            for head in range(KV_HEADS * GROUP):
                keys = k[0, first : first + at + 1, head // GROUP].double()
                values = v[0, first : first + at + 1, head // GROUP].double()
                weights = (keys @ q[0, first + at, head].double() / HEAD_DIM**0.5).softmax(0)
                out[0, first + at, head] = weights @ values
        first += length
    return out


@pytest.mark.parametrize("compiled", [True, False])
def test_both_paths_agree_with_attention_written_out(compiled: bool) -> None:
    lengths = [1, 4, 5, 17]
    cache, table = cache_and_table(len(lengths), 5)
    cache.compiled = compiled
    rows, (q, k, v) = random_rows(table, lengths)
    out = cache.attend(rows)(0, q, k, v)
    expected = written_out(q, k, v, lengths)
    assert torch.allclose(out.double(), expected, atol=2e-6)
    assert len(rows.slots_N) % ROW_MULTIPLE == 0
    assert not out[0, sum(lengths) :].any(), "padding rows read nothing"


@pytest.mark.parametrize("compiled", [True, False])
def test_rubbish_left_in_reused_blocks_is_never_read(compiled: bool) -> None:
    cache, table = cache_and_table(1, 3)
    cache.compiled = compiled
    cache.keys.fill_(float("nan"))
    cache.values.fill_(float("nan"))
    rows, (q, k, v) = random_rows(table, [6])
    out = cache.attend(rows)(0, q, k, v)
    assert torch.allclose(out[:, :6].double(), written_out(q, k, v, [6])[:, :6], atol=2e-6)


def test_extreme_scores_stay_finite_and_pick_the_largest() -> None:
    cache, table = cache_and_table(1, 2)
    rows, (q, k, v) = random_rows(table, [8])
    q *= 1e4
    out = cache.attend(rows)(0, q, k, v)
    assert torch.isfinite(out).all()
    assert torch.allclose(out[:, :8].double(), written_out(q, k, v, [8])[:, :8], atol=1e-5)


def test_a_chunk_computed_in_two_halves_gives_the_same_bits() -> None:
    whole, table = cache_and_table(1, 5)
    halves, _ = cache_and_table(1, 5)
    rows, (q, k, v) = random_rows(table, [19])
    out = whole.attend(rows)(0, q, k, v)[0, :19]
    parts = []
    for start, stop in ((0, 7), (7, 19)):
        part = Rows.of([0] * (stop - start), list(range(start, stop)), [0] * (stop - start), table, BLOCK)
        pad = len(part.slots_N)
        taken = [torch.zeros(1, pad, *x.shape[2:]) for x in (q, k, v)]
        for mine, full in zip(taken, (q, k, v), strict=True):
            mine[0, : stop - start] = full[0, start:stop]
        parts.append(halves.attend(part)(0, *taken)[0, : stop - start])
    assert torch.equal(torch.cat(parts), out)
