"""The pre-training and SFT loss: cross-entropy + lambda x MTP (MiMo 2.2), and RL's log-probabilities (MiMo 3.3).

Over packed rows, logits never whole.

Shapes: R = rows, T = positions, D = hidden size, V = vocabulary, N = R * T, K = MTP layers.

Convention: a Batch's weight at [r, t] speaks of token t as a target. MTP layer k (from 0) reads h_t and the embedding
of x_(t+1+k) and predicts x_(t+2+k); chained layers k > 0 read layer k - 1's output in place of h_t. Slots whose ahead
token or target lies beyond the document's border do not count.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from openmimo.model.attention import packed_attention
from openmimo.model.kernels import kernels
from openmimo.model.mimo import MiMo
from openmimo.types import Batch

Metrics = dict[str, Tensor | tuple[Tensor, Tensor]]
"""Sums over the batch's targets, to be divided by its weight; or pairs (sum, weight of its own)."""

Loss = Callable[[MiMo, Batch], tuple[Tensor, Metrics]]

CHUNK_BYTES = {"cpu": 1 << 23, "cuda": 1 << 28}
"""Float32 logits that exist at one time: on a CPU what its caches hold, on a GPU enough to keep it busy."""

LEAST_CHUNK = 128
"""Slots of a chunk at least: fewer would read the head for too little."""


def next_token_loss(*, mtp_weight: float, chunk_tokens: int = 0, sources: Sequence[str] = ()) -> Loss:
    """CE + mtp_weight * mean over MTP layers of their CE. All are SUMS over targets; `train_step` divides by tokens.

    Args:
        mtp_weight: lambda, 0.3 then 0.1 in MiMo 2.3.
        chunk_tokens: positions whose logits exist at one time; 0: as `chunk_of` says.
        sources: names of the numbers in `Batch.sources`; each gets metrics `ce/NAME` and `mtp/NAME` of its own.
    """

    def loss(model: MiMo, batch: Batch) -> tuple[Tensor, Metrics]:
        attend = packed_attention(batch.document_ids, model.lm_head.weight.dtype)
        hidden_RTD = model(batch.token_ids, batch.positions, attend)
        targets, weights_RT = targets_ahead(batch, 1)
        head_VD = model.lm_head.weight
        main, ce_R = cross_entropy_sum(model.normed(hidden_RTD), head_VD, targets, weights_RT, chunk_tokens)
        total, mtp_R, mtp_weights_R = main, torch.zeros_like(ce_R), torch.zeros_like(ce_R)
        layers = model.config.num_nextn_predict_layers
        if mtp_weight and layers:
            for k in range(layers):
                ahead_ids, _ = targets_ahead(batch, 1 + k)
                draft_RTD = model.draft_hidden(k, hidden_RTD, ahead_ids, batch.positions, attend)
                targets, weights = targets_ahead(batch, 2 + k)
                normed_RTD = model.draft_normed(k, draft_RTD)
                draft, draft_R = cross_entropy_sum(normed_RTD, head_VD, targets, weights, chunk_tokens)
                if model.config.mtp_chained:
                    hidden_RTD = draft_RTD
                total = total + mtp_weight / layers * draft
                mtp_R, mtp_weights_R = mtp_R + draft_R / layers, mtp_weights_R + weights.sum(-1) / layers
        filled_R = (batch.document_ids >= 0).sum(-1)
        metrics: Metrics = {
            "ce": ce_R.sum(),
            "mtp": mtp_R.sum(),
            "packing": (filled_R.sum(), (filled_R > 0).sum() * batch.document_ids.shape[1]),
        }
        if sources:
            zeros = torch.zeros(len(sources), device=ce_R.device)
            by_source = [
                zeros.index_add(0, batch.sources, x_R) for x_R in (ce_R, weights_RT.sum(-1), mtp_R, mtp_weights_R)
            ]
            for n, name in enumerate(sources):
                ce, weight, mtp, mtp_weight_ = (sums[n] for sums in by_source)
                metrics[f"ce/{name}"], metrics[f"mtp/{name}"] = (ce, weight), (mtp, mtp_weight_)
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


