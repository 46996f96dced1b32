"""What a step computes, as rows (MiMo 2.2): the block table and the forward pass.

Beside keys and values the trunk's hidden states are kept, in the same blocks, when MTP layers draft: layer k's slot i
can be finished only once token i + 1 + k is known, steps after the trunk computed position i. Chained layers keep
their outputs too, for the layer that reads them.

Shapes: N = rows, M = rows with logits, D = hidden size, V = vocabulary.
"""

from __future__ import annotations

import time
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from openmimo.engine.cpu import CpuForward, kernels
from openmimo.engine.flex import FlexForward
from openmimo.engine.forward import Forward, Rows, TorchForward
from openmimo.engine.scheduler import Work
from openmimo.engine.sequence import Sequence
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo


def bytes_per_block(config: MiMoConfig, block_size: int, num_draft_layers: int, dtype: torch.dtype) -> int:
    """Memory of one block: keys and values of every layer, and hidden states when MTP layers draft."""
    per_position = 2 * (config.num_hidden_layers + num_draft_layers) * config.num_key_value_heads * config.head_dim
    per_position += _num_states(config, num_draft_layers) * config.hidden_size
    return per_position * block_size * dtype.itemsize


class Runner:
    """Owns the block table and the forward pass."""

    def __init__(
        self,
        model: MiMo,
        *,
        num_blocks: int,
        block_size: int,
        num_table_rows: int,
        max_model_len: int,
        num_draft_layers: int,
        batch_invariant: bool | None = None,
        backend: Literal["auto", "torch", "flex"] = "auto",
    ) -> None:
        config, weight = model.config, model.lm_head.weight
        self.model = model
        self.block_size = block_size
        self.device = weight.device
        self.table_RJ = np.zeros((num_table_rows, -(-max_model_len // block_size)), dtype=np.int32)
        sizes: dict[str, Any] = {
            "num_layers": config.num_hidden_layers + num_draft_layers,
            "num_states": _num_states(config, num_draft_layers),
            "num_blocks": num_blocks,
            "table_RJ": self.table_RJ,
            "block_size": block_size,
        }
        on_cpu = weight.device.type == "cpu" and weight.dtype == torch.float32
        self.forward: Forward
        if backend == "flex":
            self.forward = FlexForward(model, **sizes, compiled=weight.device.type == "cuda")
        elif on_cpu and backend == "auto" and kernels():
            self.forward = CpuForward(model, **sizes)
        else:
            self.forward = TorchForward(
                model, **sizes, batch_invariant=on_cpu if batch_invariant is None else batch_invariant
            )

    def trunk(self, works: list[Work]) -> Tensor:
        """(N, D) hidden states before the final norm, in the order of the works, drafts after known tokens."""
        token_ids: list[int] = []
        positions: list[int] = []
        table_rows: list[int] = []
        for work in works:
            sequence, start = work.sequence, work.start
            self._table(sequence)
            if work.num_tokens == 1:  # decoding: most rows of most steps
                token_ids.append(sequence.token_ids[start])
                positions.append(start)
                table_rows.append(sequence.row)
            else:
                token_ids += sequence.token_ids[start : start + work.num_tokens]
                positions += range(start, start + work.num_tokens)
                table_rows += [sequence.row] * work.num_tokens
            if work.num_drafts:
                first = start + work.num_tokens
                token_ids += sequence.draft_ids[: work.num_drafts]
                positions += range(first, first + work.num_drafts)
                table_rows += [sequence.row] * work.num_drafts
        return self.forward.trunk(Rows.of(token_ids, positions, table_rows, self.table_RJ, self.block_size))

    def draft(self, k: int, works: list[tuple[Sequence, int, int]], ahead_ids: list[int]) -> Tensor:
        """(N, D) output of MTP layer k (from 0), before its final norm, for slots start .. stop - 1 of each sequence.

        Args:
            works: sequence, start, stop.
            ahead_ids: for every slot i, in order, token i + 1 + k.
        """
        positions: list[int] = []
        table_rows: list[int] = []
        for sequence, start, stop in works:
            positions += range(start, stop)
            table_rows += [sequence.row] * (stop - start)
        return self.forward.draft(k, Rows.of(ahead_ids, positions, table_rows, self.table_RJ, self.block_size))

    def logits(self, hidden_ND: Tensor, rows_M: list[int], k: int = -1) -> Tensor:
        """(M, V) float32 logits of some rows of `trunk`, or of MTP layer k's `draft`."""
        return self.forward.logits(hidden_ND, rows_M, k)

    def seconds(self, num_rows: int, num_sampled: int, layer: int = -1) -> float:
        """Least time of three for a pass of the trunk, or of MTP layer `layer`, over rows that leave no trace."""
        columns = np.zeros((5, num_rows), dtype=np.int64)
        columns[3] = -1
        columns[4] = min(64, self.table_RJ.shape[1] * self.block_size)
        rows, found = Rows(columns), []
        for _ in range(3):
            self._wait()
            began = time.perf_counter()
            out_ND = self.forward.trunk(rows) if layer < 0 else self.forward.draft(layer, rows)
            self.forward.logits(out_ND, list(range(num_sampled)), layer)
            self._wait()
            found.append(time.perf_counter() - began)
            if found[0] > 0.1:
                break
        return min(found)

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _table(self, sequence: Sequence) -> None:
        """Bring the sequence's row of the block table up to date."""
        if sequence.num_tabled != len(sequence.blocks):
            self.table_RJ[sequence.row, : len(sequence.blocks)] = sequence.blocks
            sequence.num_tabled = len(sequence.blocks)


def _num_states(config: MiMoConfig, num_draft_layers: int) -> int:
    """Hidden states kept a position: the trunk's, and those of chained layers that another reads."""
    if not num_draft_layers:
        return 0
    return num_draft_layers if config.mtp_chained else 1
