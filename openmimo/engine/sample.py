"""Sampling whole batches, every request by its own seed (MiMo 3.3.3, 3.5).

The noise of token index i of a request, for vocabulary id v, is a hash of (seed, i, v) and of nothing else: no
generator has a state, so a token does not depend on what else was sampled. Id v waits an exponential time of rate
exp(logit / temperature) and the first to arrive is the token, which is a draw from the softmax (the Gumbel-max trick
without its second logarithm). Drafts drawn with the same noise from similar logits are mostly the same token;
`speculate` uses that.

Shapes: M = rows, V = vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openmimo.types import Sampling

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_WIDTHS = (8, 64)
"""Largest logits looked at for top-k and top-p before all are: a peaked distribution needs few."""


@dataclass(frozen=True, slots=True)
class Draws:
    """What M rows ask for; row m is token index `indices[m]` of a response."""

    samplings: list[Sampling]
    indices: list[int]


def check_sampling(sampling: Sampling) -> None:
    """Raises ValueError for what cannot be sampled."""
    if sampling.max_new_tokens < 1:
        raise ValueError(f"max_new_tokens must be at least 1, got {sampling.max_new_tokens}")
    if not 0.0 <= sampling.temperature < math.inf:
        raise ValueError(f"temperature must be 0 (greedy) or positive, got {sampling.temperature}")
    if not 0.0 < sampling.top_p <= 1.0:
        raise ValueError(f"top_p must be above 0 and at most 1, got {sampling.top_p}")
    if sampling.top_k < 0:
        raise ValueError(f"top_k must be 0 (off) or positive, got {sampling.top_k}")
    if not -(2**63) <= sampling.seed < 2**64:
        raise ValueError(f"seed must fit 64 bits, got {sampling.seed}")


def sample(logits_MV: Tensor, draws: Draws) -> tuple[list[int], list[float]]:
    """Draw one token a row.

    Args:
        logits_MV: float32, forbidden ids already cut off; rows beyond the draws are padding and ignored.
        draws: sampling and token index of the leading rows.

    Returns:
        Token ids, and their log-probabilities (nats, float32) under the distribution that they were drawn from;
        for greedy rows under the model's own.
    """
    count = len(draws.indices)
    scaled_MV = _scaled(logits_MV, draws)
    below_MV = scaled_MV.double()
    below_MV -= below_MV.amax(-1, keepdim=True)
    rate_MV = below_MV.exp()
    race_MV = rate_MV
    if any(sampling.temperature for sampling in draws.samplings):
        race_MV = rate_MV / _noise(logits_MV, draws)
    chosen_M1 = race_MV.argmax(-1, keepdim=True)
    logprobs_M1 = (below_MV.gather(1, chosen_M1) - rate_MV.sum(-1, keepdim=True).log()).float()
    return chosen_M1[:count, 0].tolist(), logprobs_M1[:count, 0].tolist()


def choose(logits_MV: Tensor, draws: Draws) -> list[int]:
    """The tokens that `sample` would draw."""
    return sample(logits_MV, draws)[0]


def exponential(seeds_M: np.ndarray, indices_M: np.ndarray, vocab_size: int, device: torch.device) -> Tensor:
    """(M, V) float64, exponential of rate 1; element (m, v) depends on (seed, index, v) alone."""
    key_M = _mix(_mix(seeds_M.astype(np.uint64)) + indices_M.astype(np.uint64) * np.uint64(_GOLDEN))
    ids_V = np.arange(1, vocab_size + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
    x_MV = torch.from_numpy(key_M.view(np.int64)).to(device)[:, None] + torch.from_numpy(ids_V.view(np.int64)).to(
        device
    )
    # The finaliser of SplitMix64, on int64 with its arithmetic shift masked to a logical one.
    for shift, factor in ((30, _MIX_1), (27, _MIX_2)):
        x_MV ^= (x_MV >> shift).bitwise_and_((1 << (64 - shift)) - 1)
        x_MV *= factor - (1 << 64)
    x_MV ^= (x_MV >> 31).bitwise_and_((1 << 33) - 1)
    uniform_MV = (x_MV >> 11).bitwise_and_((1 << 53) - 1).double().add_(0.5).mul_(2.0**-53)
    return uniform_MV.log_().neg_()


def _mix(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * np.uint64(_MIX_1)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(_MIX_2)
    return x ^ (x >> np.uint64(31))


def _scaled(logits_MV: Tensor, draws: Draws) -> Tensor:
    """Logits over temperature, -inf outside top-k and top-p; greedy rows as they are."""
    samplings = draws.samplings
    if any(sampling.temperature not in (0.0, 1.0) for sampling in samplings):
        temperature_M = [sampling.temperature or 1.0 for sampling in samplings]
        logits_MV = logits_MV / _column(temperature_M, 1.0, logits_MV)
    if any(sampling.temperature and (sampling.top_k or sampling.top_p < 1.0) for sampling in samplings):
        logits_MV = _filtered(logits_MV, samplings)
    return logits_MV


def _filtered(scaled_MV: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Top-k, then top-p of what is left: -inf below the last value kept, so values equal to it stay too."""
    vocab_size = scaled_MV.shape[1]
    filtered = [m for m, s in enumerate(samplings) if s.temperature and (s.top_k or s.top_p < 1.0)]
    top_k_M1 = torch.tensor([[samplings[m].top_k or vocab_size] for m in filtered], device=scaled_MV.device)
    top_p_M1 = torch.tensor([[samplings[m].top_p] for m in filtered], dtype=torch.float64, device=scaled_MV.device)
    rows_M = torch.tensor(filtered, device=scaled_MV.device)
    least_MV = scaled_MV.new_full((scaled_MV.shape[0], 1), -math.inf)
    scaled_MV = scaled_MV.contiguous()
    top_M1 = scaled_MV[rows_M].amax(-1, keepdim=True)
    total_M1 = (scaled_MV[rows_M].double() - top_M1).exp_().sum(-1, keepdim=True)
    for width in (*(w for w in _WIDTHS if w < vocab_size), vocab_size):
        largest_MW = scaled_MV[rows_M].topk(width).values
        mass_MW = (largest_MW.double() - largest_MW[:, :1]).exp_().cumsum(-1)
        # With top-k the distribution that top-p cuts is the top-k one.
        within_M1 = mass_MW.gather(1, top_k_M1.clamp(max=width) - 1)
        within_M1 = torch.where(top_k_M1 < vocab_size, within_M1, total_M1)
        rank_W = torch.arange(width, device=scaled_MV.device)
        before_MW = torch.cat((torch.zeros_like(mass_MW[:, :1]), mass_MW[:, :-1]), dim=-1)
        # The token that crosses top_p stays; top_p = 1 keeps all, whatever the sum's rounding.
        keep_MW = (rank_W < top_k_M1) & ((before_MW < top_p_M1 * within_M1) | (top_p_M1 == 1.0))
        least_MV[rows_M] = largest_MW.gather(1, keep_MW.sum(-1, keepdim=True) - 1)
        # Done where something in sight fell out, and the top-k total was in sight.
        more_M = keep_MW[:, -1] | ((top_k_M1[:, 0] > width) & (top_k_M1[:, 0] < vocab_size))
        if width == vocab_size or not bool(more_M.any()):
            break
        rows_M, top_k_M1, top_p_M1, total_M1 = rows_M[more_M], top_k_M1[more_M], top_p_M1[more_M], total_M1[more_M]
    return scaled_MV.masked_fill(scaled_MV < least_MV, -math.inf)


def _noise(logits_MV: Tensor, draws: Draws) -> Tensor:
    padding = logits_MV.shape[0] - len(draws.indices)
    seeds = [sampling.seed & (2**64 - 1) for sampling in draws.samplings] + [0] * padding
    indices = draws.indices + [0] * padding
    noise_MV = exponential(
        np.asarray(seeds, dtype=np.uint64), np.asarray(indices, dtype=np.uint64), logits_MV.shape[1], logits_MV.device
    )
    if any(not sampling.temperature for sampling in draws.samplings):
        greedy_M1 = _column([float(sampling.temperature == 0) for sampling in draws.samplings], 1.0, noise_MV)
        noise_MV.masked_fill_(greedy_M1 > 0, 1.0)
    return noise_MV


def _column(values: Sequence[float], padding: float, like_MV: Tensor) -> Tensor:
    padded = list(values) + [padding] * (like_MV.shape[0] - len(values))
    return torch.tensor(padded, dtype=like_MV.dtype, device=like_MV.device)[:, None]
