"""The model over its caches: rows in, hidden states and logits out (MiMo 2.2).

Beside keys and values the trunk's hidden states are kept, in the same blocks, when MTP layers draft: layer k's slot i
can be finished only once token i + 1 + k is known, steps after the trunk computed position i.

Shapes: N = rows (padded), M = rows with logits (padded), D = hidden size, V = vocabulary without forbidden ids.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from openmimo.engine.attention import ROW_MULTIPLE, PagedCache, Rows
from openmimo.engine.scheduler import Work
from openmimo.engine.sequence import Sequence
from openmimo.model.config import MiMoConfig
from openmimo.model.mimo import MiMo


def bytes_per_block(config: MiMoConfig, block_size: int, num_draft_layers: int, dtype: torch.dtype) -> int:
    """Memory of one block: keys and values of every layer, and hidden states when MTP layers draft."""
    per_position = 2 * (config.num_hidden_layers + num_draft_layers) * config.num_key_value_heads * config.head_dim
    per_position += config.hidden_size if num_draft_layers else 0
    return per_position * block_size * dtype.itemsize


class Runner:
    """Owns the cache tensors and the block table."""

    def __init__(
        self,
        model: MiMo,
        *,
        num_blocks: int,
        block_size: int,
        num_table_rows: int,
        max_model_len: int,
        num_draft_layers: int,
    ) -> None:
        config = model.config
        weight = model.lm_head.weight
        self.model = model
        self.block_size = block_size
        self.device = weight.device
        self.table_RJ = np.zeros((num_table_rows, -(-max_model_len // block_size)), dtype=np.int32)
        self.cache = PagedCache(
            config.num_hidden_layers + num_draft_layers,
            num_blocks,
            block_size,
            config.num_key_value_heads,
            config.head_dim,
            dtype=weight.dtype,
            device=self.device,
            table_RJ=self.table_RJ,
        )
        self.hidden: Tensor | None = None
        if num_draft_layers:
            shape = (num_blocks * block_size, config.hidden_size)
            self.hidden = torch.zeros(shape, dtype=weight.dtype, device=self.device)

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
        rows = Rows.of(token_ids, positions, table_rows, self.table_RJ, self.block_size)
        hidden_ND = self.model(
            self._tensor(rows.token_ids_N)[None], self._tensor(rows.positions_N)[None], self.cache.attend(rows)
        )[0]
        if self.hidden is not None:
            self.hidden[self._tensor(rows.slots_N[: len(token_ids)])] = hidden_ND[: len(token_ids)]
        return hidden_ND

    def logits(self, hidden_ND: Tensor, rows_M: list[int]) -> Tensor:
        """(M, V) float32 next-token logits of some rows of `trunk`, M padded to a multiple of ROW_MULTIPLE."""
        hidden_MD = hidden_ND[self._padded(rows_M)]
        return self.model.logits(hidden_MD[None])[0].float()

    def draft_logits(
        self, k: int, works: list[tuple[Sequence, int, int]], ahead_ids: list[int], rows_M: list[int]
    ) -> Tensor | None:
        """Run MTP layer k (from 0) over slots start .. stop - 1 of each sequence.

        Args:
            works: sequence, start, stop.
            ahead_ids: for every slot i, in order, token i + 1 + k.
            rows_M: the rows whose draft logits are wanted.

        Returns:
            (M, V) float32, or None when no rows were asked for.
        """
        assert self.hidden is not None
        positions: list[int] = []
        table_rows: list[int] = []
        for sequence, start, stop in works:
            positions += range(start, stop)
            table_rows += [sequence.row] * (stop - start)
        rows = Rows.of(ahead_ids, positions, table_rows, self.table_RJ, self.block_size)
        hidden_ND = self.hidden[self._tensor(np.maximum(rows.slots_N, 0))]
        draft_ND = self.model.draft_hidden(
            k,
            hidden_ND[None],
            self._tensor(rows.token_ids_N)[None],
            self._tensor(rows.positions_N)[None],
            self.cache.attend(rows),
        )[0]
        if not rows_M:
            return None
        return self.model.lm_head(self.model.draft_normed(k, draft_ND[self._padded(rows_M)])).float()

    def _table(self, sequence: Sequence) -> None:
        """Bring the sequence's row of the block table up to date."""
        if sequence.num_tabled != len(sequence.blocks):
            self.table_RJ[sequence.row, : len(sequence.blocks)] = sequence.blocks
            sequence.num_tabled = len(sequence.blocks)

    def _padded(self, rows: list[int]) -> Tensor:
        padding = -len(rows) % ROW_MULTIPLE
        return self._tensor(np.asarray(rows + rows[:1] * padding, dtype=np.int64))

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)
