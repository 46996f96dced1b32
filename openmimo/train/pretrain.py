"""Pre-training in three stages, one run (MiMo 2.3): every schedule is a function of tokens.

A boundary is read at the START of a step: the first step that begins at or after it uses the new value, so learning
rate, batch, MTP weight, context, RoPE base and mixture all change between steps, never inside one.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from openmimo import checkpoint
from openmimo.hardware import peak_flops
from openmimo.log import Log, progress, say
from openmimo.mesh import Mesh
from openmimo.model.flops import flops_per_token
from openmimo.model.mimo import MiMo
from openmimo.stop import Stopped, StopSignal
from openmimo.train.compute import ComputeConfig, Worker
from openmimo.train.guard import Guard, GuardConfig
from openmimo.train.loss import next_token_loss
from openmimo.train.optim import OptimConfig, Optimizer, Piece, at_tokens
from openmimo.train.reader import Reader
from openmimo.train.step import TrainState, on_device, train_step
from openmimo.types import Batch


class Rows(Protocol):
    """Where batches come from: `data.mix.Mixture`."""

    @property
    def names(self) -> tuple[str, ...]: ...

    def check_demand(self, demand: Mapping[str, float]) -> list[str]: ...

    def rows(self, num_rows: int, context: int, weights: Mapping[str, float], share: slice = ...) -> Batch: ...

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
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    guard: GuardConfig = field(default_factory=GuardConfig)
    micro_rows: int = 0
    """Rows that go through the model at a time; 0 is all."""
    chunk_tokens: int = 0
    """Slots whose logits exist at one time; 0: as `train.loss.chunk_of` says."""
    checkpoint_every: int = 500
    """Steps."""
    keep_last: int = 2
    """Newest checkpoints that stay."""
    keep_every: int = 0
    """Steps; checkpoints at multiples of it stay for good. 0: none."""
    validate_every: int = 0
    """Steps between two looks at held-out text, and one at the end; 0: none."""

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


@dataclass(frozen=True)
class _Ready:
    """A batch and what goes with it."""

    now: Settings
    batch: Batch
    """This rank's rows."""
    digest: int
    """Of this rank's rows; the sum over ranks tells one global batch from any other."""
    rows_after: dict[str, Any]
    """State of the source of rows once this batch has been taken."""


def pretrain(
    model: MiMo,
    rows: Rows,
    config: PretrainConfig,
    *,
    out: Path,
    checkpoints: Path,
    mesh: Mesh | None = None,
    held_out: Mapping[str, Batch] | None = None,
    on_step: Callable[[], None] | None = None,
) -> TrainState:
    """Train to the end of the last stage, from the newest checkpoint if there is one.

    Args:
        out: the run folder, for metrics; rank 0 alone writes there.
        checkpoints: where this stage's checkpoints live.
        mesh: ranks that share every batch: the global batch, and the stream of tokens, are the same for any number.
        held_out: by source, rows that are never trained on.

    Raises:
        ValueError: for a schedule with an empty stage, a source that would be read more often than it may, or if too
            many updates in a row were left out.
        Stopped: after SIGTERM, with all saved.
    """
    check_stages(config)
    mesh = mesh or Mesh()
    worker = Worker(model, config.compute, mesh)
    state = TrainState(model, Optimizer(model, config.optim), worker, Guard(config.guard))
    saved = checkpoint.latest(checkpoints, tell=say)
    if saved:
        state.load_state_dict(saved["train"])
        rows.load_state_dict(saved["rows"])
    else:
        for line in rows.check_demand(demand(config)):
            say(f"pretrain: {line}")
    peak = peak_flops(mesh.device, getattr(torch, config.compute.dtype)) * mesh.world_size
    mtp = model.config.num_nextn_predict_layers > 0

    def ready() -> Iterator[_Ready]:
        tokens = state.tokens
        while tokens < config.total_tokens:
            now = settings_at(config, tokens)
            share = mesh.share(now.batch_sequences)
            batch = rows.rows(now.batch_sequences, now.context, now.mixture, share)
            tokens += now.batch_sequences * now.context
            yield _Ready(now, batch, digest(batch, share.start), rows.state_dict())

    total = count_steps(config, state.tokens)
    with (
        StopSignal() as signal,
        checkpoint.Writer(
            checkpoints, keep_last=config.keep_last, keep_every=config.keep_every, writes=mesh.is_main
        ) as writer,
        Log(out, "pretrain", state.step, writes=mesh.is_main) as log,
        Reader(ready) as reader,
    ):
        stage = settings_at(config, state.tokens).stage
        bar = progress(reader, "pretrain", total=total, unit="steps")
        clock = time.perf_counter()
        for step in bar:
            waited = time.perf_counter() - clock
            now, batch = step.now, step.batch
            state.use_rope(now.rope_theta)
            if now.stage != stage:
                state.guard.forget()
                stage = now.stage
            metrics = train_step(
                state,
                batch,
                next_token_loss(mtp_weight=now.mtp_weight, chunk_tokens=config.chunk_tokens, sources=rows.names),
                learning_rate=now.learning_rate,
                micro_rows=config.micro_rows,
                num_rows=now.batch_sequences,
            )
            elapsed = time.perf_counter() - clock
            ends = state.tokens >= config.total_tokens
            if held_out and config.validate_every and (ends or state.step % config.validate_every == 0):
                metrics.update(perplexities(worker, held_out))
            slots = now.batch_sequences * now.context
            counts = {m: flops_per_token(model.config, now.context, causal=m == "causal", mtp=mtp) for m in _MASKS}
            log.step(
                state.step - 1,
                tokens=state.tokens,
                timing={
                    "step_s": elapsed,
                    "data_wait_s": waited,
                    "tokens_per_s": slots / elapsed,
                    **{f"mfu_{mask}": flops * slots / elapsed / peak for mask, flops in counts.items()},
                },
                **metrics,
                rows_digest=int(mesh.sum(torch.tensor(float(step.digest), dtype=torch.float64, device=mesh.device))),
                train_stage=now.stage,
                batch_sequences=now.batch_sequences,
                mtp_weight=now.mtp_weight,
                context=now.context,
                rope_theta=now.rope_theta,
            )
            state.guard.check(state.step - 1, metrics)
            stopping = mesh.any(signal.asked)
            if ends or stopping or state.step % config.checkpoint_every == 0:
                log.sync()
                writer.save(state.step, {"train": state.state_dict(), "rows": step.rows_after})
            if on_step:
                on_step()
            if stopping and not ends:
                writer.wait()
                mesh.wait()  # the first rank that ends makes torchrun end the others
                raise Stopped(f"pretrain stopped by SIGTERM after step {state.step:,}; all is saved")
            clock = time.perf_counter()
    mesh.wait()
    return state


