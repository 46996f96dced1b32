"""Document-masked attention over packed rows, for training.

Shapes as in `model.mimo`. Attention and, with it, everything a token knows, never crosses a document border. On a CPU
it is PyTorch's fused attention with a mask, or without one where every row is a single document, and for longer rows
`blocked_attention` below; on a GPU it is flex attention. Both skip what no query may read: their cost follows the
documents' lengths, not the row's.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from openmimo.model.mimo import Attend

BLOCK = 64
"""Queries that `blocked_attention` takes at a time."""
LONG, LONGEST_WHOLE = 512, 1024
"""Slots of a row from which it is faster, on two threads too, and up to which it is so in rows of one document."""


def document_mask(document_ids_BT: Tensor) -> Tensor:
    """(B, 1, T, T) bool: query t may read key s iff s <= t and both lie in one document.

    Padding (-1) reads itself alone, so that no softmax is over nothing.
    """
    same = document_ids_BT[:, :, None] == document_ids_BT[:, None, :]
    length = document_ids_BT.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=document_ids_BT.device).tril()
    return (same & causal)[:, None]


def packed_attention(
    document_ids_BT: Tensor,
    dtype: torch.dtype = torch.float32,
    *,
    flex: bool | None = None,
    blocked: bool | None = None,
) -> Attend:
    """Attend within documents; the mask is built once and shared by all layers.

    Args:
        dtype: of queries, keys and values.
        flex: whether to use flex attention; None: on a GPU.
        blocked: whether, without flex, to use `blocked_attention`; None: on a CPU where it is faster.
    """
    if document_ids_BT.is_cuda if flex is None else flex:
        return _flex_attention(document_ids_BT)
    length, packed = document_ids_BT.shape[1], bool((document_ids_BT != 0).any())
    if blocked is None:
        blocked = not document_ids_BT.is_cuda and length >= LONG and (packed or length <= LONGEST_WHOLE)
    if blocked:
        first_BT = first_key(document_ids_BT)
        return lambda layer, q_BTHE, k_BTKE, v_BTKE: blocked_attention(q_BTHE, k_BTKE, v_BTKE, first_BT)
    mask = None
    if packed:
        # Additive: a boolean one would be converted again in every layer.
        allowed = document_mask(document_ids_BT)
        mask = torch.zeros_like(allowed, dtype=dtype).masked_fill_(~allowed, float("-inf"))

    def attend(layer: int, q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q_BTHE, k_BTKE, v_BTKE))
        own = None if mask is None else mask.to(q.dtype)
        gqa = q.shape[1] != k.shape[1]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=own, is_causal=own is None, enable_gqa=gqa)
        return out.transpose(1, 2)

    return attend


def first_key(document_ids_BT: Tensor) -> Tensor:
    """(B, T) int64: the first slot of each slot's document, which lies in one piece."""
    slots_T = torch.arange(document_ids_BT.shape[1], device=document_ids_BT.device)
    begins = torch.ones_like(document_ids_BT, dtype=torch.bool)
    begins[:, 1:] = document_ids_BT[:, 1:] != document_ids_BT[:, :-1]
    return torch.where(begins, slots_T, 0).cummax(dim=1).values


@torch.library.custom_op("openmimo::blocked_attention", mutates_args=())
def blocked_attention(q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, first_BT: Tensor) -> Tensor:
    """Attention for a CPU: BLOCK queries at a time over the keys that one of them may read, as matrix products.

    Scores live for one row and block alone: they stay in the cache, and the backward pass forms them again. In
    bfloat16 they are float32, as PyTorch's fused attention has them.

    Args:
        first_BT: `first_key`: query t reads keys first_BT[b, t] .. t.
    """
    out_BTHE = torch.empty_like(q_BTHE, memory_format=torch.contiguous_format)
    for row, start, end, first, mask in _blocks(first_BT):
        q, keys, values = _block(q_BTHE, k_BTKE, v_BTKE, row, start, end, first)
        shares = _shares(q, keys, mask)
        out = torch.bmm(shares.to(values.dtype), values)
        _heads(out_BTHE[row, start:end], keys.shape[0]).copy_(out.view(keys.shape[0], -1, end - start, out.shape[-1]))
    return out_BTHE


@blocked_attention.register_fake
def _(q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, first_BT: Tensor) -> Tensor:
    return torch.empty_like(q_BTHE, memory_format=torch.contiguous_format)


