"""Sampling whole batches, every request by its own seed (MiMo 3.3.3, 3.5).

The noise of token index i of a request, for vocabulary id v, is a hash of (seed, i, v) and of nothing else: no
generator has a state, so a token does not depend on what else was sampled. Id v waits an exponential time of rate
exp(logit / temperature) and the first to arrive is the token, which is a draw from the softmax (the Gumbel-max trick
without its second logarithm). Drafts drawn with the same noise from similar logits are mostly the same token;
`speculate` uses that. On a CPU a compiled loop draws (`_kernels.c: draw`); elsewhere PyTorch does.

Shapes: M = rows, V = vocabulary.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from openmimo.engine.cpu import kernels
from openmimo.types import Sampling

_WORD = 2**64 - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_ASK = struct.Struct("=dddqQQ")
"""A row of a draw: `Ask` of `_kernels.c`."""
LEAST_TEMPERATURE = 1e-3
"""Above 0: logits divided by less could overflow float32."""
_WIDTHS = (8, 64)
"""Largest logits looked at for top-k and top-p before all are: a peaked distribution needs few."""


@dataclass(frozen=True, slots=True)
class Draws:
    """What M rows ask for; row m is token index `indices[m]` of a response."""

    samplings: list[Sampling]
    seeds: list[int]
    indices: list[int]

    @classmethod
    def of(cls, samplings: list[Sampling], indices: list[int]) -> Draws:
        """Draws under the samplings' own seeds."""
        return cls(samplings, [sampling.seed or 0 for sampling in samplings], indices)


@dataclass(frozen=True, slots=True)
class Drawn:
    """M tokens and their log-probabilities in nats, float32."""

    token_ids: list[int]
    logprobs: list[float]
    """Under the distribution that the token was drawn from; for greedy rows under the model's own."""
    raw_logprobs: list[float]
    """Under the raw model: all ids, temperature 1, nothing cut off."""


def check_sampling(sampling: Sampling) -> None:
    """Raises ValueError for what cannot be sampled."""
    if sampling.max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be at least 0, got {sampling.max_new_tokens}")
    if not (sampling.temperature == 0.0 or LEAST_TEMPERATURE <= sampling.temperature < math.inf):
        raise ValueError(
            f"temperature must be 0 (greedy) or at least {LEAST_TEMPERATURE:g}, got {sampling.temperature}"
        )
    if not 0.0 < sampling.top_p <= 1.0:
        raise ValueError(f"top_p must be above 0 and at most 1, got {sampling.top_p}")
    if sampling.top_k < 0:
        raise ValueError(f"top_k must be 0 (off) or positive, got {sampling.top_k}")
    if not 0.0 <= sampling.min_p <= 1.0:
        raise ValueError(f"min_p must be 0 (off) to 1, got {sampling.min_p}")
    if sampling.seed is not None and not -(2**63) <= sampling.seed < 2**64:
        raise ValueError(f"seed must fit 64 bits, got {sampling.seed}")
    if sampling.top_logprobs < 0:
        raise ValueError(f"top_logprobs must be 0 (off) or positive, got {sampling.top_logprobs}")
    if not all(sampling.stop):
        raise ValueError("a stop text is empty; leave it out")


def choice_seed(seed: int | None, choice: int) -> int | None:
    """Seed of one of several responses to a prompt: the first keeps the seed, the others get a hash of both."""
    if seed is None or choice == 0:
        return seed
    mixed = _mix(np.array([seed & _WORD], dtype=np.uint64)) + np.uint64(choice * _GOLDEN & _WORD)
    return int(_mix(mixed)[0])


def sample(logits_MV: Tensor, draws: Draws, *, num_token_ids: int = 0) -> Drawn:
    """Draw one token a row.

    Args:
        logits_MV: float32.
        num_token_ids: ids from here up are never drawn; 0: all may be.
    """
    allowed = num_token_ids or logits_MV.shape[1]
    if logits_MV.device.type == "cpu" and kernels():
        found_3M = _draw(logits_MV, draws, allowed, score=True)
        return Drawn(found_3M[0].view(np.int64).tolist(), found_3M[1].tolist(), found_3M[2].tolist())
    least_M1 = _least(logits_MV[:, :allowed], draws.samplings)
    scaled_MV = _scaled(logits_MV[:, :allowed], draws.samplings)
    scaled_MV = scaled_MV.masked_fill(scaled_MV < least_M1, -math.inf)
    below_MV = scaled_MV.double()
    below_MV -= below_MV.amax(-1, keepdim=True)
    rate_MV = below_MV.exp()
    race_MV = rate_MV
    if any(sampling.temperature for sampling in draws.samplings):
        race_MV = rate_MV / _noise(scaled_MV, draws)
    chosen_M1 = race_MV.argmax(-1, keepdim=True)
    logprobs_M1 = (below_MV.gather(1, chosen_M1) - rate_MV.sum(-1, keepdim=True).log()).float()
    token_ids = chosen_M1[:, 0].tolist()
    return Drawn(token_ids, logprobs_M1[:, 0].tolist(), raw_logprobs(logits_MV, token_ids))