def cross_entropy_sum(
    hidden: Tensor, head_VD: Tensor, targets: Tensor, weights: Tensor, chunk_tokens: int = 0
) -> tuple[Tensor, Tensor]:
    """Weighted sum of the cross-entropy of `hidden @ head.T`, in nats, a scalar float32; and the same by row, (R,).

    Only slots of weight > 0 are computed, `chunk_tokens` at a time; the gradient is formed in the forward pass, so
    memory is one chunk's logits however long the rows. The second result carries no gradient.

    Args:
        hidden: (R, ..., D), already normed.
        targets: (R, ...), int64.
        weights: (R, ...), float32.
        chunk_tokens: 0: as `chunk_of` says.
    """
    counts = weights.flatten() > 0
    chunk = chunk_tokens or chunk_of(head_VD.shape[0], head_VD.device.type)
    total, losses_N = _ChunkedCrossEntropy.apply(
        hidden.flatten(0, -2)[counts], head_VD, targets.flatten()[counts], weights.flatten()[counts], chunk
    )
    by_slot = torch.zeros(counts.shape, device=losses_N.device).masked_scatter(counts, losses_N.detach())
    return total, by_slot.view(weights.shape[0], -1).sum(-1)


def chunk_of(vocab_size: int, device: str) -> int:
    """Slots whose logits are computed at a time, unless a recipe says otherwise."""
    return max(LEAST_CHUNK, CHUNK_BYTES[device] // (4 * vocab_size))


class _ChunkedCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, weights_N: Tensor, chunk: int
    ) -> tuple[Tensor, Tensor]:
        learns = any(ctx.needs_input_grad)
        grad_hidden_ND = torch.empty_like(hidden_ND) if learns else None
        # A frozen head needs none. Chunks are added up in float32: bfloat16 would lose the small ones.
        grad_head_VD = torch.zeros_like(head_VD, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        losses_N = torch.empty(hidden_ND.shape[0], dtype=torch.float32, device=hidden_ND.device)
        for start in range(0, hidden_ND.shape[0], chunk):
            part = slice(start, start + chunk)
            logits_CV = hidden_ND[part] @ head_VD.T
            losses_N[part], grad_CV = _cross_entropy(logits_CV, targets_N[part], weights_N[part], learns)
            if grad_hidden_ND is None:
                continue
            torch.mm(grad_CV, head_VD, out=grad_hidden_ND[part])
            if grad_head_VD is not None:
                _add_outer(grad_head_VD, grad_CV, hidden_ND[part])
            del logits_CV, grad_CV  # or they would live beside the next chunk's
        ctx.save_for_backward(grad_hidden_ND, grad_head_VD)
        ctx.head_dtype = head_VD.dtype
        ctx.mark_non_differentiable(losses_N)
        return losses_N.sum(), losses_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden_ND, grad_head_VD = ctx.saved_tensors
        scale = grads[0]
        head = None if grad_head_VD is None else grad_head_VD.mul_(scale).to(ctx.head_dtype)
        return grad_hidden_ND.mul_(scale.to(grad_hidden_ND.dtype)), head, None, None, None


def _add_outer(grad_head_VD: Tensor, grad_CV: Tensor, hidden_CD: Tensor) -> None:
    """Add a chunk's share of the head's gradient, in float32."""
    if grad_CV.dtype == torch.float32:
        grad_head_VD.addmm_(grad_CV.T, hidden_CD)
    else:
        grad_head_VD += grad_CV.T @ hidden_CD


def _cross_entropy(logits_CV: Tensor, targets_C: Tensor, weights_C: Tensor, learns: bool) -> tuple[Tensor, Tensor]:
    """Weighted cross-entropy of each slot, (C,) float32, and the gradient of their sum in the logits, of their dtype.

    On a CPU the gradient takes the logits' place; without `learns` it is not formed.
    """
    compiled = None if logits_CV.is_cuda or logits_CV.dtype not in (torch.float32, torch.bfloat16) else kernels()
    if compiled:
        losses_C = torch.empty(len(targets_C), dtype=torch.float32)
        tensors = (logits_CV.contiguous(), targets_C.contiguous(), weights_C.float().contiguous(), losses_C)
        half = logits_CV.dtype == torch.bfloat16
        compiled.cross_entropy(
            *(x.data_ptr() for x in tensors), *logits_CV.shape, half, learns, torch.get_num_threads()
        )
        return losses_C, tensors[0]
    return _cross_entropy_by_torch(logits_CV, targets_C, weights_C, learns)


def _cross_entropy_by_torch(
    logits_CV: Tensor, targets_C: Tensor, weights_C: Tensor, learns: bool
) -> tuple[Tensor, Tensor]:
    targets_C1, weights_C1 = targets_C[:, None], weights_C[:, None]
    logs_CV = F.log_softmax(logits_CV.float(), dim=-1)
    losses_C = -(logs_CV.gather(-1, targets_C1) * weights_C1)[:, 0]
    if not learns:
        return losses_C, logits_CV
    grad_CV = logs_CV.exp_()
    grad_CV.scatter_add_(-1, targets_C1, grad_CV.new_full((1, 1), -1.0).expand(targets_C1.shape))
    return losses_C, grad_CV.mul_(weights_C1).to(logits_CV.dtype)


def token_logprobs(model: MiMo, batch: Batch, temperature: float = 1.0) -> tuple[Tensor, Tensor]:
    """Log-probability (R, T) of token t under the model, aligned to the target, and the entropy (R, T) there.

    Both float32 in nats, of the softmax of logits / temperature; 0 at slots of weight 0. The log-probabilities are
    differentiable, the entropies are not. Logits exist one chunk at a time, as `chunk_of` says: the backward pass
    computes them again.
    """
    attend = packed_attention(batch.document_ids, model.lm_head.weight.dtype)
    hidden_RTD = model(batch.token_ids, batch.positions, attend)
    targets, weights = targets_ahead(batch, 1)
    counts = weights > 0
    picked_N, entropy_N = chunked_logprobs(
        model.normed(hidden_RTD[counts]), model.lm_head.weight, targets[counts], temperature
    )
    return _at_targets(picked_N, counts), _at_targets(entropy_N, counts)


def chunked_logprobs(
    hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, temperature: float = 1.0, chunk_tokens: int = 0
) -> tuple[Tensor, Tensor]:
    """Log-probabilities (N,) of the targets and entropies (N,) of softmax(hidden @ head.T / temperature).

    Args:
        hidden_ND: already normed.
        chunk_tokens: positions whose logits exist at one time; 0: as `chunk_of` says.
    """
    chunk = chunk_tokens or chunk_of(head_VD.shape[0], head_VD.device.type)
    picked_N, entropy_N = _ChunkedLogprobs.apply(hidden_ND, head_VD, targets_N, temperature, chunk)
    return picked_N, entropy_N


class _ChunkedLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden_ND: Tensor, head_VD: Tensor, targets_N: Tensor, temperature: float, chunk: int
    ) -> tuple[Tensor, Tensor]:
        picked_N, entropy_N = (
            torch.empty(len(hidden_ND), dtype=torch.float32, device=hidden_ND.device) for _ in range(2)
        )
        ones_N = torch.ones_like(picked_N)
        for start in range(0, len(hidden_ND), chunk):
            part = slice(start, start + chunk)
            logits_CV = _tempered(hidden_ND[part] @ head_VD.T, temperature)
            # With p the softmax and 1 the target's unit vector: CE - (p - 1) . logits is the entropy.
            losses_C, slopes_CV = _cross_entropy(logits_CV.clone(), targets_N[part], ones_N[part], True)
            picked_N[part] = -losses_C
            entropy_N[part] = losses_C - torch.linalg.vecdot(slopes_CV, logits_CV)
            del logits_CV, slopes_CV
        ctx.save_for_backward(hidden_ND, head_VD, targets_N)
        ctx.temperature, ctx.chunk = temperature, chunk
        ctx.mark_non_differentiable(entropy_N)
        return picked_N, entropy_N

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        hidden_ND, head_VD, targets_N = ctx.saved_tensors
        weights_N = -grads[0] / ctx.temperature
        grad_hidden_ND = torch.empty_like(hidden_ND)
        grad_head_VD = torch.zeros_like(head_VD, dtype=torch.float32) if ctx.needs_input_grad[1] else None
        for start in range(0, len(hidden_ND), ctx.chunk):
            part = slice(start, start + ctx.chunk)
            logits_CV = _tempered(hidden_ND[part] @ head_VD.T, ctx.temperature)
            _, slopes_CV = _cross_entropy(logits_CV, targets_N[part], weights_N[part], True)
            grad_CV = slopes_CV.to(hidden_ND.dtype)
            del logits_CV, slopes_CV
            torch.mm(grad_CV, head_VD, out=grad_hidden_ND[part])
            if grad_head_VD is not None:
                _add_outer(grad_head_VD, grad_CV, hidden_ND[part])
            del grad_CV
        head = None if grad_head_VD is None else grad_head_VD.to(head_VD.dtype)
        return grad_hidden_ND, head, None, None, None


def _tempered(logits_CV: Tensor, temperature: float) -> Tensor:
    """Logits in float32, divided by the temperature."""
    logits_CV = logits_CV.float()
    return logits_CV if temperature == 1.0 else logits_CV.div_(temperature)


def _at_targets(values_N: Tensor, counts: Tensor) -> Tensor:
    """Scatter values of the predicting slots to the slots of their targets, one to the right."""
    out = torch.zeros(counts.shape, dtype=values_N.dtype, device=values_N.device)
    out = out.masked_scatter(counts, values_N)
    return F.pad(out[:, :-1], (1, 0))
