"""The forward pass on a CPU in float32, by kernels that compute every row by itself (MiMo 2.2, decision 0026).

The same arithmetic as `model.mimo`, block by block, with the weights packed for rows that come a few at a time. What a
row gets is the same, bit for bit, in any batch, chunk and verify width, without padding: see `_kernels.c`.
Threads are PyTorch's number; they share out whole sums, so their number changes no bit.
Left out: other dtypes and devices (`forward.TorchForward`).

Shapes as in `forward`; F = intermediate size.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from openmimo.engine.forward import Rows
from openmimo.log import say
from openmimo.model.mimo import MiMo

_PANEL = 64


@functools.cache
def kernels() -> Any:
    """The compiled module, or None, said once, where it has not been built."""
    try:
        from openmimo.engine import _kernels
    except ImportError:
        say(
            "engine: the compiled kernels are missing, so PyTorch's own are used: slower, and results depend on the "
            "batch in the last bit; install a C compiler and run `pip install .` again"
        )
        return None
    return _kernels


class CpuForward:
    """Owns the packed weights and the paged keys and values."""

    def __init__(
        self, model: MiMo, *, num_layers: int, num_states: int, num_blocks: int, table_RJ: np.ndarray, block_size: int
    ) -> None:
        config = model.config
        heads = (num_layers, num_blocks, config.num_key_value_heads)
        self.model = model
        self.keys = np.zeros((*heads, config.head_dim, block_size), dtype=np.float32)
        self.values = np.zeros((*heads, block_size, config.head_dim), dtype=np.float32)
        self.states = np.zeros((num_states, num_blocks * block_size, config.hidden_size), dtype=np.float32)
        self._states = [state.ctypes.data for state in self.states]
        self._table = table_RJ  # the runner writes into it
        assert table_RJ.dtype == np.int32 and table_RJ.flags.c_contiguous
        positions = torch.arange(table_RJ.shape[1] * block_size)
        with torch.no_grad():
            cos, sin = (half[0, :, 0, : config.head_dim // 2].contiguous() for half in model.rope(positions[None]))
        self._rope = (cos, sin)
        self._rest = (
            model.model.embed_tokens.weight.data_ptr(), self.keys.ctypes.data, self.values.ctypes.data,
            self.keys[0].nbytes, cos.data_ptr(), sin.data_ptr(), table_RJ.ctypes.data, config.hidden_size,
            config.intermediate_size, config.num_attention_heads, config.num_key_value_heads, config.head_dim,
            block_size, table_RJ.shape[1],
        )  # fmt: skip
        self._buffers = _Buffers.of(model, 0, self._rest)
        self._logits = torch.empty(0, config.vocab_size)
        self.refresh()

    def refresh(self) -> None:
        trunk = self.model.model
        self._blocks = _Blocks.of(trunk.layers)
        self._final_norm = trunk.norm.weight.data_ptr()
        self._drafts: list[_Draft] = []
        for k, layer in enumerate(getattr(trunk, "mtp_layers", ())):
            chained = self.model.config.mtp_chained and k > 0
            norm = self._drafts[-1].final_norm if chained else self._final_norm
            self._drafts.append(_Draft.of(layer, norm if self.model.config.mtp_hidden == "normed" else 0))
        self._head = _Packed.of(self.model.lm_head.weight)

    def trunk(self, rows: Rows) -> Tensor:
        return self._run(self._blocks, 0, rows, states_out=self._states[0] if self._states else 0)

    def draft(self, k: int, rows: Rows) -> Tensor:
        """As `MiMo.draft_hidden`, over the states in the rows' slots."""
        layer, chained = self._drafts[k], self.model.config.mtp_chained
        return self._run(
            layer.block,
            self.model.config.num_hidden_layers + k,
            rows,
            join=layer.join.ctypes.data,
            states_in=self._states[k if chained else 0],
            states_out=self._states[k + 1] if k + 1 < len(self._states) else 0,
        )

    def logits(self, hidden_ND: Tensor, rows_M: list[int], k: int = -1) -> Tensor:
        config, count = self.model.config, len(rows_M)
        hidden_ND = hidden_ND.contiguous()
        if self._logits.shape[0] < count:
            self._logits = torch.empty(count, config.vocab_size)
        norm = self._final_norm if k < 0 else self._drafts[k].final_norm
        chosen_M = np.array(rows_M, dtype=np.int64)
        kernels().logits(
            hidden_ND.data_ptr(), chosen_M.ctypes.data, norm, int(self._room(count).room[1]), self._head.address,
            self._logits.data_ptr(), count, config.hidden_size, config.vocab_size, config.rms_norm_eps,
            torch.get_num_threads(),
        )  # fmt: skip
        return self._logits[:count]

    def _run(
        self, blocks: _Blocks, first: int, rows: Rows, *, join: int = 0, states_in: int = 0, states_out: int = 0
    ) -> Tensor:
        """Blocks, one after another, as `model.mimo.Block`."""
        count = len(rows)
        buffers = self._room(count)
        kernels().forward(
            buffers.room.ctypes.data, blocks.addresses.ctypes.data, len(blocks.addresses), first, join, states_in,
            states_out, rows.columns_5N.ctypes.data, count, self.model.config.rms_norm_eps, torch.get_num_threads(),
        )  # fmt: skip
        return buffers.x[:count]

    def _room(self, count: int) -> _Buffers:
        if self._buffers.x.shape[0] < count:
            self._buffers = _Buffers.of(self.model, max(count, 2 * self._buffers.x.shape[0]), self._rest)
        return self._buffers


