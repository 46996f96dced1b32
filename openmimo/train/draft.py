"""MTP layers 2 and up: copies of layer 1, tuned alone (MiMo 2.2). Trunk and layer 1 stay bit for bit as they are.

The paper copies the layer after pre-training; when it is done here is the caller's to say (decision 0035). This file
sees batches only: where their tokens come from, given text or the model's own rollouts, is `openmimo/draft.py`'s.
"""

from __future__ import annotations

import dataclasses
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from openmimo import checkpoint
from openmimo.data.pack import Sample, fit_rows, stack
from openmimo.log import Log, progress
from openmimo.model.attention import packed_attention
from openmimo.model.mimo import MiMo
from openmimo.train.loss import Loss, Metrics, cross_entropy_sum, targets_ahead
from openmimo.train.optim import OptimConfig, Optimizer, Piece, at_tokens
from openmimo.train.step import TrainState, train_step
from openmimo.types import Batch


@dataclass(frozen=True)
class DraftConfig:
    """Defaults are ours unless they say otherwise: the paper gives the method and no figures."""

    num_layers: int = 3  # MiMo 2.2
    """MTP layers in the end, layer 1 included."""
    chained: bool = False  # MiMo 2.2: parallel
    """Whether layer k > 1 reads layer k - 1's output in place of the trunk's hidden state (decision 0036)."""
    steps: int = 500
    learning_rate: float = 3e-5  # as MiMo 3.1
    """Reached after the warm-up."""
    warmup_share: float = 0.05
    """Of the tokens, linear."""
    final_share: float = 1.0
    """Of the learning rate, reached by a cosine at the end; 1 is constant."""
    batch_rows: int = 128  # as MiMo 3.1
    context: int = 32_768  # as MiMo 3.1
    """Slots a row."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    micro_rows: int = 0
    """Rows that go through the model at a time; 0 is all."""
    chunk_tokens: int = 0
    """Slots whose logits exist at one time; 0: as `train.loss.chunk_of` says."""
    checkpoint_every: int = 100
    """Steps."""

    def __post_init__(self) -> None:
        at_least = {"num_layers": 2, "steps": 0, "batch_rows": 1, "context": 4, "micro_rows": 0, "checkpoint_every": 1}
        for name, least in at_least.items():
            if getattr(self, name) < least:
                raise ValueError(f"{name} of the draft layers must be at least {least}, got {getattr(self, name)}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate of the draft layers must be above 0, got {self.learning_rate}")

    @property
    def rates(self) -> tuple[Piece, ...]:
        """The learning rate as a function of tokens."""
        total = self.steps * self.batch_rows * self.context
        return (
            Piece(self.warmup_share * total, self.learning_rate, "linear"),
            Piece(total, self.final_share * self.learning_rate, "cosine"),
        )


def with_copies(model: MiMo, num_layers: int, *, chained: bool = False) -> MiMo:
    """A model whose MTP layers 2 to num_layers are copies of layer 1; it shares the other tensors with `model`.

    Raises:
        ValueError: if the model has no MTP layer, or num_layers leaves nothing to copy.
    """
    if not model.config.num_nextn_predict_layers:
        raise ValueError("the model has 0 MTP layers; draft layers are copies of the first, so it needs at least 1")
    if num_layers < 2:
        raise ValueError(f"num_layers must be at least 2, layer 1 and a copy, got {num_layers}")
    config = dataclasses.replace(model.config, num_nextn_predict_layers=num_layers, mtp_chained=chained)
    tensors = model.state_dict()
    wider = MiMo.skeleton(config)
    first = "model.mtp_layers.0."
    wanted = {}
    for name in wider.state_dict():
        copy = name.startswith("model.mtp_layers.") and not name.startswith(first)
        wanted[name] = tensors[first + name.split(".", 3)[3]].clone() if copy else tensors[name]
    wider.load_state_dict(wanted, assign=True)
    if config.tie_word_embeddings:
        wider.lm_head.weight = wider.model.embed_tokens.weight
    wider.rope_theta = model.rope_theta
    return wider


def tune(
    model: MiMo, batch_at: Callable[[int], Batch], config: DraftConfig, *, out: Path, checkpoints: Path
) -> TrainState:
    """Tune MTP layers 2 and up for `config.steps`, from the newest checkpoint if there is one.

    Args:
        model: `with_copies` of the model to draft for; all but the copies are frozen.
        batch_at: the batch of a step.
        out: the run folder, for metrics.
        checkpoints: where this stage's checkpoints live.
    """
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name.startswith("model.mtp_layers.") and not name.startswith("model.mtp_layers.0."))
    state = TrainState(model, Optimizer(model, config.optim))
    saved = checkpoint.latest(checkpoints)
    if saved:
        state.load_state_dict(saved["train"])
    loss = draft_loss(chunk_tokens=config.chunk_tokens)
    with Log(out, "draft", state.step) as log:
        for step in progress(range(state.step, config.steps), "draft", unit="steps"):
            started = time.perf_counter()
            rate = at_tokens(config.rates, state.tokens)
            metrics = train_step(state, batch_at(step), loss, learning_rate=rate, micro_rows=config.micro_rows)
            log.step(step, tokens=state.tokens, timing={"step_s": time.perf_counter() - started}, **metrics)
            if state.step % config.checkpoint_every == 0 or state.step == config.steps:
                log.sync()
                checkpoint.save(checkpoints, state.step, {"train": state.state_dict()})
    return state


def draft_loss(*, chunk_tokens: int = 0) -> Loss:
    """Mean over MTP layers 2 and up of their cross-entropy, each summed over its targets; no gradient goes elsewhere.

    Metrics: `mtp_2`, `mtp_3`, ... of each layer.
    """

    def loss(model: MiMo, batch: Batch) -> tuple[Tensor, Metrics]:
        layers, chained = model.config.num_nextn_predict_layers, model.config.mtp_chained
        attend = packed_attention(batch.document_ids, model.lm_head.weight.dtype)
        with torch.no_grad():
            hidden_RTD = model(batch.token_ids, batch.positions, attend)
            if chained:
                ahead_ids, _ = targets_ahead(batch, 1)
                hidden_RTD = model.draft_hidden(0, hidden_RTD, ahead_ids, batch.positions, attend)
        total = torch.zeros((), device=hidden_RTD.device)
        metrics: Metrics = {}
        for k in range(1, layers):
            ahead_ids, _ = targets_ahead(batch, 1 + k)
            draft_RTD = model.draft_hidden(k, hidden_RTD, ahead_ids, batch.positions, attend)
            if chained:
                hidden_RTD = draft_RTD
            targets, weights = targets_ahead(batch, 2 + k)
            normed_RTD = model.draft_normed(k, draft_RTD)
            part, _ = cross_entropy_sum(normed_RTD, model.lm_head.weight, targets, weights, chunk_tokens)
            total = total + part / (layers - 1)
            metrics[f"mtp_{k + 1}"] = part.detach()
        return total, metrics

    return loss


def batches_of(samples: Sequence[Sample], config: DraftConfig, *, seed: int) -> Callable[[int], Batch]:
    """Full batches by step, without end: every epoch packs the samples alike and shuffles its rows anew.

    A function of (samples, config, seed, step), so a resumed run sees the same ones.

    Raises:
        ValueError: without samples, or for one longer than the context.
    """
    if not samples:
        raise ValueError("no text is left to tune draft layers on; 0 samples are too few")
    rows = fit_rows([len(sample.token_ids) for sample in samples], config.context)
    orders: dict[int, list[int]] = {}

    def order(epoch: int) -> list[int]:
        if epoch not in orders:
            orders.clear()
            orders[epoch] = list(range(len(rows)))
            random.Random(f"{seed}:draft:{epoch}").shuffle(orders[epoch])
        return orders[epoch]

    def batch_at(step: int) -> Batch:
        first = step * config.batch_rows
        chosen = [rows[order(n // len(rows))[n % len(rows)]] for n in range(first, first + config.batch_rows)]
        return stack([[samples[i] for i in row] for row in chosen], config.context)

    return batch_at
