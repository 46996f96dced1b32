"""Document-masked attention over packed rows, for training.

Shapes as in `model.mimo`. Attention and, with it, everything a token knows, never crosses a document border. On a CPU
it is PyTorch's fused attention with a mask, or without one where every row is a single document; on a GPU it is flex
attention, which skips the blocks that no query may read: its cost follows the documents' lengths, not the row's.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from openmimo.model.mimo import Attend


def document_mask(document_ids_BT: Tensor) -> Tensor:
    """(B, 1, T, T) bool: query t may read key s iff s <= t and both lie in one document.

    Padding (-1) reads itself alone, so that no softmax is over nothing.
    """
    same = document_ids_BT[:, :, None] == document_ids_BT[:, None, :]
    length = document_ids_BT.shape[1]
    causal = torch.ones(length, length, dtype=torch.bool, device=document_ids_BT.device).tril()
    return (same & causal)[:, None]


def packed_attention(
    document_ids_BT: Tensor, dtype: torch.dtype = torch.float32, *, flex: bool | None = None
) -> Attend:
    """Attend within documents; the mask is built once and shared by all layers.

    Args:
        dtype: of queries, keys and values.
        flex: whether to use flex attention; None: on a GPU.
    """
    if document_ids_BT.is_cuda if flex is None else flex:
        return _flex_attention(document_ids_BT)
    mask = None
    if bool((document_ids_BT != 0).any()):
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