_MASKS = ("causal", "full")


def digest(batch: Batch, first_row: int) -> int:
    """A number that tells which tokens stand in which rows and documents, a sum over rows, below 2**53.

    Args:
        first_row: number of the batch's first row in the global batch.
    """
    return sum(
        zlib.crc32(np.stack([ids, documents]).tobytes(), first_row + n)
        for n, (ids, documents) in enumerate(zip(batch.token_ids, batch.document_ids, strict=True))
    )


def demand(config: PretrainConfig) -> dict[str, float]:
    """Slots that a whole run asks of every source."""
    found: dict[str, float] = {}
    tokens = 0.0
    for stage in config.stages:
        total = sum(stage.mixture.values())
        for name, weight in stage.mixture.items():
            if weight:
                found[name] = found.get(name, 0.0) + (stage.until_tokens - tokens) * weight / total
        tokens = stage.until_tokens
    return found


@torch.no_grad()
def perplexities(worker: Worker, held_out: Mapping[str, Batch], *, rows_at_once: int = 8) -> dict[str, float]:
    """exp(cross-entropy) of every source's held-out rows, `perplexity/NAME`. All ranks compute the same."""
    loss = next_token_loss(mtp_weight=0.0)
    device = next(worker.model.parameters()).device
    found = {}
    for name, batch in sorted(held_out.items()):
        total, weight = 0.0, float(np.asarray(batch.loss_weights).sum())
        for start in range(0, len(batch.token_ids), rows_at_once):
            value, _ = loss(worker.model, on_device(batch, device, slice(start, start + rows_at_once)))
            total += float(value)
        found[f"perplexity/{name}"] = math.exp(min(total / max(weight, 1.0), 700.0))
    return found


def count_steps(config: PretrainConfig, tokens: float = 0.0) -> int:
    """Steps from `tokens` to the end."""
    return walk(config, tokens, config.total_tokens)[0]


def walk(config: PretrainConfig, tokens: float, until: float) -> tuple[int, float]:
    """Steps that begin at `tokens` or after and before `until`, and the tokens at which the next one begins.

    Walks the ramp step by step, the constant stretches at once.
    """
    steps = 0
    while tokens < until:
        now = settings_at(config, tokens)
        per_step = now.batch_sequences * now.context
        end = min(until, next((s.until_tokens for s in config.stages if tokens < s.until_tokens), until))
        stride = 1 if tokens < config.batch_ramp_tokens else max(1, -int(-(end - tokens) // per_step))
        steps += stride
        tokens += stride * per_step
    return steps, tokens


def first_steps(config: PretrainConfig, marks: Sequence[float]) -> dict[float, int]:
    """By token count, the first step that begins at or after it."""
    found: dict[float, int] = {}
    tokens, steps = 0.0, 0
    for mark in sorted(marks):
        more, tokens = walk(config, tokens, mark)
        steps += more
        found[mark] = steps
    return found


def check_stages(config: PretrainConfig) -> None:
    """Refuse a schedule in which some stage has no step of its own.

    Raises:
        ValueError: naming the stage, its tokens and the least right number.
    """
    began = 0.0
    for number, stage in enumerate(config.stages, 1):
        if not stage.until_tokens > began:
            raise ValueError(
                f"stage {number} ends at {stage.until_tokens:.6g} tokens, not after stage {number - 1}'s end at "
                f"{began:.6g}; pretrain.stages must grow"
            )
        began = stage.until_tokens
    ends = first_steps(config, [0.0, *(stage.until_tokens for stage in config.stages)])
    began = 0.0
    for number, stage in enumerate(config.stages, 1):
        now = settings_at(config, began)
        step_tokens = now.batch_sequences * now.context
        if stage.until_tokens - began < step_tokens or ends[stage.until_tokens] == ends[began]:
            raise ValueError(
                f"stage {number} has {stage.until_tokens - began:,.6g} tokens, too few for one step of "
                f"{now.batch_sequences:,} sequences of {now.context:,} ({step_tokens:,} tokens)"
            )
        began = stage.until_tokens


def seeded_model(model: MiMo, seed: int) -> MiMo:
    """Fresh weights from a seed."""
    return model.init_weights(torch.Generator().manual_seed(seed))
