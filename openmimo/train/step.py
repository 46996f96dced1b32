"""One step for everything trainable: pre-training, SFT and RL differ by the loss passed in."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.distributed.tensor import DTensor

from openmimo.mesh import Mesh
from openmimo.model.hf import save_folder
from openmimo.model.mimo import MiMo
from openmimo.model.parallel import load_whole_state_dict, whole_state_dict
from openmimo.train.compute import Worker
from openmimo.train.guard import Guard, GuardConfig
from openmimo.train.loss import Loss
from openmimo.train.optim import Optimizer
from openmimo.types import Batch


@dataclass
class TrainState:
    model: MiMo
    """The weights that are trained."""
    optimizer: Optimizer
    worker: Worker = None  # type: ignore[assignment]
    """What losses are computed with; by default the model itself."""
    guard: Guard = field(default_factory=lambda: Guard(GuardConfig(sigmas=0.0, patience=1 << 60)))
    """By default only gradients that are not finite are left out, and as often as they come."""
    step: int = 0
    tokens: int = 0
    """Slots trained on so far, padding included: what schedules are functions of."""
    skipped: int = 0
    """Updates left out."""

    def __post_init__(self) -> None:
        if self.worker is None:
            self.worker = Worker(self.model)

    def state_dict(self) -> dict[str, Any]:
        """Whole tensors whatever the number of ranks. Every rank must call it; it is of use on rank 0 alone."""
        return {
            "model": whole_state_dict(self.model, keep=self.worker.mesh.is_main),
            "rope_theta": self.model.rope_theta,
            "optimizer": self.optimizer.state_dict(keep=self.worker.mesh.is_main),
            "guard": self.guard.state_dict(),
            "step": self.step,
            "tokens": self.tokens,
            "skipped": self.skipped,
            "rng": torch.get_rng_state(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        load_whole_state_dict(self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.guard.load_state_dict(state["guard"])
        self.step, self.tokens, self.skipped = state["step"], state["tokens"], state["skipped"]
        torch.set_rng_state(state["rng"])
        self.use_rope(state["rope_theta"])
        self.worker.refresh()

    def save(self, folder: Path, *, tokenizer_from: Path) -> None:
        """Write the model as a Hugging Face folder; every rank must call it, rank 0 writes."""
        mesh = self.worker.mesh
        tensors = whole_state_dict(self.model, keep=mesh.is_main)
        if mesh.is_main:
            whole = MiMo.skeleton(self.model.config)
            whole.load_state_dict(tensors, assign=True)
            whole.rope_theta = self.model.rope_theta
            save_folder(whole, folder, tokenizer_from=tokenizer_from)
        mesh.wait()

    def use_rope(self, theta: float) -> None:
        """The RoPE base from here on."""
        self.model.rope_theta = self.worker.model.rope_theta = theta


def train_step(
    state: TrainState, batch: Batch, loss: Loss, *, learning_rate: float, micro_rows: int = 0, num_rows: int = 0
) -> dict[str, float]:
    """Forward, backward, clip, update. The loss is a sum; its gradient is divided by the batch's total weight.

    With several ranks each brings its rows of the global batch, as many as it has: sums, gradients and the decision to
    update are global.

    Args:
        batch: (R, T), this rank's rows; with micro_rows > 0 it is taken that many rows at a time, which changes
            memory, not the result.
        num_rows: rows of the global batch; 0: `batch` is all of it.

    Returns:
        `loss` and the loss's own metrics, per target; `grad_norm` before clipping; `learning_rate`; `skipped_update`,
        1 where the guard left the update out.
    """
    worker, device = state.worker, next(state.model.parameters()).device
    mesh, length, every_row = worker.mesh, batch.token_ids.shape[1], num_rows or len(batch.token_ids)
    weight = torch.tensor(float(batch.loss_weights.sum()), dtype=torch.float64, device=device)
    total_weight = float(mesh.sum(weight))
    most = -(-every_row // mesh.world_size)
    batch = _filled(batch, most)  # ranks take equally many passes: a sharded model needs all of them in each
    sums: dict[str, Any] = {}
    for start in range(0, most, micro_rows or most):
        part = on_device(batch, device, slice(start, start + (micro_rows or most)))
        value, metrics = loss(worker.model, part)
        (value / max(total_weight, 1.0)).backward()
        for name, metric in {"loss": value.detach(), **metrics}.items():
            sums[name] = _plus(sums[name], metric) if name in sums else metric
    worker.reduce_gradients()
    summed = _averages(sums, total_weight, mesh)
    clipped = torch.nn.utils.clip_grad_norm_(state.model.parameters(), state.optimizer.config.clip)
    norm = float(clipped.full_tensor() if isinstance(clipped, DTensor) else clipped)
    reason = state.guard.skips(summed.get("ce", summed["loss"]), norm)
    if reason:
        state.model.zero_grad(set_to_none=True)
        state.skipped += 1
    else:
        state.optimizer.step(learning_rate)
        worker.refresh()
    state.step += 1
    state.tokens += every_row * length
    return {
        **summed,
        "grad_norm": norm,
        "learning_rate": learning_rate,
        "targets": total_weight,
        "skipped_update": float(bool(reason)),
    }


def on_device(batch: Batch, device: torch.device, rows: slice = slice(None)) -> Batch:
    """The batch's rows as tensors on `device`."""
    fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    return Batch(**{k: None if v is None else torch.as_tensor(v[rows]).to(device) for k, v in fields.items()})


def _filled(batch: Batch, rows: int) -> Batch:
    """The batch with empty rows after its own, `rows` in all."""
    missing = rows - len(batch.token_ids)
    if missing <= 0:
        return batch
    empty = {"document_ids": -1, "sequence_ids": -1}

    def fill(name: str, values: Any) -> Any:
        if values is None:
            return None
        values = np.asarray(values)
        return np.concatenate([values, np.full((missing, *values.shape[1:]), empty.get(name, 0), values.dtype)])

    return Batch(**{f.name: fill(f.name, getattr(batch, f.name)) for f in dataclasses.fields(batch)})


def _plus(a: Any, b: Any) -> Any:
    return tuple(x + y for x, y in zip(a, b, strict=True)) if isinstance(a, tuple) else a + b


def _averages(sums: dict[str, Any], total_weight: float, mesh: Mesh) -> dict[str, float]:
    """Sums over ranks by their weights; what has no weight at all is left out."""
    if not sums:
        return {}
    pairs = {name: x if isinstance(x, tuple) else (x, torch.zeros_like(x)) for name, x in sums.items()}
    table_M2 = mesh.sum(torch.stack([torch.stack([x.double(), w.double()]) for x, w in pairs.values()]))
    found = {}
    for (name, x), (value, weight) in zip(sums.items(), table_M2.tolist(), strict=True):
        divisor = weight if isinstance(x, tuple) else max(total_weight, 1.0)
        if divisor != 0:
            found[name] = value / divisor
    return found
