"""The policy loss (MiMo 3.3, Eq. 1): clipped ratios with clip-higher, no KL, token normalisation.

Shapes: R = rows, T = positions.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from openmimo.model.mimo import MiMo
from openmimo.train.loss import Loss, Metrics, token_logprobs
from openmimo.types import Batch

Normalization = Literal["token", "group"]


def clipped_objective(
    logp: Tensor, old_logp: Tensor, advantage: Tensor, *, clip_low: float, clip_high: float
) -> Tensor:
    """min(rho A, clip(rho, 1 - clip_low, 1 + clip_high) A) per token, rho = exp(logp - old_logp); any shape."""
    ratio = (logp - old_logp).exp()
    return torch.minimum(ratio * advantage, ratio.clamp(1.0 - clip_low, 1.0 + clip_high) * advantage)


def importance_weights(old_logp: Tensor, engine_logp: Tensor, cap: float) -> Tensor:
    """Truncated importance sampling: min(exp(old - engine), cap) per token, any shape; ones if `cap` is 0.

    The rollouts are the engine's, Eq. 1's pi_old the trainer's (decision 0019); this weighs each token by how much
    likelier the trainer holds it. As weights are not negative, Eq. 1 with advantages times weights is Eq. 1 weighted.
    """
    return (old_logp - engine_logp).exp().clamp(max=cap) if cap else torch.ones_like(old_logp)


def token_weights(batch: Batch, normalization: Normalization) -> Tensor:
    """(R, T) loss weights whose total is the number of tokens; of a whole mini-batch, not of some of its rows.

    `token`: every token counts the same (decision 0004). `group`: Eq. 1 read per group, every GROUP counts the same and
    its tokens share that.
    """
    weights = batch.loss_weights
    if normalization == "token":
        return weights
    groups = batch.sequence_ids
    inside = weights > 0
    sizes = torch.bincount(groups[inside]).clamp(min=1)
    present = int((torch.bincount(groups[inside]) > 0).sum())
    per_token = weights.sum() / present / sizes[groups.clamp(min=0)]
    return torch.where(inside, per_token, torch.zeros_like(weights))


def policy_loss(*, clip_low: float, clip_high: float, temperature: float = 1.0) -> Loss:
    """Eq. 1 as a loss for `train_step`: the negated SUM over response tokens by their loss weights (`token_weights`).

    Metrics, sums per token: `entropy`, `clip_low`, `clip_high` (shares of clipped tokens), `kl` (old to new, estimator
    k3, a gauge only: the recipe has no KL term).
    """

    def loss(model: MiMo, batch: Batch) -> tuple[Tensor, Metrics]:
        logp, entropy = token_logprobs(model, batch, temperature)
        objective = clipped_objective(
            logp, batch.old_logprobs, batch.advantages, clip_low=clip_low, clip_high=clip_high
        )
        with torch.no_grad():
            log_ratio = torch.where(batch.loss_weights > 0, logp - batch.old_logprobs, 0.0)
            ratio, up = log_ratio.exp(), batch.advantages > 0
            metrics = {
                "entropy": (entropy * batch.loss_weights).sum(),
                "clip_high": ((ratio > 1.0 + clip_high) & up).float().sum(),
                "clip_low": ((ratio < 1.0 - clip_low) & ~up).float().sum(),
                "kl": ((torch.expm1(log_ratio) - log_ratio) * batch.loss_weights).sum(),
            }
        return -(objective * batch.loss_weights).sum(), metrics

    return loss
