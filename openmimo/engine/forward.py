"""The model's forward pass over the paged cache (MiMo 2.2): rows in, hidden states and logits out.

A row is one token of one sequence: it stores its key and value in its slot, then attends to its sequence's first
`length` slots. Prompt tokens, decoded tokens and drafts under verification are all rows. `cpu.CpuForward` is the fast
one on a CPU in float32; `TorchForward` is plain PyTorch, for any device and dtype.

Shapes: N = rows, M = rows with logits, D = hidden size, V = vocabulary, K = key-value heads, G = query heads a
key-value head, E = head dim, P = positions in a block, J = blocks a sequence can have, S = slots gathered.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from openmimo.model.mimo import Attend, MiMo

TILE = 64
"""Rows that go through the model together when results must not depend on the batch: kernels choose by shape."""

_FEW = 24
"""Rows that plain Python looks up faster than numpy."""

_KEY_CHUNK = 256
"""Slots attended to at a time then, always from the first on."""

_GATHER_ROWS = 64
"""Rows whose blocks are gathered at a time: bounds memory."""


@dataclass(frozen=True, slots=True)
class Rows:
    """N tokens to compute; the five columns lie one after another in memory."""

    columns_5N: np.ndarray
    """int64: token id; position in its sequence; row of the block table; slot (block * P + offset, -1 stores nothing);
    slots to read (position + 1, 0 reads nothing)."""

    @classmethod
    def of(
        cls, token_ids: list[int], positions: list[int], table_rows: list[int], table_RJ: np.ndarray, size: int
    ) -> Rows:
        """Look up the slots in the block table."""
        if len(token_ids) <= _FEW:  # one array is quicker than many operations on small ones
            slots = [
                table_RJ.item(r, at // size) * size + at % size for r, at in zip(table_rows, positions, strict=True)
            ]
            lengths = [at + 1 for at in positions]
            return cls(np.array((token_ids, positions, table_rows, slots, lengths), dtype=np.int64))
        columns = np.empty((5, len(token_ids)), dtype=np.int64)
        columns[0], columns[1], columns[2] = token_ids, positions, table_rows
        at = columns[1]
        columns[3] = table_RJ[columns[2], at // size] * np.int64(size) + at % size
        columns[4] = at + 1
        return cls(columns)

    def __len__(self) -> int:
        return self.columns_5N.shape[1]

    def part(self, start: int, stop: int) -> Rows:
        """Rows start .. stop - 1, padded at the end with rows that store and read nothing."""
        columns = np.zeros((5, stop - start), dtype=np.int64)
        columns[3] = -1
        taken = self.columns_5N[:, start:stop]
        columns[:, : taken.shape[1]] = taken
        return Rows(columns)


class Forward(Protocol):
    """Owns the keys and values of all layers, and the hidden states that MTP layers read; tensors that it returns live
    until its next call."""

    def trunk(self, rows: Rows) -> Tensor:
        """(N, D) hidden states before the final norm, kept in the rows' slots if MTP layers draft."""

    def draft(self, k: int, rows: Rows) -> Tensor:
        """(N, D) output of MTP layer k (from 0) before its final norm, from the states in the rows' slots; the rows'
        token ids are the ones ahead. Kept if a chained layer reads it."""

    def logits(self, hidden_ND: Tensor, rows_M: list[int], k: int = -1) -> Tensor:
        """(M, V) float32 logits of some rows of the trunk's states, or of MTP layer k's."""

    def refresh(self) -> None:
        """Take over the model's weights after they have changed."""


