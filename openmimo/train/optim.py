"""Optimizers, and schedules as functions of TOKENS, never of steps (MiMo 2.3, decision 0018)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.optim.adamw import adamw as adamw_step

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
    offload: bool = False
    """AdamW's state rests in main memory and visits the device a parameter at a time; the numbers are the same. 8 bytes
    a parameter less on the device, and twice as many moved over the bus each step. Ours."""


class Optimizer:
    """AdamW, or Muon with AdamW: one learning rate in, one state out."""

    def __init__(self, model: nn.Module, config: OptimConfig) -> None:
        if config.offload and config.kind != "adamw":
            raise ValueError(f"optim.offload keeps AdamW's state; optim.kind must be adamw, got {config.kind}")
        self.config = config
        adamw = OffloadedAdamW if config.offload else torch.optim.AdamW
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        matrices = [p for n, p in named if _is_matrix(n, p)] if config.kind == "muon" else []
        taken = {id(p) for p in matrices}
        rest = [(n, p) for n, p in named if id(p) not in taken]
        decayed = [p for n, p in rest if p.dim() > 1]
        plain = [p for n, p in rest if p.dim() <= 1]
        groups = [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.parts: list[torch.optim.Optimizer] = [
            adamw(groups, lr=0.0, betas=config.betas, eps=config.eps, fused=True)
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
            if isinstance(part, OffloadedAdamW):
                part.rest()


class OffloadedAdamW(torch.optim.AdamW):
    """AdamW whose state rests in main memory, pinned where the parameters are on a GPU.

    `step` takes one parameter's state to its device, runs the same kernel there and brings it back.
    """

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["step"] = torch.zeros(())
                    for name in ("exp_avg", "exp_avg_sq"):
                        state[name] = _resting(torch.zeros(parameter.shape, dtype=parameter.dtype), parameter)
                there = {name: value.to(parameter.device) for name, value in state.items()}
                adamw_step(
                    [parameter],
                    [parameter.grad],
                    [there["exp_avg"]],
                    [there["exp_avg_sq"]],
                    [],
                    [there["step"]],
                    fused=True,
                    amsgrad=False,
                    beta1=group["betas"][0],
                    beta2=group["betas"][1],
                    lr=group["lr"],
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    maximize=False,
                )
                for name, value in there.items():
                    if value is not state[name]:
                        state[name].copy_(value)

    def rest(self) -> None:
        """Bring all state back to main memory: torch loads it to where the parameters are."""
        for parameter, state in self.state.items():
            for name, value in state.items():
                state[name] = _resting(value.cpu(), parameter)


def _resting(value: torch.Tensor, parameter: torch.Tensor) -> torch.Tensor:
    return value.pin_memory() if parameter.is_cuda else value


def _is_matrix(name: str, parameter: nn.Parameter) -> bool:
    return parameter.dim() == 2 and "embed_tokens" not in name and "lm_head" not in name