def raw_logprobs(logits_MV: Tensor, token_ids: list[int]) -> list[float]:
    """Log-probability of one given token a row under the raw model, nats, float32."""
    ids_M = np.asarray(token_ids, dtype=np.int64)
    if logits_MV.device.type == "cpu" and kernels():
        logits_MV = logits_MV.contiguous()
        found_3M, vocab_size = np.empty((3, len(ids_M))), logits_MV.shape[1]
        found_3M[0].view(np.int64)[:] = ids_M
        kernels().draw(logits_MV.data_ptr(), None, found_3M.ctypes.data, len(ids_M), vocab_size, vocab_size, True)
        return found_3M[2].tolist()
    wide_MV = logits_MV.double()
    picked_M1 = wide_MV.gather(1, torch.from_numpy(ids_M).to(logits_MV.device)[:, None])
    return (picked_M1 - wide_MV.logsumexp(-1, keepdim=True))[:, 0].float().tolist()


def likeliest(
    logits_MV: Tensor, token_ids: list[int], raw: list[float], counts: list[int]
) -> list[tuple[tuple[int, float], ...]]:
    """The `counts[m]` likeliest (id, log-probability) of each row under the raw model, likeliest first.

    Args:
        token_ids, raw: a token of each row and its raw log-probability, which tells the row's normaliser.
    """
    most = min(max(counts), logits_MV.shape[1])
    values_MW, ids_MW = logits_MV.topk(most)
    own_M1 = logits_MV.gather(1, torch.tensor(token_ids, device=logits_MV.device)[:, None])
    logprobs_MW = values_MW - own_M1 + torch.tensor(raw, device=logits_MV.device)[:, None]
    rows = zip(ids_MW.tolist(), logprobs_MW.tolist(), counts, strict=True)
    return [tuple(zip(ids[:count], values[:count], strict=True)) for ids, values, count in rows]


def probabilities(logits_MV: Tensor, samplings: Sequence[Sampling], num_token_ids: int) -> Tensor:
    """(M, num_token_ids) float64: the distributions that `sample` draws from at temperatures above 0."""
    logits_MV = logits_MV[:, :num_token_ids]
    scaled_MV = _scaled(logits_MV, samplings)
    return scaled_MV.masked_fill(scaled_MV < _least(logits_MV, samplings), -math.inf).double().softmax(-1)


def choose(logits_MV: Tensor, draws: Draws, *, num_token_ids: int = 0) -> list[int]:
    """The tokens that `sample` would draw, without their log-probabilities: drafts need none."""
    if logits_MV.device.type == "cpu" and kernels():
        found_3M = _draw(logits_MV, draws, num_token_ids or logits_MV.shape[1], score=False)
        return found_3M[0].view(np.int64).tolist()
    return sample(logits_MV, draws, num_token_ids=num_token_ids).token_ids


def _draw(logits_MV: Tensor, draws: Draws, allowed: int, *, score: bool) -> np.ndarray:
    """(3, M): ids, as int64, log-probabilities and raw ones."""
    logits_MV = logits_MV.contiguous()
    count, vocab_size = logits_MV.shape
    asks = b"".join(
        [
            _ASK.pack(s.temperature, s.top_p, s.min_p, s.top_k, seed & _WORD, index)
            for s, seed, index in zip(draws.samplings, draws.seeds, draws.indices, strict=True)
        ]
    )
    found_3M = np.empty((3, count))
    kernels().draw(logits_MV.data_ptr(), asks, found_3M.ctypes.data, count, vocab_size, allowed, score)
    return found_3M


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


