"""Attention over the paged cache, one row at a time (MiMo 2.2).

A row is one token of one sequence: it stores its key and value in its slot, then attends to its sequence's first
`length` slots. Prompt tokens, decoded tokens and drafts under verification are all rows, and what a row computes
depends on its own query and its own keys and values only. So a token's result is the same, bit for bit on the CPU in
float32, whatever chunk, batch or step it is computed in; chunked prefill, shared prefixes, recomputation after
preemption and speculation all rest on that.

In float32 on the CPU a compiled loop reads the blocks where they lie; elsewhere they are gathered, then attended to
with PyTorch. Queries of one key-value head are read together, so keys and values are never repeated.

Shapes: N = rows, K = key-value heads, G = query heads a key-value head, E = head dim, P = positions in a block,
J = blocks a sequence can have.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openmimo.model.mimo import Attend

ROW_MULTIPLE = 8
"""Rows come in multiples of this. MKL multiplies fewer than four rows by another routine with other rounding, and
vector code handles a remainder of fewer than 8 doubles (16 floats: model widths are even) apart, rounding otherwise."""

_GATHER_ROWS = 64
"""Rows gathered at a time away from the compiled loop: bounds its memory."""


@dataclass(frozen=True, slots=True)
class Rows:
    """N tokens to compute, padded to a multiple of ROW_MULTIPLE with rows that store and read nothing."""

    token_ids_N: np.ndarray
    """int64."""
    positions_N: np.ndarray
    """int64, in the row's own sequence."""
    table_rows_N: np.ndarray
    """int64, row of the block table."""
    slots_N: np.ndarray
    """int64, block * block_size + offset; -1 is padding."""
    lengths_N: np.ndarray
    """int64, slots to read: position + 1, or 0 for padding."""

    @classmethod
    def of(
        cls, token_ids: list[int], positions: list[int], table_rows: list[int], table_RJ: np.ndarray, size: int
    ) -> Rows:
        """Pad, and look up the slots in the block table."""
        count = len(token_ids)
        padded = -(-count // ROW_MULTIPLE) * ROW_MULTIPLE
        columns = np.zeros((5, padded), dtype=np.int64)
        columns[0, :count] = token_ids
        columns[1, :count] = positions
        columns[2, :count] = table_rows
        columns[3] = -1
        at = columns[1, :count]
        columns[3, :count] = table_RJ[columns[2, :count], at // size] * np.int64(size) + at % size
        columns[4, :count] = at + 1
        return cls(*columns)


class PagedCache:
    """Keys and values of all layers, in blocks."""

    def __init__(
        self,
        num_layers: int,
        num_blocks: int,
        block_size: int,
        num_key_value_heads: int,
        head_dim: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        table_RJ: np.ndarray,
    ) -> None:
        shape = (num_layers, num_blocks, num_key_value_heads, block_size, head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.table_RJ = table_RJ
        self.compiled = dtype == torch.float32 and device.type == "cpu"

    def attend(self, rows: Rows) -> Attend:
        """The model's attention for one forward pass over `rows`, given as B = 1, T = N."""
        return self._attend_compiled(rows) if self.compiled else self._attend_gathered(rows)

    def _attend_compiled(self, rows: Rows) -> Attend:
        kernel = _kernel()
        keys, values = self.keys.numpy(), self.values.numpy()

        def attend(layer: int, q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor) -> Tensor:
            k_NKE, v_NKE = k_BTKE[0].contiguous().numpy(), v_BTKE[0].contiguous().numpy()
            num_rows, num_kv_heads, head_dim = k_NKE.shape
            q_NKGE = q_BTHE.contiguous().view(num_rows, num_kv_heads, -1, head_dim).numpy()
            out_NKGE = torch.empty_like(q_BTHE, memory_format=torch.contiguous_format)
            kernel(
                q_NKGE, k_NKE, v_NKE, keys[layer], values[layer], self.table_RJ, rows.table_rows_N, rows.slots_N,
                rows.lengths_N, np.float32(1.0 / math.sqrt(head_dim)), out_NKGE.view(q_NKGE.shape).numpy(),
            )  # fmt: skip
            return out_NKGE

        return attend

    def _attend_gathered(self, rows: Rows) -> Attend:
        device = self.keys.device
        size = self.keys.shape[3]
        real = rows.slots_N >= 0
        real_N = torch.from_numpy(np.flatnonzero(real)).to(device)
        slots_R = torch.from_numpy(rows.slots_N[real]).to(device)
        most = -(-int(rows.lengths_N.max()) // size)
        table_NJ = torch.from_numpy(self.table_RJ[rows.table_rows_N, :most].astype(np.int64)).to(device)
        lengths_N = torch.from_numpy(rows.lengths_N).to(device)
        dead_NS = torch.arange(most * size, device=device)[None] >= lengths_N[:, None]

        def attend(layer: int, q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor) -> Tensor:
            keys, values = self.keys[layer], self.values[layer]
            keys[slots_R // size, :, slots_R % size] = k_BTKE[0, real_N].to(keys.dtype)
            values[slots_R // size, :, slots_R % size] = v_BTKE[0, real_N].to(values.dtype)
            num_rows, num_kv_heads, head_dim = k_BTKE.shape[1:]
            q_NKGE = q_BTHE.reshape(num_rows, num_kv_heads, -1, head_dim) / math.sqrt(head_dim)
            out_NKGE = torch.zeros_like(q_NKGE)
            for start in range(0, num_rows, _GATHER_ROWS):
                tile = slice(start, start + _GATHER_ROWS)
                dead = dead_NS[tile, None, None, :]
                k_NKSE = keys[table_NJ[tile]].transpose(1, 2).flatten(2, 3)
                v_NKSE = values[table_NJ[tile]].transpose(1, 2).flatten(2, 3)
                v_NKSE = v_NKSE.masked_fill(dead.transpose(-1, -2), 0.0)  # a stale slot may hold anything, NaN too
                scores = (q_NKGE[tile] @ k_NKSE.transpose(-1, -2)).float().masked_fill(dead, -math.inf)
                weights = scores.softmax(-1).nan_to_num(0.0) if bool(dead.all(-1).any()) else scores.softmax(-1)
                out_NKGE[tile] = weights.to(v_NKSE.dtype) @ v_NKSE
            return out_NKGE.view(q_BTHE.shape)

        return attend


@functools.cache
def _kernel() -> Callable[..., Any]:
    """Compile (or load from numba's cache) the loop that stores and attends; seconds the first time on a machine."""
    from numba import njit

    f = np.float32
    low, log2e, half, one, zero = f(-87.0), f(1.44269504), f(0.5), f(1.0), f(0.0)
    ln2_high, ln2_low = f(0.693359375), f(-2.12194440e-4)
    # Cephes' polynomial for exp on [-ln 2 / 2, ln 2 / 2]; relative error below 2e-7.
    p0, p1, p2 = f(1.9875691500e-4), f(1.3981999507e-3), f(8.3334519073e-3)
    p3, p4, p5 = f(4.1665795894e-2), f(1.6666665459e-1), f(5.0000001201e-1)

    # Sums may be reassociated: their order is fixed when the loop is compiled, and never depends on other rows.
    @njit(nogil=True, cache=True, boundscheck=False, fastmath={"contract", "reassoc", "nsz", "arcp"})
    def kernel(q_NKGE, k_NKE, v_NKE, keys, values, table_RJ, table_rows_N, slots_N, lengths_N, scale, out_NKGE):
        num_rows, num_kv_heads, group, head_dim = q_NKGE.shape
        size = keys.shape[2]
        for n in range(num_rows):
            if slots_N[n] >= 0:
                block, at = slots_N[n] // size, slots_N[n] % size
                for k in range(num_kv_heads):
                    for e in range(head_dim):
                        keys[block, k, at, e] = k_NKE[n, k, e]
                        values[block, k, at, e] = v_NKE[n, k, e]
        weight_S = np.empty(table_RJ.shape[1] * size, np.float32)
        power_S = np.empty(table_RJ.shape[1] * size, np.int32)
        two_power_S = power_S.view(np.float32)
        out_E = np.empty(head_dim, np.float32)
        for n in range(num_rows):
            length = lengths_N[n]
            num_blocks = (length + size - 1) // size
            row = table_rows_N[n]
            for k in range(num_kv_heads):
                for g in range(group):
                    out_E[:] = zero
                    if length:
                        q_E = q_NKGE[n, k, g]
                        for j in range(num_blocks):
                            k_PE = keys[table_RJ[row, j], k]
                            for t in range(0, size, 4):  # four sums side by side keep the adders busy
                                s0, s1, s2, s3 = zero, zero, zero, zero
                                for e in range(head_dim):
                                    s0 += q_E[e] * k_PE[t, e]
                                    s1 += q_E[e] * k_PE[t + 1, e]
                                    s2 += q_E[e] * k_PE[t + 2, e]
                                    s3 += q_E[e] * k_PE[t + 3, e]
                                s = j * size + t
                                weight_S[s] = s0 * scale
                                weight_S[s + 1] = s1 * scale
                                weight_S[s + 2] = s2 * scale
                                weight_S[s + 3] = s3 * scale
                        top = weight_S[0]
                        for s in range(1, length):
                            top = max(top, weight_S[s])
                        for s in range(length):
                            x = max(weight_S[s] - top, low)
                            whole = np.int32(x * log2e - half)
                            x = x - f(whole) * ln2_high - f(whole) * ln2_low
                            y = ((((p0 * x + p1) * x + p2) * x + p3) * x + p4) * x + p5
                            weight_S[s] = y * x * x + x + one
                            power_S[s] = (whole + np.int32(127)) << np.int32(23)
                        total = zero
                        for s in range(length):
                            y = weight_S[s] * two_power_S[s]
                            weight_S[s] = y
                            total += y
                        for j in range(num_blocks):
                            v_PE = values[table_RJ[row, j], k]
                            first = j * size
                            used = min(size, length - first)
                            fours = used // 4 * 4
                            for t in range(0, fours, 4):
                                w0, w1 = weight_S[first + t], weight_S[first + t + 1]
                                w2, w3 = weight_S[first + t + 2], weight_S[first + t + 3]
                                for e in range(head_dim):
                                    out_E[e] += (w0 * v_PE[t, e] + w1 * v_PE[t + 1, e]) + (
                                        w2 * v_PE[t + 2, e] + w3 * v_PE[t + 3, e]
                                    )
                            for t in range(fours, used):
                                w0 = weight_S[first + t]
                                for e in range(head_dim):
                                    out_E[e] += w0 * v_PE[t, e]
                        inverse = one / total
                        for e in range(head_dim):
                            out_NKGE[n, k, g, e] = out_E[e] * inverse
                    else:
                        out_NKGE[n, k, g] = zero

    return kernel
