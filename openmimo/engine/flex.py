"""The forward pass for a GPU: flex attention over the paged cache, decode steps as CUDA graphs (MiMo 2.2, 3.4.2).

Keys and values are read where they lie: a block mask names every row's blocks, so nothing is gathered or repeated, and
unused blocks are never touched. Rows are padded to a power of two, so that few shapes are compiled and captured; the
padding stores into a block of its own. On a CUDA device a pass of at most GRAPH_ROWS rows is captured once a shape and
replayed; elsewhere it runs as it is, which is how the tests check it.

Shapes as in `forward`; B = blocks of the cache, the one for padding included.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openmimo.engine.forward import Rows
from openmimo.model.mimo import Attend, MiMo

GRAPH_ROWS = 512
"""Largest pass that is captured as a graph: decode and verify steps; prompts are not worth one."""


class FlexForward:
    """Owns the cache on the model's device, and the captured graphs."""

    def __init__(
        self, model: MiMo, *, num_layers: int, num_states: int, num_blocks: int, table_RJ: np.ndarray, block_size: int,
        compiled: bool = True,
    ) -> None:  # fmt: skip
        """
        Args:
            compiled: compile the attention (kept in PyTorch's own cache on disk); False materialises the scores, slow.
        """
        from torch.nn.attention.flex_attention import flex_attention

        config, weight = model.config, model.lm_head.weight
        shape = (num_layers, config.num_key_value_heads, (num_blocks + 1) * block_size, config.head_dim)
        self.model = model
        self.device = weight.device
        self.keys = torch.zeros(shape, dtype=weight.dtype, device=self.device)
        self.values = torch.zeros(shape, dtype=weight.dtype, device=self.device)
        states = (num_states, (num_blocks + 1) * block_size, config.hidden_size)
        self.states = torch.zeros(states, dtype=weight.dtype, device=self.device)
        self.num_blocks, self.block_size, self.table_RJ = num_blocks, block_size, table_RJ
        self._attention: Any = torch.compile(flex_attention, dynamic=False) if compiled else flex_attention
        self._graphs: dict[tuple[str, int], _Graph] = {}

    def trunk(self, rows: Rows) -> Tensor:
        def run(inputs: _Inputs) -> Tensor:
            ids, positions, slots = inputs.columns_5N[0], inputs.columns_5N[1], inputs.columns_5N[3]
            hidden_ND = self.model(ids[None], positions[None], self._attend(inputs))[0]
            if len(self.states):
                self.states[0][slots] = hidden_ND
            return hidden_ND

        return self._run("trunk", run, self._inputs(rows))[: len(rows)]

    def draft(self, k: int, rows: Rows) -> Tensor:
        def run(inputs: _Inputs) -> Tensor:
            ids, positions, slots = inputs.columns_5N[0], inputs.columns_5N[1], inputs.columns_5N[3]
            hidden_ND = self.states[k if self.model.config.mtp_chained else 0][slots]
            out = self.model.draft_hidden(k, hidden_ND[None], ids[None], positions[None], self._attend(inputs))[0]
            if k + 1 < len(self.states):
                self.states[k + 1][slots] = out
            return out

        return self._run(f"draft {k}", run, self._inputs(rows))[: len(rows)]

    def logits(self, hidden_ND: Tensor, rows_M: list[int], k: int = -1) -> Tensor:
        hidden_MD = hidden_ND[torch.tensor(rows_M, device=self.device)]
        normed = self.model.normed(hidden_MD) if k < 0 else self.model.draft_normed(k, hidden_MD)
        return self.model.lm_head(normed).float()

    def refresh(self) -> None:
        """Weights are the model's own, changed in place: graphs read the new ones."""

    def _inputs(self, rows: Rows) -> _Inputs:
        count = len(rows)
        padded = 1 << max(0, count - 1).bit_length()
        columns = rows.part(0, padded).columns_5N
        columns[3, columns[3] < 0] = self.num_blocks * self.block_size  # the padding's own block
        columns[4] = np.maximum(columns[4], 1)  # a softmax over nothing is no number
        columns[4, count:] = 1
        used_NJ = np.arange(self.table_RJ.shape[1]) * self.block_size < columns[4][:, None]
        table_NJ = np.where(used_NJ, self.table_RJ[columns[2]], self.num_blocks)
        table_NJ[count:, 0] = self.num_blocks
        return _Inputs(self._tensor(columns), self._tensor(table_NJ.astype(np.int32)))

    def _attend(self, inputs: _Inputs) -> Attend:
        """Attention for one pass, given as B = 1, T = N; all shapes are the inputs' own, so it can be captured."""
        from torch.nn.attention.flex_attention import BlockMask

        _, _, _, slots_N, lengths_N = inputs.columns_5N
        table_NJ, size, own = inputs.table_NJ, self.block_size, self.num_blocks
        count, most = table_NJ.shape
        used_N = (lengths_N + size - 1) // size
        # Which part of a row's sequence a block holds; -1: none of it. Padding's block comes last and is put right.
        part_NB = torch.full((count, own + 1), -1, dtype=torch.int32, device=self.device)
        parts_NJ = torch.arange(most, dtype=torch.int32, device=self.device).expand(count, most)
        part_NB.scatter_(1, table_NJ.long(), parts_NJ.contiguous())
        part_NB[:, own] = torch.where(table_NJ[:, 0] == own, 0, -1).to(torch.int32)

        def reads(n: Tensor, head: Tensor, query: Tensor, slot: Tensor) -> Tensor:
            part = part_NB[n, slot // size]
            return (part >= 0) & (part * size + slot % size < lengths_N[n])

        listed_NB = torch.nn.functional.pad(table_NJ, (0, own + 1 - most)) if most <= own else table_NJ[:, : own + 1]
        mask = BlockMask.from_kv_blocks(
            used_N.to(torch.int32)[:, None, None], listed_NB[:, None, None], BLOCK_SIZE=(128, size), mask_mod=reads,
            seq_lengths=(1, self.keys.shape[2]), compute_q_blocks=False,
        )  # fmt: skip

        def attend(layer: int, q_BTHE: Tensor, k_BTKE: Tensor, v_BTKE: Tensor) -> Tensor:
            keys, values = self.keys[layer], self.values[layer]
            keys[:, slots_N] = k_BTKE[0].transpose(0, 1).to(keys.dtype)
            values[:, slots_N] = v_BTKE[0].transpose(0, 1).to(values.dtype)
            out_NHQE = self._attention(
                q_BTHE[0][:, :, None], keys[None], values[None], block_mask=mask, enable_gqa=True,
                scale=1.0 / math.sqrt(q_BTHE.shape[-1]),
            )  # fmt: skip
            return out_NHQE[:, :, 0][None]

        return attend

    def _run(self, name: str, run: Callable[[_Inputs], Tensor], inputs: _Inputs) -> Tensor:
        count = inputs.columns_5N.shape[1]
        if self.device.type != "cuda" or count > GRAPH_ROWS:
            return run(inputs)
        if (name, count) not in self._graphs:
            self._graphs[name, count] = _Graph(run, inputs)
        return self._graphs[name, count].replay(inputs)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.device)


class _Inputs:
    """What a pass reads, on the device."""

    def __init__(self, columns_5N: Tensor, table_NJ: Tensor) -> None:
        self.columns_5N, self.table_NJ = columns_5N, table_NJ

    def copy_(self, other: _Inputs) -> None:
        self.columns_5N.copy_(other.columns_5N)
        self.table_NJ.copy_(other.table_NJ)


class _Graph:
    """One pass, captured with inputs of its own that every replay fills."""

    def __init__(self, run: Callable[[_Inputs], Tensor], inputs: _Inputs) -> None:
        self._inputs = inputs
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):  # compiles, and lets libraries take their workspaces
            for _ in range(2):
                run(inputs)
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._out = run(inputs)

    def replay(self, inputs: _Inputs) -> Tensor:
        if inputs is not self._inputs:
            self._inputs.copy_(inputs)
        self._graph.replay()
        return self._out
