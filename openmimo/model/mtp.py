"""The multi-token-prediction layer (MiMo 2.2), under the released checkpoint's names.

RMSNorm of the trunk's hidden state and RMSNorm of the ahead token's embedding, concatenated [hidden, embedding]
(decision 0014), projected to the hidden size, one transformer block; after a final norm, which
`MiMo.draft_normed` applies, the trunk's own head reads the result. The layer reads whatever hidden state it is given:
the trunk's (parallel layers, as in the paper, decision 0015) or the layer's before it (chained, decision 0036).
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from openmimo.model.config import MiMoConfig


class MTPLayer(nn.Module):
    def __init__(self, config: MiMoConfig, block: nn.Module, norm: Callable[[int, float], nn.Module]) -> None:
        super().__init__()
        self.layer: int = block.layer  # type: ignore[assignment]
        self.token_layernorm: nn.Module = norm(config.hidden_size, config.rms_norm_eps)
        self.hidden_layernorm = norm(config.hidden_size, config.rms_norm_eps)
        self.input_proj = nn.Linear(2 * config.hidden_size, config.hidden_size, bias=False)
        self.input_layernorm: nn.Module = block.input_layernorm  # type: ignore[assignment]
        self.self_attn: nn.Module = block.self_attn  # type: ignore[assignment]
        self.post_attention_layernorm: nn.Module = block.post_attention_layernorm  # type: ignore[assignment]
        self.mlp: nn.Module = block.mlp  # type: ignore[assignment]
        self.final_layernorm = norm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        hidden_BTD: Tensor,
        ahead_BTD: Tensor,
        rope: tuple[Tensor, Tensor],
        attend: Callable[[int, Tensor, Tensor, Tensor], Tensor],
    ) -> Tensor:
        """(B, T, D): the block's output, before `final_layernorm`."""
        joined = torch.cat((self.hidden_layernorm(hidden_BTD), self.token_layernorm(ahead_BTD)), dim=-1)
        x_BTD = self.input_proj(joined)
        x_BTD = x_BTD + self.self_attn(self.input_layernorm(x_BTD), rope, self.layer, attend)
        return x_BTD + self.mlp(self.post_attention_layernorm(x_BTD))