@dataclass(slots=True)
class _Packed:
    """Weights (outputs, inputs), input by input for 64 outputs at a time, and a bias."""

    packed: Tensor
    bias: Tensor | None
    address: int
    bias_address: int

    @classmethod
    def of(cls, *weights: Tensor, biases: tuple[Tensor, ...] = ()) -> _Packed:
        """Several products of the same inputs as one."""
        weight = torch.cat([w.detach() for w in weights]) if len(weights) > 1 else weights[0].detach().contiguous()
        outputs, inputs = weight.shape
        packed = torch.empty(-(-outputs // _PANEL) * _PANEL * inputs)
        kernels().pack(weight.data_ptr(), packed.data_ptr(), outputs, inputs)
        bias = torch.cat([b.detach() for b in biases]) if biases else None
        return cls(packed, bias, packed.data_ptr(), 0 if bias is None else bias.data_ptr())


@dataclass(slots=True)
class _Blocks:
    """Packed weights of transformer blocks, and where they and the norms lie."""

    matrices: list[_Packed]
    addresses: np.ndarray
    """int64, a row a block: `Block` of `_kernels.c`."""

    @classmethod
    def of(cls, blocks: Any) -> _Blocks:
        """Of `Block`s, or of `MTPLayer`s, which have the same parts."""
        matrices, addresses = [], []
        for block in blocks:
            attention, mlp = block.self_attn, block.mlp
            parts = (attention.q_proj, attention.k_proj, attention.v_proj)
            biases = tuple(part.bias for part in parts if part.bias is not None)
            qkv = _Packed.of(*(part.weight for part in parts), biases=biases)
            output = _Packed.of(attention.o_proj.weight)
            gate_up = _Packed.of(mlp.gate_proj.weight, mlp.up_proj.weight)
            down = _Packed.of(mlp.down_proj.weight)
            matrices += [qkv, output, gate_up, down]
            norms = (block.input_layernorm.weight.data_ptr(), block.post_attention_layernorm.weight.data_ptr())
            addresses.append((qkv.address, qkv.bias_address, output.address, gate_up.address, down.address, *norms))
        return cls(matrices, np.array(addresses, dtype=np.int64))


@dataclass(slots=True)
class _Draft:
    """An MTP layer's own parts around its block."""

    block: _Blocks
    projection: _Packed
    join: np.ndarray
    """int64: `Join` of `_kernels.c`."""
    final_norm: int

    @classmethod
    def of(cls, layer: Any, state_norm: int) -> _Draft:
        """
        Args:
            state_norm: address of the norm that the states it reads go through first; 0 is none.
        """
        projection = _Packed.of(layer.input_proj.weight)
        norms = (layer.hidden_layernorm.weight.data_ptr(), layer.token_layernorm.weight.data_ptr())
        join = np.array([projection.address, *norms, state_norm], dtype=np.int64)
        return cls(_Blocks.of([layer]), projection, join, layer.final_layernorm.weight.data_ptr())


@dataclass(slots=True)
class _Buffers:
    """Room for so many rows between kernels."""

    x: Tensor
    others: list[Tensor]
    room: np.ndarray
    """int64: `Room` of `_kernels.c`."""

    @classmethod
    def of(cls, model: MiMo, rows: int, rest: tuple[int, ...]) -> _Buffers:
        """
        Args:
            rest: of the room, what comes after the buffers.
        """
        config = model.config
        hidden, inner = config.hidden_size, config.intermediate_size
        queries, both = config.num_attention_heads, config.num_attention_heads + 2 * config.num_key_value_heads
        widths = (hidden, hidden, both * config.head_dim, queries * config.head_dim, 2 * inner, inner, 2 * hidden)
        x, *others = (torch.empty(rows, width) for width in widths)
        room = np.array([*(buffer.data_ptr() for buffer in (x, *others)), *rest], dtype=np.int64)
        return cls(x, others, room)
