"""Sampling: distribution, filters, and noise that knows only (seed, index, id)."""

import math

import numpy as np
import pytest
import torch

from openmimo.engine.sample import Draws, check_sampling, exponential, sample
from openmimo.types import Sampling

CPU = torch.device("cpu")


def draw(logits: list[float], sampling: Sampling, index: int = 0) -> tuple[int, float]:
    drawn = sample(torch.tensor([logits]), Draws.of([sampling], [index]))
    return drawn.token_ids[0], drawn.logprobs[0]


def frequencies(logits: list[float], sampling: Sampling, count: int = 20_000) -> np.ndarray:
    logits_MV = torch.tensor([logits]).expand(count, -1)
    drawn = sample(logits_MV, Draws.of([sampling] * count, list(range(count))))
    return np.bincount(drawn.token_ids, minlength=len(logits)) / count


def test_greedy_takes_the_largest_logit_and_reports_the_models_own_logprob() -> None:
    token, logprob = draw([0.0, math.log(3.0), 0.0], Sampling(1, temperature=0.0, top_k=1, top_p=0.1))
    assert token == 1
    assert logprob == pytest.approx(math.log(3 / 5), abs=1e-6)


def test_logprob_is_under_the_temperature() -> None:
    # Temperature 2 halves the logits: 2 ln 3 becomes ln 3, so 3/4 against 1/4.
    logits = [2 * math.log(3.0), 0.0]
    for index in range(20):
        token, logprob = draw(logits, Sampling(1, temperature=2.0), index)
        assert logprob == pytest.approx(math.log([0.75, 0.25][token]), abs=1e-6)


def test_samples_follow_the_softmax() -> None:
    found = frequencies([math.log(p) for p in (0.5, 0.3, 0.15, 0.05)], Sampling(1, seed=7))
    assert np.abs(found - [0.5, 0.3, 0.15, 0.05]).max() < 4 * math.sqrt(0.25 / 20_000)


def test_top_p_keeps_the_token_that_crosses_and_renormalises() -> None:
    found = frequencies([math.log(p) for p in (0.2, 0.5, 0.05, 0.25)], Sampling(1, top_p=0.6, seed=3))
    assert np.abs(found - [0.0, 2 / 3, 0.0, 1 / 3]).max() < 0.015
    _, logprob = draw([math.log(p) for p in (0.2, 0.5, 0.05, 0.25)], Sampling(1, top_p=0.4))
    assert logprob == 0.0


def test_top_k_keeps_k_and_renormalises() -> None:
    found = frequencies([math.log(p) for p in (0.4, 0.3, 0.2, 0.1)], Sampling(1, top_k=2, seed=11))
    assert np.abs(found - [4 / 7, 3 / 7, 0.0, 0.0]).max() < 0.015


def test_top_k_and_top_p_together_apply_top_k_first() -> None:
    # Top 2 of (.4 .3 .2 .1) is (4/7, 3/7); top-p 0.5 then keeps the first alone.
    assert draw([math.log(p) for p in (0.4, 0.3, 0.2, 0.1)], Sampling(1, top_k=2, top_p=0.5)) == (0, 0.0)


def test_filters_keep_what_a_full_sort_keeps() -> None:
    generator = torch.Generator().manual_seed(9)
    samplings, kept = [], []
    logits = torch.randn(120, 300, generator=generator) * torch.linspace(0.2, 6.0, 120)[:, None]
    for row in range(120):
        top_k, top_p = (0, 0, 3, 70, 300, 1000)[row % 6], (0.3, 0.95, 1.0, 0.999)[row % 4]
        samplings.append(Sampling(1, top_k=top_k, top_p=top_p, seed=row))
        order = logits[row].argsort(descending=True)[: top_k or None]
        probability = logits[row, order].double().softmax(0)
        before = probability.cumsum(0) - probability
        kept.append(order[(before < top_p) | torch.tensor(top_p == 1.0)])
    for _ in range(10):
        drawn = sample(logits, Draws.of(samplings, [_] * 120))
        for row in range(120):
            allowed = logits[row, kept[row]].double().log_softmax(0)
            at = kept[row].tolist().index(drawn.token_ids[row])
            assert drawn.logprobs[row] == pytest.approx(float(allowed[at]), abs=1e-5)


def test_noise_depends_on_seed_and_index_alone() -> None:
    seeds, indices = np.array([5, 5, 6, 5], dtype=np.uint64), np.array([0, 1, 0, 0], dtype=np.uint64)
    noise = exponential(seeds, indices, 50, CPU)
    assert torch.equal(noise[0], noise[3])
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])
    assert torch.equal(exponential(seeds[2:3], indices[2:3], 30, CPU)[0], noise[2, :30])


def test_noise_is_exponential_and_uncorrelated_between_neighbours() -> None:
    grid = np.arange(400, dtype=np.uint64)
    noise = exponential(grid // np.uint64(20), grid % np.uint64(20), 500, CPU).numpy()
    assert np.isfinite(noise).all() and (noise > 0).all()
    ordered = 1 - np.exp(-np.sort(noise.ravel()))
    assert np.abs(ordered - (np.arange(noise.size) + 0.5) / noise.size).max() < 1.95 / math.sqrt(noise.size)
    for near in (noise[:, 1:] * noise[:, :-1], noise[1:] * noise[:-1]):
        assert near.mean() == pytest.approx(1.0, abs=0.02)


def test_the_same_row_gives_the_same_bits_in_any_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(48, 331, generator=generator) * 4
    samplings = [
        Sampling(1, temperature=t, top_p=p, seed=n) for n, (t, p) in enumerate([(1, 1), (0.6, 0.95), (0, 1)] * 16)
    ]
    together = sample(logits, Draws.of(samplings, list(range(48))))
    for row in range(48):
        alone = sample(logits[row : row + 1], Draws.of([samplings[row]], [row]))
        assert alone.token_ids[0] == together.token_ids[row]
        assert alone.logprobs[0] == together.logprobs[row]
        assert alone.raw_logprobs[0] == together.raw_logprobs[row]


@pytest.mark.parametrize(
    ("sampling", "message"),
    [
        (Sampling(-1), "max_new_tokens must be at least 0, got -1"),
        (Sampling(1, min_p=1.5), "min_p must be 0"),
        (Sampling(1, top_logprobs=-1), "top_logprobs must be 0"),
        (Sampling(1, stop=("",)), "a stop text is empty"),
        (Sampling(1, temperature=-1.0), "temperature must be 0"),
        (Sampling(1, temperature=math.nan), "temperature must be 0"),
        (Sampling(1, top_p=0.0), "top_p must be above 0"),
        (Sampling(1, top_k=-1), "top_k must be 0"),
        (Sampling(1, seed=2**64), "seed must fit 64 bits"),
    ],
)
def test_a_sampling_that_makes_no_sense_is_refused(sampling: Sampling, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_sampling(sampling)