def _scaled(logits_MV: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """Logits over temperature; greedy rows as they are."""
    if any(sampling.temperature not in (0.0, 1.0) for sampling in samplings):
        logits_MV = logits_MV / _column([sampling.temperature or 1.0 for sampling in samplings], logits_MV)
    return logits_MV


def _least(logits_MV: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """(M, 1) least scaled logit that top-k, then top-p of what is left, and min-p keep; equal values stay too."""
    least_M1 = logits_MV.new_full((logits_MV.shape[0], 1), -math.inf)
    cut = [m for m, s in enumerate(samplings) if s.temperature and (s.top_k or s.top_p < 1.0)]
    faint = [m for m, s in enumerate(samplings) if s.temperature and s.min_p]
    if cut:
        rows_M = torch.tensor(cut, device=logits_MV.device)
        chosen = [samplings[m] for m in cut]
        least_M1[rows_M] = _least_of_top(_scaled(logits_MV[rows_M], chosen), chosen)
    if faint:
        rows_M = torch.tensor(faint, device=logits_MV.device)
        chosen = [samplings[m] for m in faint]
        floor_M1 = _scaled(logits_MV[rows_M].amax(-1, keepdim=True), chosen)
        floor_M1 = floor_M1 + _column([math.log(s.min_p) for s in chosen], logits_MV)
        least_M1[rows_M] = torch.maximum(least_M1[rows_M], floor_M1)
    return least_M1


def _least_of_top(scaled_MV: Tensor, samplings: Sequence[Sampling]) -> Tensor:
    """(M, 1) least value that top-k, then top-p, keep."""
    vocab_size, device = scaled_MV.shape[1], scaled_MV.device
    top_k_M1 = torch.tensor([[s.top_k or vocab_size] for s in samplings], device=device)
    top_p_M1 = torch.tensor([[s.top_p] for s in samplings], dtype=torch.float64, device=device)
    rows_M = torch.arange(len(samplings), device=device)
    least_M1 = scaled_MV.new_empty(len(samplings), 1)
    top_M1 = scaled_MV.amax(-1, keepdim=True)
    total_M1 = (scaled_MV.double() - top_M1).exp_().sum(-1, keepdim=True)
    for width in (*(w for w in _WIDTHS if w < vocab_size), vocab_size):
        largest_MW = scaled_MV[rows_M].topk(width).values
        mass_MW = (largest_MW.double() - largest_MW[:, :1]).exp_().cumsum(-1)
        # With top-k the distribution that top-p cuts is the top-k one.
        within_M1 = mass_MW.gather(1, top_k_M1.clamp(max=width) - 1)
        within_M1 = torch.where(top_k_M1 < vocab_size, within_M1, total_M1)
        rank_W = torch.arange(width, device=device)
        before_MW = torch.cat((torch.zeros_like(mass_MW[:, :1]), mass_MW[:, :-1]), dim=-1)
        # The token that crosses top_p stays; top_p = 1 keeps all, whatever the sum's rounding.
        keep_MW = (rank_W < top_k_M1) & ((before_MW < top_p_M1 * within_M1) | (top_p_M1 == 1.0))
        least_M1[rows_M] = largest_MW.gather(1, keep_MW.sum(-1, keepdim=True) - 1)
        # Done where something in sight fell out, and the top-k total was in sight.
        more_M = keep_MW[:, -1] | ((top_k_M1[:, 0] > width) & (top_k_M1[:, 0] < vocab_size))
        if width == vocab_size or not bool(more_M.any()):
            break
        rows_M, top_k_M1, top_p_M1, total_M1 = rows_M[more_M], top_k_M1[more_M], top_p_M1[more_M], total_M1[more_M]
    return least_M1


def _noise(scaled_MV: Tensor, draws: Draws) -> Tensor:
    noise_MV = exponential(
        np.array([seed & _WORD for seed in draws.seeds], dtype=np.uint64),
        np.array(draws.indices, dtype=np.uint64),
        scaled_MV.shape[1],
        scaled_MV.device,
    )
    if any(not sampling.temperature for sampling in draws.samplings):
        greedy_M1 = _column([float(sampling.temperature == 0) for sampling in draws.samplings], noise_MV)
        noise_MV.masked_fill_(greedy_M1 > 0, 1.0)
    return noise_MV


def _column(values: Sequence[float], like_MV: Tensor) -> Tensor:
    return torch.tensor(values, dtype=like_MV.dtype, device=like_MV.device)[:, None]
