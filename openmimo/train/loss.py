"""The pre-training and SFT loss: cross-entropy + lambda x MTP (MiMo 2.2), over packed rows, logits never whole.

Shapes: R = rows, T = positions, D = hidden size, V = vocabulary, N = R * T, K = MTP layers.

Convention: a Batch's weight at [r, t] speaks of token t as a target. MTP layer k (from 0) reads h_t and the embedding
of x_(t+1+k) and predicts x_(t+2+k); chained layers k > 0 read layer k - 1's output in place of h_t. Slots whose ahead
token or target lies beyond the document's border do not count.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from openmimo.model.attention import packed_attention
from openmimo.model.mimo import MiMo
from openmimo.types import Batch

Loss = Callable[[MiMo, Batch], tuple[Tensor, dict[str, Tensor]]]


def next_token_loss(*, mtp_weight: float, chunk_tokens: int = 8192) -> Loss:
    """CE + mtp_weight * mean over MTP layers of their CE. All are SUMS over targets; `train_step` divides by tokens.

    Args:
        mtp_weight: lambda, 0.3 then 0.1 in MiMo 2.3.
        chunk_tokens: positions whose logits exist at one time.
    """

    def loss(model: MiMo, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        attend = packed_attention(batch.document_ids)
        hidden_RTD = model(batch.token_ids, batch.positions, attend)
        targets, weights = targets_ahead(batch, 1)
        main = cross_entropy_sum(model.normed(hidden_RTD), model.lm_head.weight, targets, weights, chunk_tokens)
        total, metrics = main, {"ce": main.detach(), "mtp": main.detach() * 0.0}
        layers = model.config.num_nextn_predict_layers
        if mtp_weight and layers:
            for k in range(layers):
                ahead_ids, _ = targets_ahead(batch, 1 + k)
                draft_RTD = model.draft_hidden(k, hidden_RTD, ahead_ids, batch.positions, attend)
                targets, weights = targets_ahead(batch, 2 + k)
                normed_RTD = model.draft_normed(k, draft_RTD)
                draft = cross_entropy_sum(normed_RTD, model.lm_head.weight, targets, weights, chunk_tokens)
                if model.config.mtp_chained:
                    hidden_RTD = draft_RTD
                total = total + mtp_weight / layers * draft
                metrics["mtp"] = metrics["mtp"] + draft.detach() / layers
        return total, metrics

    return loss


def targets_ahead(batch: Batch, distance: int) -> tuple[Tensor, Tensor]:
    """Token and loss weight `distance` places ahead of every slot, each (R, T); weight 0 across a border.

    The tail of a row, and a slot whose document ends sooner, get token 0 and weight 0.
    """
    ids, documents = batch.token_ids, batch.document_ids
    length = ids.shape[1]
    targets, weights = torch.zeros_like(ids), torch.zeros_like(batch.loss_weights)
    if distance < length:
        inside = (documents[:, distance:] == documents[:, :-distance]) & (documents[:, distance:] >= 0)
        targets[:, :-distance] = torch.where(inside, ids[:, distance:], 0)
        weights[:, :-distance] = torch.where(inside, batch.loss_weights[:, distance:], 0.0)
    return targets, weights


def cross_entropy_sum(hidden: Tensor, head_VD: Tensor, targets: Tensor, weights: Tensor, chunk_tokens: int) -> Tensor:
    """Weighted sum of the cross-entropy of `hidden @ head.T`, in nats, a scalar float32.

    Only slots of weight > 0 are computed, `chunk_tokens` at a time; the gradient is formed in the forward pass, so
    memory is one chunk's logits however long the rows.

    Args:
        hidden: (..., D), already normed.
        targets: (...), int64.
        weights: (...), float32.
    """
    counts = weights.flatten() > 0
    return _ChunkedCrossEntropy.apply(
        hidden.flatten(0, -2)[counts], head_VD, targets.flatten()[counts], weights.flatten()[counts], chunk_tokens
    )


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weights_N: Tensor, chunk: int
    ) -> Tensor:
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_head_VD = torch.zeros_like(head_VD) if ctx.needs_input_grad[1] else None
        total = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
        for start in range(0, hidden_ND.shape[0], chunk):
            part = slice(start, start + chunk)
            logits_NV = (hidden_ND[part] @ head_VD.T).float()
            logs_NV = F.log_softmax(logits_NV, dim=-1)
            rows = torch.arange(logs_NV.shape[0], device=logs_NV.device)
            total -= (logs_NV[rows, targets_N[part]] * weights_N[part]).sum()
            grad_NV = logs_NV.exp_()
            grad_NV[rows, targets_N[part]] -= 1.0
            grad_NV = (grad_NV * weights_N[part][:, None]).to(hidden_ND.dtype)
            grad_hidden_ND[part] = grad_NV @ head_VD
            if grad_head_VD is not None:  # a frozen head needs none
                grad_head_VD += grad_NV.T @ hidden_ND[part]
        ctx.save_for_backward(grad_hidden_ND, grad_head_VD)
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_ND, grad_head_VD = ctx.saved_tensors
        scale = grads[0]
        return (
            grad_hidden_ND * scale.to(grad_hidden_ND.dtype),
            None if grad_head_VD is None else grad_head_VD * scale.to(grad_head_VD.dtype),
            None,
            None,
            None,
        )


def token_logprobs(model: MiMo, batch: Batch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probability (R, T) of token t under the model, aligned to the target, and the entropy (R, T) there.

    Both float32 in nats; 0 at slots of weight 0. Differentiable in the log-probabilities.
    """
    hidden_RTD = model.normed(model(batch.token_ids, batch.positions, packed_attention(batch.document_ids)))
    targets, weights = targets_ahead(batch, 1)
    counts = weights > 0
    logits_NV = model.lm_head(hidden_RTD[counts]).float() / temperature
    logs_NV = F.log_softmax(logits_NV, dim=-1)
    picked_N = logs_NV.gather(-1, targets[counts][:, None])[:, 0]
    entropy_N = -(logs_NV.detach().exp() * logs_NV.detach()).sum(-1)
    return _at_targets(picked_N, counts), _at_targets(entropy_N, counts)


def _at_targets(values_N: Tensor, counts: Tensor) -> Tensor:
    """Scatter values of the predicting slots to the slots of their targets, one to the right."""
    out = torch.zeros(counts.shape, dtype=values_N.dtype, device=values_N.device)
    out = out.masked_scatter(counts, values_N)
    return F.pad(out[:, :-1], (1, 0))
