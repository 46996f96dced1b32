"""The MiMo decoder (MiMo 2.2), under the released checkpoint's parameter names.

Shapes: B = rows, T = positions, D = hidden size, H = query heads, K = key-value heads, E = head dim, V = vocabulary.

The model knows nothing of how attention is stored: `attend(layer, q_BTHE, k_BTKE, v_BTKE) -> o_BTHE` is given by the
caller, dense and document-masked in training (`model.attention`), over a paged cache in the engine. Layers are numbered
0 .. num_hidden_layers - 1 in the trunk; MTP layer k is num_hidden_layers + k.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from openmimo.model.config import MiMoConfig
from openmimo.model.mtp import MTPLayer

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


class RMSNorm(nn.Module):
    def __init__(self, hidden_size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, (x.shape[-1],), self.weight, self.eps)


class Attention(nn.Module):
    """Grouped-query attention with biased q, k, v and RoPE; the attending itself is the caller's."""

    def __init__(self, config: MiMoConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        q_out, kv_out = (
            config.num_attention_heads * config.head_dim,
            config.num_key_value_heads * config.head_dim,
        )
        self.q_proj = nn.Linear(config.hidden_size, q_out, bias=config.attention_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_out, bias=config.attention_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_out, bias=config.attention_bias)
        self.o_proj = nn.Linear(q_out, config.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor, rope: tuple[Tensor, Tensor], layer: int, attend: Attend) -> Tensor:
        heads = (*x_BTD.shape[:2], -1, self.head_dim)
        q_BTHE = rotate(self.q_proj(x_BTD).view(heads), rope)
        k_BTKE = rotate(self.k_proj(x_BTD).view(heads), rope)
        v_BTKE = self.v_proj(x_BTD).view(heads)
        return self.o_proj(attend(layer, q_BTHE, k_BTKE, v_BTKE).flatten(2))


class MLP(nn.Module):
    def __init__(self, config: MiMoConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x_BTD: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x_BTD)) * self.up_proj(x_BTD))


class Block(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, config: MiMoConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.self_attn = Attention(config)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = MLP(config)

    def forward(self, x_BTD: Tensor, rope: tuple[Tensor, Tensor], attend: Attend) -> Tensor:
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), rope, self.layer, attend)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))


class Trunk(nn.Module):
    """What the released checkpoint calls `model.`: embedding, blocks, final norm, MTP layers."""

    def __init__(self, config: MiMoConfig) -> None:
        super().__init__()
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, n) for n in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        if config.num_nextn_predict_layers:
            self.mtp_layers = nn.ModuleList(
                MTPLayer(config, Block(config, config.num_hidden_layers + k), RMSNorm)
                for k in range(config.num_nextn_predict_layers)
            )


class MiMo(nn.Module):
    """MiMoForCausalLM; with num_nextn_predict_layers = 0 it is Qwen2ForCausalLM.

    `rope_theta` is an attribute, not a constant: stage 3 of pre-training raises it mid-run (MiMo 2.3).
    """

    def __init__(self, config: MiMoConfig) -> None:
        super().__init__()
        self.config = config
        self.rope_theta = config.rope_theta
        self.model = Trunk(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        if config.tie_word_embeddings:
            self.lm_head.weight = self.model.embed_tokens.weight

    @classmethod
    def skeleton(cls, config: MiMoConfig) -> MiMo:
        """A model whose tensors have a shape and no memory, to be given others by `load_state_dict(assign=True)`."""
        with torch.device("meta"), _Uninitialized():
            return cls(config)

    def init_weights(self, generator: torch.Generator) -> MiMo:
        """Normal(0, initializer_range) for matrices, zero biases, unit norms; drawn in parameter order."""
        with torch.no_grad():
            for parameter in self.parameters():
                if parameter.dim() > 1:
                    parameter.normal_(0.0, self.config.initializer_range, generator=generator)
            for name, parameter in self.named_parameters():
                if parameter.dim() == 1:
                    parameter.fill_(0.0 if name.endswith("bias") else 1.0)
        return self

    def forward(self, token_ids_BT: Tensor, positions_BT: Tensor, attend: Attend) -> Tensor:
        """Hidden states (B, T, D) BEFORE the final norm: what `logits` and `draft_hidden` read."""
        rope = self.rope(positions_BT)
        x_BTD = self.model.embed_tokens(token_ids_BT)
        for block in self.model.layers:
            x_BTD = block(x_BTD, rope, attend)
        return x_BTD

    def normed(self, hidden_BTD: Tensor) -> Tensor:
        """The trunk's output after its final norm: multiply by `lm_head.weight` for logits."""
        return self.model.norm(hidden_BTD)

    def logits(self, hidden_BTD: Tensor) -> Tensor:
        """Next-token logits (B, T, V) of the trunk."""
        return self.lm_head(self.normed(hidden_BTD))

    def draft_hidden(
        self, k: int, hidden_BTD: Tensor, ahead_ids_BT: Tensor, positions_BT: Tensor, attend: Attend
    ) -> Tensor:
        """MTP layer k (from 0): its output (B, T, D) before `final_layernorm`; `draft_normed` goes on from there.

        Args:
            hidden_BTD: the trunk's hidden state h_t before its final norm (decision 0013); with `config.mtp_chained`
                and k > 0, what this function gave for layer k - 1 at the same slot.
            ahead_ids_BT: token x_(t+1+k) at slot t; the layer then predicts x_(t+2+k) (decision 0015).
            positions_BT: the slot's own position t.
        """
        if self.config.mtp_hidden == "normed":
            chained = self.config.mtp_chained and k > 0
            hidden_BTD = self.draft_normed(k - 1, hidden_BTD) if chained else self.normed(hidden_BTD)
        ahead_BTD = self.model.embed_tokens(ahead_ids_BT)
        return self.model.mtp_layers[k](hidden_BTD, ahead_BTD, self.rope(positions_BT), attend)

    def draft_normed(self, k: int, x_BTD: Tensor) -> Tensor:
        """`draft_hidden` of layer k after the layer's final norm: multiply by `lm_head.weight` for draft logits."""
        layer: MTPLayer = self.model.mtp_layers[k]  # type: ignore[assignment]
        return layer.final_layernorm(x_BTD)

    def rope(self, positions_BT: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin, each (B, T, 1, E), float32."""
        half = torch.arange(0, self.config.head_dim, 2, dtype=torch.float32, device=positions_BT.device)
        frequencies = self.rope_theta ** (-half / self.config.head_dim)
        angles = positions_BT[..., None].float() * frequencies
        angles = torch.cat((angles, angles), dim=-1)[:, :, None, :]
        return angles.cos(), angles.sin()


class _Uninitialized(TorchFunctionMode):
    """Leaves out what modules do to fresh weights: on meta tensors it does nothing and imports seconds of compiler."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", "") == "torch.nn.init":
            return kwargs.get("tensor", args[0] if args else None)
        return func(*args, **kwargs)


def rotate(x_BTHE: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotary position embedding, the half-split layout of Qwen2 and Llama."""
    cos, sin = rope
    first, second = x_BTHE.chunk(2, dim=-1)
    turned = torch.cat((-second, first), dim=-1)
    return (x_BTHE * cos + turned * sin).to(x_BTHE.dtype)
