"""Supervised fine-tuning (MiMo 3.1): packed rows, loss on the assistant's tokens, MTP trained too.

Rows are fitted once and shuffled every epoch. Left out: what makes conversations into samples, `data/sft.py`.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from openmimo import checkpoint
from openmimo.data.pack import Sample, fit_rows, stack
from openmimo.log import Log, progress, say
from openmimo.mesh import Mesh
from openmimo.model.mimo import MiMo
from openmimo.stop import Stopped, StopSignal
from openmimo.train.compute import ComputeConfig, Worker
from openmimo.train.guard import Guard, GuardConfig
from openmimo.train.loss import next_token_loss
from openmimo.train.optim import OptimConfig, Optimizer
from openmimo.train.pretrain import perplexities
from openmimo.train.step import TrainState, train_step
from openmimo.types import Batch


@dataclass(frozen=True)
class SFTConfig:
    """Defaults are MiMo 3.1's figures."""

    learning_rate: float = 3e-5  # MiMo 3.1: constant
    warmup_steps: int = 0
    """Steps of linear warm-up. Ours, for fresh optimizer state; MiMo names none."""
    batch_rows: int = 128  # MiMo 3.1, decision 0021: packed rows
    context: int = 32_768  # MiMo 3.1
    epochs: float = 1.0
    """Passes over the samples. Ours; MiMo names no number."""
    mtp_weight: float = 0.1
    """Weight of the MTP loss, as at the end of pre-training."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    micro_rows: int = 0
    """Rows that go through the model at a time; 0 is all."""
    chunk_tokens: int = 0
    """Slots whose logits exist at one time; 0: as `train.loss.chunk_of` says."""
    checkpoint_every: int = 100
    keep_last: int = 2
    validate_every: int = 0
    """Steps between two looks at held-out conversations, if there are any; 0: one at the end."""

    def __post_init__(self) -> None:
        for name, least in (("batch_rows", 1), ("context", 2), ("checkpoint_every", 1), ("micro_rows", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"sft.{name} must be at least {least}, got {getattr(self, name)}")
        if not self.epochs > 0:
            raise ValueError(f"sft.epochs must be above 0, got {self.epochs}")


def finetune(
    model: MiMo,
    samples: Sequence[Sample],
    config: SFTConfig,
    *,
    seed: int,
    out: Path,
    checkpoints: Path,
    mesh: Mesh | None = None,
    held_out: Mapping[str, Batch] | None = None,
) -> TrainState:
    """Train on the samples for `epochs`, from the newest checkpoint if there is one.

    The rows of epoch e are a function of (samples, seed, e), so a resumed run sees the same ones, on any number of
    ranks.

    Args:
        held_out: by name, rows that are not trained on; their perplexity is logged.

    Raises:
        ValueError: without samples, or when too many updates in a row were left out.
        Stopped: after SIGTERM, with all saved.
    """
    if not samples:
        raise ValueError("no SFT samples are left to train on; 0 is too few, look at the counts of the preparation")
    mesh = mesh or Mesh()
    worker = Worker(model, config.compute, mesh)
    state = TrainState(model, Optimizer(model, config.optim), worker, Guard(config.guard))
    saved = checkpoint.latest(checkpoints, tell=say)
    if saved:
        state.load_state_dict(saved["train"])
    plan = _plan(samples, config, seed)
    loss = next_token_loss(mtp_weight=config.mtp_weight, chunk_tokens=config.chunk_tokens)
    with (
        StopSignal() as signal,
        checkpoint.Writer(checkpoints, keep_last=config.keep_last, writes=mesh.is_main) as writer,
        Log(out, "sft", state.step, writes=mesh.is_main) as log,
    ):
        for rows in progress(plan[state.step :], "sft", unit="steps"):
            started = time.perf_counter()
            batch = stack([[samples[i] for i in row] for row in rows[mesh.share(len(rows))]], config.context)
            warm = min(1.0, (state.step + 1) / config.warmup_steps) if config.warmup_steps else 1.0
            metrics = train_step(
                state,
                batch,
                loss,
                learning_rate=config.learning_rate * warm,
                micro_rows=config.micro_rows,
                num_rows=len(rows),
            )
            ends = state.step == len(plan)
            if held_out and (ends or (config.validate_every and state.step % config.validate_every == 0)):
                metrics.update(perplexities(worker, held_out))
            elapsed = time.perf_counter() - started
            log.step(
                state.step - 1,
                tokens=state.tokens,
                timing={"step_s": elapsed, "tokens_per_s": len(rows) * config.context / elapsed},
                **metrics,
            )
            state.guard.check(state.step - 1, metrics)
            stopping = mesh.any(signal.asked)
            if ends or stopping or state.step % config.checkpoint_every == 0:
                log.sync()
                writer.save(state.step, {"train": state.state_dict()})
            if stopping and not ends:
                writer.wait()
                mesh.wait()  # the first rank that ends makes torchrun end the others
                raise Stopped(f"sft stopped by SIGTERM after step {state.step:,} of {len(plan):,}; all is saved")
    mesh.wait()
    return state


def packing(samples: Sequence[Sample], context: int) -> dict[str, float]:
    """Rows that an epoch takes, and the share of their slots that hold a token."""
    lengths = [len(sample.token_ids) for sample in samples]
    rows = len(fit_rows(lengths, context))
    return {"rows": rows, "packing": sum(lengths) / max(1, rows * context)}


def _plan(samples: Sequence[Sample], config: SFTConfig, seed: int) -> list[list[list[int]]]:
    """Sample indices of every row of every step."""
    rows: list[list[int]] = []
    per_epoch = fit_rows([len(s.token_ids) for s in samples], config.context)
    for epoch in range(max(1, -int(-config.epochs // 1))):
        order = list(per_epoch)
        random.Random(f"{seed}:sft:{epoch}").shuffle(order)
        rows += order
    rows = rows[: max(1, int(len(per_epoch) * config.epochs))]
    return [rows[i : i + config.batch_rows] for i in range(0, len(rows), config.batch_rows)]


def lite(config: SFTConfig, share: float = 0.05) -> SFTConfig:
    """Lite SFT (MiMo 3.6): only enough to align the answer's format: a share of the rows, and of the warm-up."""
    return dataclasses.replace(config, epochs=config.epochs * share, warmup_steps=int(config.warmup_steps * share))
