"""Optimizers, and schedules as functions of TOKENS, never of steps (MiMo 2.3, decision 0018)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from openmimo.model.parallel import like, whole


@dataclass(frozen=True)
class Piece:
    """One piece of a schedule, from where the last one ended up to `until_tokens`."""

    until_tokens: float
    value: float
    """The value reached at the piece's end."""
    shape: Literal["constant", "linear", "cosine"] = "constant"


def at_tokens(pieces: tuple[Piece, ...], tokens: float, start: float = 0.0) -> float:
    """Value of a schedule after `tokens` tokens; a constant piece holds its value from its first token.

    Beyond the last piece the last value holds. `start` is the value at token 0.
    """
    began, value = 0.0, start
    for piece in pieces:
        if tokens < piece.until_tokens:
            if piece.shape == "constant":
                return piece.value
            share = (tokens - began) / (piece.until_tokens - began)
            if piece.shape == "cosine":
                share = 0.5 - 0.5 * math.cos(math.pi * share)
            return value + (piece.value - value) * share
        began, value = piece.until_tokens, piece.value
    return value


@dataclass(frozen=True)
class OptimConfig:
    kind: Literal["adamw", "muon"] = "adamw"
    """`muon`: Muon on the blocks' matrices, AdamW on embeddings, head, norms and biases."""
    betas: tuple[float, float] = (0.9, 0.95)  # MiMo 2.3
    weight_decay: float = 0.1  # MiMo 2.3
    eps: float = 1e-8
    clip: float = 1.0  # MiMo 2.3: gradient norm
    muon_ratio: float = 4.0
    """Muon's learning rate over AdamW's. Ours."""
    momentum: float = 0.95
    """Muon's momentum. Ours."""


class Optimizer:
    """AdamW, or Muon with AdamW: one learning rate in, one state out."""

    def __init__(self, model: nn.Module, config: OptimConfig) -> None:
        self.config = config
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        matrices = [p for n, p in named if _is_matrix(n, p)] if config.kind == "muon" else []
        taken = {id(p) for p in matrices}
        rest = [(n, p) for n, p in named if id(p) not in taken]
        decayed = [p for n, p in rest if p.dim() > 1]
        plain = [p for n, p in rest if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.parts: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(groups, lr=0.0, betas=config.betas, eps=config.eps, fused=True)
        ]
        if matrices:
            self.parts.append(
                torch.optim.Muon(matrices, lr=0.0, weight_decay=config.weight_decay, momentum=config.momentum)
            )

    def step(self, learning_rate: float) -> None:
        for part, ratio in zip(self.parts, (1.0, self.config.muon_ratio), strict=False):
            for group in part.param_groups:
                group["lr"] = learning_rate * ratio
            part.step()
            part.zero_grad(set_to_none=True)

    def state_dict(self, *, keep: bool = True) -> list[dict[str, Any]]:
        """Whole tensors, also of a sharded model; all ranks must call it, and `keep` says which want the result."""
        return [
            {
                "param_groups": part.state_dict()["param_groups"],
                "state": {
                    n: {name: whole(value, keep=keep) for name, value in values.items()}
                    for n, values in part.state_dict()["state"].items()
                },
            }
            for part in self.parts
        ]

    def load_state_dict(self, states: Iterable[dict[str, Any]]) -> None:
        for part, state in zip(self.parts, states, strict=True):
            parameters = [p for group in part.param_groups for p in group["params"]]
            spread = {
                n: {k: like(v, parameters[n]) if isinstance(v, torch.Tensor) else v for k, v in values.items()}
                for n, values in state["state"].items()
            }
            part.load_state_dict({**state, "state": spread})


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.dim() == 2 and "embed_tokens" not in name and "lm_head" not in name