@torch.library.custom_op("openmimo::blocked_attention_backward", mutates_args=())
def _blocked_backward(
    grad_BTHE: Tensor, q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, first_BT: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    dq_BTHE = torch.empty_like(q_BTHE, memory_format=torch.contiguous_format)
    rows, length, groups, size = k_BTKE.shape
    # Several blocks add to one key: in float32, or bfloat16 would lose the small ones.
    dk_BKTE, dv_BKTE = (k_BTKE.new_zeros((rows, groups, length, size), dtype=torch.float32) for _ in range(2))
    scale = size**-0.5
    for row, start, end, first, mask in _blocks(first_BT):
        q, keys, values = _block(q_BTHE, k_BTKE, v_BTKE, row, start, end, first)
        grad = _heads(grad_BTHE[row, start:end], groups).reshape(groups, -1, size)
        shares = _shares(q, keys, mask)
        dv_BKTE[row, :, first:end] += torch.bmm(shares.to(grad.dtype).transpose(1, 2), grad)
        d_shares = torch.bmm(grad, values.transpose(1, 2)).to(shares.dtype)
        d_scores = torch._softmax_backward_data(d_shares, shares, -1, shares.dtype).to(q.dtype)
        dq = torch.bmm(d_scores, keys).mul_(scale)
        _heads(dq_BTHE[row, start:end], groups).copy_(dq.view(groups, -1, end - start, size))
        dk_BKTE[row, :, first:end] += torch.bmm(d_scores.transpose(1, 2), q)
    dk_BTKE, dv_BTKE = dk_BKTE.mul_(scale).transpose(1, 2), dv_BKTE.transpose(1, 2)
    return dq_BTHE, dk_BTKE.to(k_BTKE.dtype).contiguous(), dv_BTKE.to(v_BTKE.dtype).contiguous()


@_blocked_backward.register_fake
def _(
    grad_BTHE: Tensor, q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, first_BT: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q_BTHE, k_BTKE, v_BTKE))
    return q, k, v


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    ctx.save_for_backward(*inputs)


def _backward(ctx: Any, grad_BTHE: Tensor) -> tuple[Tensor | None, ...]:
    return *_blocked_backward(grad_BTHE, *ctx.saved_tensors), None


blocked_attention.register_autograd(_backward, setup_context=_keep)


def _blocks(first_BT: Tensor) -> Iterator[tuple[int, int, int, int, Tensor]]:
    """Row, its queries' start and end, the first key one of them reads, and an additive mask of the last columns."""
    length = first_BT.shape[1]
    triangle = torch.full((BLOCK, BLOCK), float("-inf"), device=first_BT.device).triu_(1)
    for row, firsts in enumerate(first_BT[:, ::BLOCK].tolist()):
        lasts = first_BT[row, BLOCK - 1 :: BLOCK].tolist() + [first_BT[row, -1].item()]
        for start, first, last in zip(range(0, length, BLOCK), firsts, lasts, strict=False):
            end = min(start + BLOCK, length)
            if first == last:
                yield row, start, end, first, triangle[: end - start, : end - start]
            else:  # a border among the queries
                columns = torch.arange(first, end, device=first_BT.device)
                allowed = columns >= first_BT[row, start:end, None]
                mask = torch.zeros(allowed.shape, device=first_BT.device).masked_fill_(~allowed, float("-inf"))
                mask[:, start - first :] += triangle[: end - start, : end - start]
                yield row, start, end, first, mask


def _block(
    q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, row: int, start: int, end: int, first: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (K, heads of one group * queries, E), keys and values (K, keys, E)."""
    groups, size = k_BTKE.shape[2:]
    q = _heads(q_BTHE[row, start:end], groups).reshape(groups, -1, size)
    return q, k_BTKE[row, first:end].transpose(0, 1), v_BTKE[row, first:end].transpose(0, 1)


def _heads(x_THE: Tensor, groups: int) -> Tensor:
    """(K, heads of a group, T, E), a view."""
    length, heads, size = x_THE.shape
    return x_THE.view(length, groups, heads // groups, size).permute(1, 2, 0, 3)


def _shares(q: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
    """Softmax of the scores, float32: (K, heads of one group * queries, keys)."""
    scores = torch.bmm(q.float().mul(q.shape[-1] ** -0.5), keys.float().transpose(1, 2))
    scores.view(q.shape[0], -1, mask.shape[0], keys.shape[1])[..., -mask.shape[1] :] += mask
    return torch.softmax(scores, dim=-1)


def _flex_attention(document_ids_BT: Tensor) -> Attend:
    from torch.nn.attention.flex_attention import create_block_mask

    rows, length = document_ids_BT.shape
    on_gpu = document_ids_BT.is_cuda

    def allowed(b: Tensor, h: Tensor, query: Tensor, key: Tensor) -> Tensor:
        return (query >= key) & (document_ids_BT[b, query] == document_ids_BT[b, key])

    blocks = create_block_mask(allowed, rows, None, length, length, device=str(document_ids_BT.device), _compile=on_gpu)
    attention = _flex(on_gpu)

    def attend(layer: int, q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q_BTHE, k_BTKE, v_BTKE))
        return attention(q, k, v, block_mask=blocks, enable_gqa=q.shape[1] != k.shape[1]).transpose(1, 2)

    return attend


@cache
def _flex(compiled: bool) -> Any:
    """Compiled once; uncompiled it materialises the scores, which is how the tests check the mask."""
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False) if compiled else flex_attention
