"""One step for everything trainable: pre-training, SFT and RL differ by the loss passed in."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import torch

from openmimo.model.mimo import MiMo
from openmimo.train.loss import Loss
from openmimo.train.optim import Optimizer
from openmimo.types import Batch


@dataclass
class TrainState:
    model: MiMo
    optimizer: Optimizer
    step: int = 0
    tokens: int = 0
    """Slots trained on so far, padding included: what schedules are functions of."""
    skipped: int = 0
    """Updates left out because the gradient was not finite."""

    def state_dict(self) -> dict[str, Any]:
        return {
            "model": self.model.state_dict(),
            "rope_theta": self.model.rope_theta,
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "tokens": self.tokens,
            "skipped": self.skipped,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.model.rope_theta = state["rope_theta"]
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.tokens, self.skipped = state["step"], state["tokens"], state["skipped"]


def train_step(
    state: TrainState, batch: Batch, loss: Loss, *, learning_rate: float, micro_rows: int = 0
) -> dict[str, float]:
    """Forward, backward, clip, update. The loss is a sum; its gradient is divided by the batch's total weight.

    Args:
        batch: (R, T); with micro_rows > 0 it is taken that many rows at a time, which changes memory, not the result.

    Returns:
        `loss` and the loss's own metrics, per target; `grad_norm` before clipping; `learning_rate`.
    """
    model, device = state.model, next(state.model.parameters()).device
    total_weight = float(batch.loss_weights.sum())
    sums: dict[str, float] = {}
    rows = batch.token_ids.shape[0]
    for start in range(0, rows, micro_rows or rows):
        part = on_device(batch, device, slice(start, start + (micro_rows or rows)))
        value, metrics = loss(model, part)
        (value / max(total_weight, 1.0)).backward()
        for name, metric in {"loss": value.detach(), **metrics}.items():
            sums[name] = sums.get(name, 0.0) + float(metric)
    norm = float(torch.nn.utils.clip_grad_norm_(model.parameters(), state.optimizer.config.clip))
    if math.isfinite(norm):
        state.optimizer.step(learning_rate)
    else:
        model.zero_grad(set_to_none=True)
        state.skipped += 1
    state.step += 1
    state.tokens += rows * batch.token_ids.shape[1]
    per_target = {name: value / max(total_weight, 1.0) for name, value in sums.items()}
    return {**per_target, "grad_norm": norm, "learning_rate": learning_rate, "targets": total_weight}


def on_device(batch: Batch, device: torch.device, rows: slice = slice(None)) -> Batch:
    """The batch's rows as tensors on `device`."""
    fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    return Batch(**{k: None if v is None else torch.as_tensor(v[rows]).to(device) for k, v in fields.items()})
