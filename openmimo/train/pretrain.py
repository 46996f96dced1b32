"""Pre-training in three stages, one run (MiMo 2.3): every schedule is a function of tokens.

A boundary is read at the START of a step: the first step that begins at or after it uses the new value, so learning
rate, batch, MTP weight, context, RoPE base and mixture all change between steps, never inside one.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from openmimo import checkpoint
from openmimo.log import Log, progress
from openmimo.model.mimo import MiMo
from openmimo.train.loss import next_token_loss
from openmimo.train.optim import OptimConfig, Optimizer, Piece, at_tokens
from openmimo.train.step import TrainState, train_step
from openmimo.types import Batch


class Rows(Protocol):
    """Where batches come from: `data.mix.Mixture`."""

    def rows(self, num_rows: int, context: int, weights: Mapping[str, float]) -> Batch: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any]) -> None: ...


@dataclass(frozen=True)
class StageConfig:
    """One pre-training stage: what holds from the last stage's end up to `until_tokens`."""

    until_tokens: float
    """Slots, counted from the run's start."""
    context: int
    """Slots a row."""
    rope_theta: float
    batch_sequences: int
    """Rows a step, once the ramp is over."""
    mixture: Mapping[str, float]
    """Weight by source."""


@dataclass(frozen=True)
class PretrainConfig:
    """Defaults are MiMo 2.3's figures."""

    learning_rate: tuple[Piece, ...] = (
        Piece(84e9, 1.07e-4, "linear"),
        Piece(10.284e12, 1.07e-4),  # decision 0017
        Piece(17.784e12, 3e-5, "cosine"),
        Piece(23.284e12, 3e-5),
        Piece(23.784e12, 1e-5, "cosine"),
    )
    """MiMo 2.3."""
    batch_ramp_tokens: float = 168e9  # MiMo 2.3
    batch_ramp_start: int = 64  # decision 0018
    batch_ramp_multiple: int = 16  # decision 0018: rounded down to a multiple of this
    mtp_weight: tuple[Piece, ...] = (Piece(10.3e12, 0.3), Piece(23.784e12, 0.1))  # MiMo 2.3
    stages: tuple[StageConfig, ...] = (
        StageConfig(17.784e12, 8192, 10_000.0, 2560, {}),
        StageConfig(21.784e12, 8192, 10_000.0, 2560, {}),
        StageConfig(23.784e12, 32_768, 640_000.0, 640, {}),
    )
    max_epochs: Mapping[str, float] = field(default_factory=dict)
    """How often a source may be read; absent is no limit (synthetic data may be repeated, MiMo 2.1)."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    micro_rows: int = 0
    """Rows that go through the model at a time; 0 is all."""
    chunk_tokens: int = 8192
    """Slots whose logits exist at one time."""
    checkpoint_every: int = 500
    """Steps."""

    @property
    def total_tokens(self) -> float:
        return self.stages[-1].until_tokens


@dataclass(frozen=True)
class Settings:
    """Everything the schedules say at one token count."""

    stage: int
    """1, 2 or 3."""
    learning_rate: float
    batch_sequences: int
    mtp_weight: float
    context: int
    rope_theta: float
    mixture: Mapping[str, float]


def settings_at(config: PretrainConfig, tokens: float) -> Settings:
    """What a step that begins at `tokens` uses."""
    at = next((n for n, s in enumerate(config.stages) if tokens < s.until_tokens), len(config.stages) - 1)
    stage = config.stages[at]
    batch = stage.batch_sequences
    if tokens < config.batch_ramp_tokens:
        start, step = config.batch_ramp_start, config.batch_ramp_multiple
        ramped = start + (batch - start) * tokens / config.batch_ramp_tokens
        batch = max(start, int(ramped) // step * step)
    return Settings(
        stage=at + 1,
        learning_rate=at_tokens(config.learning_rate, tokens),
        batch_sequences=batch,
        mtp_weight=at_tokens(config.mtp_weight, tokens),
        context=stage.context,
        rope_theta=stage.rope_theta,
        mixture=stage.mixture,
    )


def pretrain(
    model: MiMo,
    rows: Rows,
    config: PretrainConfig,
    *,
    out: Path,
    checkpoints: Path,
    on_step: Callable[[], None] | None = None,
) -> TrainState:
    """Train to the end of the last stage, from the newest checkpoint if there is one.

    Args:
        out: the run folder, for metrics.
        checkpoints: where this stage's checkpoints live.
    """
    state = TrainState(model, Optimizer(model, config.optim))
    saved = checkpoint.latest(checkpoints)
    if saved:
        state.load_state_dict(saved["train"])
        rows.load_state_dict(saved["rows"])
    with Log(out, "pretrain", state.step) as log:
        for _ in progress(_steps(state, config), "pretrain", total=count_steps(config, state.tokens), unit="steps"):
            now = settings_at(config, state.tokens)
            model.rope_theta = now.rope_theta
            started = time.perf_counter()
            batch = rows.rows(now.batch_sequences, now.context, now.mixture)
            loss = next_token_loss(mtp_weight=now.mtp_weight, chunk_tokens=config.chunk_tokens)
            metrics = train_step(state, batch, loss, learning_rate=now.learning_rate, micro_rows=config.micro_rows)
            elapsed = time.perf_counter() - started
            log.step(
                state.step - 1,
                tokens=state.tokens,
                timing={"step_s": elapsed, "tokens_per_s": batch.token_ids.size / elapsed},
                **metrics,
                train_stage=now.stage,
                batch_sequences=now.batch_sequences,
                mtp_weight=now.mtp_weight,
                context=now.context,
                rope_theta=now.rope_theta,
            )
            if state.step % config.checkpoint_every == 0 or state.tokens >= config.total_tokens:
                log.sync()
                checkpoint.save(checkpoints, state.step, {"train": state.state_dict(), "rows": rows.state_dict()})
            if on_step:
                on_step()
    return state


def count_steps(config: PretrainConfig, tokens: float = 0.0) -> int:
    """Steps from `tokens` to the end. Walks the ramp step by step, the constant stretches at once."""
    steps = 0
    while tokens < config.total_tokens:
        now = settings_at(config, tokens)
        per_step = now.batch_sequences * now.context
        end = next(s.until_tokens for s in config.stages if tokens < s.until_tokens)
        stride = 1 if tokens < config.batch_ramp_tokens else max(1, -int(-(end - tokens) // per_step))
        steps += stride
        tokens += stride * per_step
    return steps


def _steps(state: TrainState, config: PretrainConfig) -> Any:
    while state.tokens < config.total_tokens:
        yield state.step


def seeded_model(model: MiMo, seed: int) -> MiMo:
    """Fresh weights from a seed."""
    return model.init_weights(torch.Generator().manual_seed(seed))