class TorchForward:
    """PyTorch over gathered blocks.

    With `batch_invariant` every row's result is a function of its own sequence alone as far as the device's kernels
    choose by shape: rows go through the model in tiles of one size, keys are read in chunks of one size.
    """

    def __init__(
        self, model: MiMo, *, num_layers: int, num_states: int, num_blocks: int, table_RJ: np.ndarray, block_size: int,
        batch_invariant: bool,
    ) -> None:  # fmt: skip
        config, weight = model.config, model.lm_head.weight
        shape = (num_layers, num_blocks, config.num_key_value_heads, block_size, config.head_dim)
        self.model = model
        self.keys = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        self.values = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        states = (num_states, num_blocks * block_size, config.hidden_size)
        self.states = torch.zeros(states, dtype=weight.dtype, device=weight.device)
        self.table_RJ = table_RJ
        self.device = weight.device
        self.batch_invariant = batch_invariant

    def trunk(self, rows: Rows) -> Tensor:
        found = []
        for part, attend in self._parts(rows):
            ids, positions = self._tensor(part.columns_5N[0])[None], self._tensor(part.columns_5N[1])[None]
            found.append(self.model(ids, positions, attend)[0])
        return self._kept(torch.cat(found)[: len(rows)], rows, 0)

    def draft(self, k: int, rows: Rows) -> Tensor:
        found, states = [], self.states[k if self.model.config.mtp_chained else 0]
        for part, attend in self._parts(rows):
            ids, positions = self._tensor(part.columns_5N[0])[None], self._tensor(part.columns_5N[1])[None]
            hidden = states[self._tensor(np.maximum(part.columns_5N[3], 0))]
            found.append(self.model.draft_hidden(k, hidden[None], ids, positions, attend)[0])
        return self._kept(torch.cat(found)[: len(rows)], rows, k + 1)

    def _kept(self, hidden_ND: Tensor, rows: Rows, number: int) -> Tensor:
        if number < len(self.states):
            real_N = self._tensor(rows.columns_5N[3] >= 0)
            self.states[number][self._tensor(rows.columns_5N[3])[real_N]] = hidden_ND[real_N]
        return hidden_ND

    def logits(self, hidden_ND: Tensor, rows_M: list[int], k: int = -1) -> Tensor:
        hidden_MD, count = hidden_ND[torch.tensor(rows_M, device=self.device)], len(rows_M)
        tile = TILE if self.batch_invariant else max(count, 1)
        found = []
        for start in range(0, count, tile):
            part = hidden_MD[start : start + tile]
            part = torch.nn.functional.pad(part, (0, 0, 0, tile - part.shape[0]))[None]
            normed = self.model.normed(part) if k < 0 else self.model.draft_normed(k, part)
            found.append(self.model.lm_head(normed)[0].float())
        return torch.cat(found)[:count]

    def refresh(self) -> None:
        """Weights are the model's own."""

    def _parts(self, rows: Rows) -> list[tuple[Rows, Attend]]:
        if not self.batch_invariant:
            return [(rows, self._attend(rows))]
        # Tile by tile: a row reads only what rows before it, or its own tile, have stored.
        parts = [rows.part(start, start + TILE) for start in range(0, len(rows), TILE)]
        return [(part, self._attend(part)) for part in parts]

    def _attend(self, rows: Rows) -> Attend:
        """Attention for one forward pass over `rows`, given as B = 1, T = N."""
        _, _, table_rows_N, slots_N, lengths_N = rows.columns_5N
        size = self.keys.shape[3]
        real = slots_N >= 0
        real_N = self._tensor(np.flatnonzero(real))
        slots_R = self._tensor(slots_N[real])
        per_chunk = _KEY_CHUNK // size if self.batch_invariant else max(1, -(-int(lengths_N.max()) // size))
        num_chunks = -(-int(lengths_N.max()) // (per_chunk * size))
        most = min(num_chunks * per_chunk, self.table_RJ.shape[1])
        table_NJ = self._tensor(self.table_RJ[table_rows_N, :most].astype(np.int64))
        table_NJ = torch.nn.functional.pad(table_NJ, (0, num_chunks * per_chunk - most))
        lengths_N1 = self._tensor(lengths_N)[:, None]

        def attend(layer: int, q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor) -> Tensor:
            keys, values = self.keys[layer], self.values[layer]
            keys[slots_R // size, :, slots_R % size] = k_BTKE[0, real_N].to(keys.dtype)
            values[slots_R // size, :, slots_R % size] = v_BTKE[0, real_N].to(values.dtype)
            num_rows, num_kv_heads, head_dim = k_BTKE.shape[1:]
            q_NKGE = q_BTHE.reshape(num_rows, num_kv_heads, -1, head_dim) / math.sqrt(head_dim)
            out_NKGE = torch.empty_like(q_NKGE)
            for start in range(0, num_rows, _GATHER_ROWS):
                tile = slice(start, start + _GATHER_ROWS)
                top = q_NKGE.new_full(
                    (*q_NKGE[tile].shape[:-1], 1), torch.finfo(torch.float32).min, dtype=torch.float32
                )
                total, out = torch.zeros_like(top), torch.zeros_like(q_NKGE[tile], dtype=torch.float32)
                for chunk in range(num_chunks):
                    blocks = table_NJ[tile, chunk * per_chunk : (chunk + 1) * per_chunk]
                    slots_S = torch.arange(per_chunk * size, device=self.device) + chunk * per_chunk * size
                    dead = (slots_S >= lengths_N1[tile])[:, None, None, :]
                    k_NKSE = keys[blocks].transpose(1, 2).flatten(2, 3)
                    v_NKSE = values[blocks].transpose(1, 2).flatten(2, 3)
                    v_NKSE = v_NKSE.masked_fill(dead.transpose(-1, -2), 0.0)  # a stale slot may hold NaN
                    scores = (q_NKGE[tile] @ k_NKSE.transpose(-1, -2)).float().masked_fill(dead, -math.inf)
                    largest = torch.maximum(top, scores.amax(-1, keepdim=True))
                    weights, shrunk = (scores - largest).exp(), (top - largest).exp()
                    total = total * shrunk + weights.sum(-1, keepdim=True)
                    out = out * shrunk + (weights.to(v_NKSE.dtype) @ v_NKSE).float()
                    top = largest
                out_NKGE[tile] = torch.where(total > 0, out / total, 0.0).to(out_NKGE.dtype)
            return out_NKGE.view(q_BTHE.shape)

        return attend

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)
