"""Document-masked attention over packed rows, for training.

Shapes as in `model.mimo`. Attention and, with it, everything a token knows, never crosses a document border. On a CPU
it is `tiled_attention`, compiled kernels of our own; on a GPU it is flex attention. Both skip what no query may read:
their cost follows the documents' lengths, not the row's. Where neither can be, for want of a compiler or for an odd
width of heads, it is PyTorch's fused attention with a mask.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from openmimo.model.kernels import kernels
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
    document_ids_BT: Tensor,
    dtype: torch.dtype = torch.float32,
    *,
    flex: bool | None = None,
    tiled: bool | None = None,
) -> Attend:
    """Attend within documents; the mask is built once and shared by all layers.

    Args:
        dtype: of queries, keys and values.
        flex: whether to use flex attention; None: on a GPU.
        tiled: whether, without flex, to use `tiled_attention` for heads that it can take; None: on a CPU that has it.
    """
    if document_ids_BT.is_cuda if flex is None else flex:
        return _flex_attention(document_ids_BT)
    if tiled is None:
        tiled = not document_ids_BT.is_cuda
    first_BT, masked = first_key(document_ids_BT), cache(lambda: _masked_attention(document_ids_BT, dtype))

    def attend(layer: int, q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor) -> Tensor:
        if tiled and takes_tiles(q_BTHE.shape[-1]) and q_BTHE.dtype in (torch.float32, torch.bfloat16):
            return tiled_attention(q_BTHE, k_BTKE, v_BTKE, first_BT)[0]
        return masked()(layer, q_BTHE, k_BTKE, v_BTKE)

    return attend


def _masked_attention(document_ids_BT: Tensor, dtype: torch.dtype) -> Attend:
    packed = bool((document_ids_BT != 0).any())
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


def takes_tiles(head_dim: int) -> bool:
    """Whether `tiled_attention` is there for heads of this width."""
    return head_dim % 16 == 0 and kernels() is not None


def first_key(document_ids_BT: Tensor) -> Tensor:
    """(B, T) int64: the first slot of each slot's document, which lies in one piece."""
    slots_T = torch.arange(document_ids_BT.shape[1], device=document_ids_BT.device)
    begins = torch.ones_like(document_ids_BT, dtype=torch.bool)
    begins[:, 1:] = document_ids_BT[:, 1:] != document_ids_BT[:, :-1]
    return torch.where(begins, slots_T, 0).cummax(dim=1).values


@torch.library.custom_op("openmimo::tiled_attention", mutates_args=())
def tiled_attention(q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, first_BT: Tensor) -> tuple[Tensor, Tensor]:
    """Attention on a CPU by `_kernels.c`: tiles of 64 queries and 64 keys, those that no query may read left out.

    Args:
        q_BTHE, k_BTKE, v_BTKE: float32 or bfloat16, E a multiple of 16; sums are float32.
        first_BT: `first_key`: query t reads keys first_BT[b, t] .. t.

    Returns:
        (B, T, H, E), and the logarithms of the softmaxes' sums, (B, H, T) float32, from which the backward pass forms
        the shares again.
    """
    q_BTHE, k_BTKE, v_BTKE = q_BTHE.contiguous(), k_BTKE.contiguous(), v_BTKE.contiguous()
    rows, length, heads, _ = q_BTHE.shape
    out_BTHE, logs_BHT = torch.empty_like(q_BTHE), q_BTHE.new_empty((rows, heads, length), dtype=torch.float32)
    tensors = (q_BTHE, k_BTKE, v_BTKE, first_BT, out_BTHE, logs_BHT)
    kernels().attend(*(x.data_ptr() for x in tensors), *_sizes(q_BTHE, k_BTKE))
    return out_BTHE, logs_BHT


@tiled_attention.register_fake
def _(q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, first_BT: Tensor) -> tuple[Tensor, Tensor]:
    rows, length, heads, _ = q_BTHE.shape
    logs_BHT = q_BTHE.new_empty((rows, heads, length), dtype=torch.float32)
    return torch.empty_like(q_BTHE, memory_format=torch.contiguous_format), logs_BHT


@torch.library.custom_op("openmimo::tiled_attention_backward", mutates_args=())
def _tiled_backward(
    grad_BTHE: Tensor,
    q_BTHE: Tensor,
    k_BTKE: Tensor,
    v_BTKE: Tensor,
    first_BT: Tensor,
    out_BTHE: Tensor,
    logs_BHT: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    q_BTHE, k_BTKE, v_BTKE, grad_BTHE = (x.contiguous() for x in (q_BTHE, k_BTKE, v_BTKE, grad_BTHE))
    grads = tuple(torch.empty_like(x) for x in (q_BTHE, k_BTKE, v_BTKE))
    tensors = (q_BTHE, k_BTKE, v_BTKE, first_BT, out_BTHE, logs_BHT, grad_BTHE, *grads)
    kernels().attend_back(*(x.data_ptr() for x in tensors), *_sizes(q_BTHE, k_BTKE))
    return grads[0], grads[1], grads[2]


@_tiled_backward.register_fake
def _(grad_BTHE: Tensor, q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor, *rest: Tensor) -> tuple[Tensor, ...]:
    return tuple(torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q_BTHE, k_BTKE, v_BTKE))


def _sizes(q_BTHE: Tensor, k_BTKE: Tensor) -> tuple[int, int, int, int, int, float, bool, int]:
    rows, length, heads, width = q_BTHE.shape
    half = q_BTHE.dtype == torch.bfloat16
    return rows, length, heads, k_BTKE.shape[2], width, width**-0.5, half, torch.get_num_threads()


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*inputs, *output)
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: Any, grad_BTHE: Tensor, _: Any) -> tuple[Tensor | None, ...]:
    return *_tiled_backward(grad_BTHE, *ctx.saved_tensors), None


tiled_attention.register_autograd(_backward, setup_context=_keep)


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
