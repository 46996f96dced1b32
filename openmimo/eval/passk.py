"""avg@k and pass@k with intervals (MiMo 3.5; anchors: two intervals, refuse k > n)."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from statistics import NormalDist, fmean

Z = NormalDist().inv_cdf(0.975)


@dataclass(frozen=True)
class Estimate:
    """A mean with a 95 % interval."""

    mean: float
    low: float
    high: float
    n: int
    """Problems."""


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Unbiased pass@k of one problem: 1 - C(n - c, k) / C(n, k).

    Raises:
        ValueError: if k exceeds the samples, or the counts are impossible.
    """
    if not 1 <= k <= num_samples:
        raise ValueError(f"pass@{k} needs at least {k} samples a problem, got {num_samples}")
    if not 0 <= num_correct <= num_samples:
        raise ValueError(f"{num_correct} of {num_samples} samples cannot be correct")
    return 1.0 - comb(num_samples - num_correct, k) / comb(num_samples, k)


def mean_pass_at_k(correct: Sequence[Sequence[bool]], k: int) -> float:
    """pass@k over problems; row p holds problem p's samples."""
    return fmean(pass_at_k(len(row), sum(row), k) for row in correct)


def average(correct: Sequence[Sequence[bool]]) -> Estimate:
    """avg@k: mean accuracy over problems and samples, with the interval over QUESTIONS.

    Wilson's interval, the number of problems corrected for how much their rates spread: with one sample a problem it is
    the usual one, with many samples and equal problems it narrows; at 0 and 1 it keeps an honest width.
    """
    if not correct:
        raise ValueError("no problems to average over; 0 is too few")
    rates = [fmean(map(float, row)) for row in correct]
    mean, count = fmean(rates), len(rates)
    spread = sum((rate - mean) ** 2 for rate in rates) / max(1, count - 1)
    effective = max(count, mean * (1.0 - mean) / spread * count) if spread > 0.0 else count
    centre = (mean + Z**2 / (2 * effective)) / (1 + Z**2 / effective)
    half = Z / (1 + Z**2 / effective) * math.sqrt(mean * (1 - mean) / effective + Z**2 / (4 * effective**2))
    return Estimate(mean, max(0.0, min(mean, centre - half)), min(1.0, max(mean, centre + half)), count)


def sampling_error(correct: Sequence[Sequence[bool]]) -> float:
    """Half-width of the 95 % interval over SAMPLES alone, the problems taken as fixed."""
    variance = (
        sum((p := fmean(map(float, row))) * (1.0 - p) / max(1, len(row) - 1) for row in correct) / len(correct) ** 2
    )
    return Z * math.sqrt(variance)


def paired_difference(
    first: Sequence[Sequence[bool]], second: Sequence[Sequence[bool]], *, resamples: int = 2000, seed: int = 0
) -> Estimate:
    """Mean of second - first over the same problems, interval by paired bootstrap."""
    if len(first) != len(second):
        raise ValueError(f"paired tests need the same problems, got {len(first)} and {len(second)}")
    if not first:
        raise ValueError("no problems to compare; 0 is too few")
    gaps = [fmean(map(float, b)) - fmean(map(float, a)) for a, b in zip(first, second, strict=True)]
    rng = random.Random(seed)
    means = sorted(fmean(rng.choices(gaps, k=len(gaps))) for _ in range(resamples))
    return Estimate(fmean(gaps), means[int(0.025 * resamples)], means[int(0.975 * resamples) - 1], len(gaps))
