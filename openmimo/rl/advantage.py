"""Group-relative advantages (MiMo 3.3, Eq. 2)."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean, stdev


def advantages(rewards: Sequence[float], *, eps: float = 1e-6) -> tuple[float, ...]:
    """Centre and scale one group's rewards.

    Args:
        rewards: points, 0 to 1, one a rollout.
        eps: added to the standard deviation, which is the unbiased one (decision 0003).

    Returns:
        As many values of mean 0. Equal rewards give zeros: nothing to prefer, so no gradient.

    Raises:
        ValueError: if the group has fewer than two rollouts.
    """
    if len(rewards) < 2:
        raise ValueError(f"a group needs at least 2 rollouts, got {len(rewards)}")
    mean, spread = fmean(rewards), stdev(rewards)
    return tuple((r - mean) / (spread + eps) for r in rewards)
