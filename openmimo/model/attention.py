"""Document-masked attention over packed rows, for training.

Shapes as in `model.mimo`. Attention and, with it, everything a token knows, never crosses a document border.
"""

from __future__ import annotations

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


def packed_attention(document_ids_BT: Tensor) -> Attend:
    """Attend within documents; the mask is built once and shared by all layers."""
    allowed = document_mask(document_ids_BT)
    masks: dict[torch.dtype, Tensor] = {}

    def attend(layer: int, q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor) -> Tensor:
        q, k, v = (x.transpose(1, 2) for x in (q_BTHE, k_BTKE, v_BTKE))
        if q.dtype not in masks:  # additive: a boolean one would be converted again in every layer
            masks[q.dtype] = torch.zeros_like(allowed, dtype=q.dtype).masked_fill(~allowed, float("-inf"))
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=masks[q.dtype], enable_gqa=q.shape[1] != k.shape[1])
        return out.transpose(1, 2)

    return attend
