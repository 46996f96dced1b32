"""Training's compiled kernels, for every instruction set that this machine has, against PyTorch's plain operations."""

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from openmimo.model.attention import first_key, packed_attention, tiled_attention
from openmimo.train.loss import _cross_entropy, _cross_entropy_by_torch

_kernels = pytest.importorskip("openmimo.model._kernels", reason="there was no C compiler")


@pytest.fixture(params=["plain", "avx2", "avx512"])
def instructions(request: pytest.FixtureRequest) -> Iterator[str]:
    try:
        _kernels.use(request.param)
    except ValueError:
        pytest.skip(f"this machine has no {request.param}")
    yield request.param
    _kernels.use()


def both(documents: Tensor, heads: int, groups: int, width: int, dtype: torch.dtype) -> tuple[list[Tensor], ...]:
    """Result and gradients of the tiles and of the mask; the latter in float32."""
    generator = torch.Generator().manual_seed(0)
    rows, length = documents.shape
    values = [torch.randn(rows, length, n, width, generator=generator).to(dtype) for n in (heads, groups, groups)]
    grad = torch.randn(rows, length, heads, width, generator=generator).to(dtype)
    found = []
    for tiled in (True, False):
        kind = dtype if tiled else torch.float32
        q, k, v = (x.to(kind, copy=True).requires_grad_() for x in values)
        out = packed_attention(documents, kind, tiled=tiled)(0, q, k, v)
        assert out.dtype == kind
        found.append([out, *torch.autograd.grad(out, (q, k, v), grad.to(kind))])
    return tuple(found)


def close(found: list[Tensor], expected: list[Tensor]) -> bool:
    return all(
        a.shape == b.shape and torch.allclose(a.float(), b, atol=bound, rtol=bound)
        for a, b in zip(found, expected, strict=True)
        for bound in [1e-5 if a.dtype == torch.float32 else 0.02]
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("heads", "groups", "width"), [(4, 2, 64), (3, 3, 16), (4, 1, 32), (2, 1, 80), (2, 2, 128)])
def test_tiled_attention_and_its_gradients_equal_the_masked_one(
    instructions: str, heads: int, groups: int, width: int, dtype: torch.dtype
) -> None:
    """Borders at a tile's edge, inside one and two in one; a row of one document; padding; a last tile cut short."""
    documents = torch.zeros(4, 150, dtype=torch.long)
    for row, borders in enumerate(([64, 128, 147], [3, 70, 75, 90], [], [100])):
        for border in borders:
            documents[row, border:] += 1
    documents[3, 100:] = -1
    assert close(*both(documents, heads, groups, width, dtype))


@given(st.lists(st.integers(1, 90), min_size=1, max_size=6), st.integers(0, 20))
@settings(max_examples=30, deadline=None)
def test_tiled_attention_of_any_documents(lengths: list[int], padding: int) -> None:
    documents = [n for n, length in enumerate(lengths) for _ in range(length)] + [-1] * padding
    assert close(*both(torch.tensor([documents]), 2, 1, 16, torch.float32))


def test_scores_far_apart_neither_overflow_nor_vanish(instructions: str) -> None:
    """The first tile's scores lie 4,000 above the second's, and the other way round."""
    q = torch.ones(1, 130, 1, 16)
    k = torch.full((1, 130, 1, 16), -500.0)
    k[:, :64] = 500.0
    v = torch.arange(130.0)[None, :, None, None].expand(1, 130, 1, 16).contiguous()
    documents = torch.zeros(1, 130, dtype=torch.long)
    for keys in (k, -k):
        found = packed_attention(documents, tiled=True)(0, q, keys, v)
        expected = packed_attention(documents, tiled=False)(0, q, keys, v)
        assert torch.isfinite(found).all() and torch.allclose(found, expected, rtol=1e-5)


def test_the_number_of_threads_changes_no_bit() -> None:
    threads = torch.get_num_threads()
    documents = torch.arange(200).div(70, rounding_mode="floor").expand(3, 200)
    try:
        torch.set_num_threads(1)
        one, _ = both(documents, 4, 2, 32, torch.float32)
        torch.set_num_threads(2)
        two, _ = both(documents, 4, 2, 32, torch.float32)
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


def test_tiled_attention_keeps_the_rules_of_a_custom_operator() -> None:
    q, k, v = (torch.randn(2, 70, n, 16, requires_grad=True) for n in (4, 2, 2))
    first = first_key(torch.arange(70).div(30, rounding_mode="floor").expand(2, 70))
    torch.library.opcheck(tiled_attention, (q, k, v, first))


def test_heads_of_another_width_take_the_mask() -> None:
    documents = torch.tensor([[0, 0, 1, 1, 1, -1]])
    q, k, v = (torch.randn(1, 6, n, 8) for n in (2, 1, 1))
    assert torch.equal(packed_attention(documents)(0, q, k, v), packed_attention(documents, tiled=False)(0, q, k, v))


def test_the_first_key_by_hand() -> None:
    assert first_key(torch.tensor([[0, 0, 1, 1, -1, -1]])).tolist() == [[0, 0, 2, 2, 4, 4]]


@pytest.mark.parametrize("vocabulary", [1, 15, 16, 1003])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_entropy_and_its_gradient_equal_pytorchs(instructions: str, vocabulary: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = (torch.randn(9, vocabulary, generator=generator) * 30).to(dtype)
    targets = torch.randint(0, vocabulary, (9,), generator=generator)
    weights = torch.rand(9, generator=generator)
    expected = _cross_entropy_by_torch(logits.clone(), targets, weights, True)
    found = _cross_entropy(logits.clone(), targets, weights, True)
    assert torch.allclose(found[0], expected[0], atol=1e-5, rtol=1e-5)
    assert found[1].dtype == dtype and torch.allclose(
        found[1], expected[1], atol=1e-6 if dtype == torch.float32 else 4e-3
    )
    kept = logits.clone()
    assert torch.equal(_cross_entropy(kept, targets, weights, False)[0], found[0]) and torch.equal(kept, logits)


def test_an_unknown_instruction_set_is_refused_and_changes_nothing() -> None:
    logits, targets, weights = torch.randn(9, 1003), torch.zeros(9, dtype=torch.long), torch.ones(9)
    before = _cross_entropy(logits.clone(), targets, weights, True)
    with pytest.raises(ValueError, match="no avx1024"):
        _kernels.use("avx1024")
    after = _cross_entropy(logits.clone(), targets, weights, True)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))
