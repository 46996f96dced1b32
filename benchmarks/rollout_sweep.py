"""Where ours wins less: P(valid) from 0.2 to 0.7 and rewards of 0 to 60 % of a naive round, one at a time and together.

    python benchmarks/rollout_sweep.py [benchmarks/results/rollout_sweep.json]

Figures: on the stated workload with one thing changed, overall speed-up over naive, idle and waste of the paper's early
termination and of ours; ours over early termination; and what ours loses when one of its steps is left out. P(valid) is
changed through the spread of pass rates, with their mean kept; the paper's rule is given the same share of it as in the
stated workload. The reward share is that of a naive round with its rewards in lanes. Three steps, one seed each.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import Any

import record

from openmimo.rollout.compare import METHODS, compare, run
from openmimo.rollout.workload import Workload, paper

STEPS = ("predictive", "longest_first", "streamed", "by_response")
CHANCES = (0.2, 0.3, 0.41, 0.5, 0.6, 0.7)
SHARES = (0.0, 0.15, 0.3, 0.45, 0.6)
BASE = replace(paper, steps=3)


def main() -> None:
    shown = {chance: row(with_chance(BASE, chance)) for chance in CHANCES}
    shares = {share: row(with_reward_share(BASE, share)) for share in SHARES}
    corners = {
        f"{chance}, {share}": row(with_reward_share(with_chance(BASE, chance), share))
        for chance in (CHANCES[0], CHANCES[-1])
        for share in (SHARES[0], SHARES[-1])
    }
    everything = [*shown.values(), *shares.values(), *corners.values()]
    record.write(
        "a sweep over P(valid) 0.2 to 0.7 and reward share 0 to 60 % says where ours wins less",
        "python benchmarks/rollout_sweep.py benchmarks/results/rollout_sweep.json",
        {
            "stated": {"valid_share": round(paper.valid_share, 3), "reward_share": round(reward_share(BASE), 3)},
            "by_valid_share": shown,
            "by_reward_share": shares,
            "corners_valid_share_reward_share": corners,
            "ours_over_early_termination": record.spread([r["ours_over_early_termination"] for r in everything]),
        },
    )


def row(work: Workload) -> dict[str, Any]:
    names = ("naive", "early_termination", "ours", *(f"ours -{step}" for step in STEPS))
    rows = {row.method: row for row in compare(work, work.groups(0), {name: METHODS[name] for name in names})}
    ours, early = rows["ours"], rows["early_termination"]
    return {
        "ours": round(ours.overall_speedup, 3),
        "early_termination": round(early.overall_speedup, 3),
        "ours_over_early_termination": round(ours.overall_speedup / early.overall_speedup, 3),
        "idle": round(ours.idle_ratio, 3),
        "waste": round(ours.waste, 3),
        "lost_without": {
            step: round(1.0 - rows[f"ours -{step}"].overall_speedup / ours.overall_speedup, 3) for step in STEPS
        },
    }


def with_chance(work: Workload, chance: float) -> Workload:
    """Pass rates spread so that this share of groups is valid."""
    low, high = 0.01, 10.0
    for _ in range(60):
        middle = (low + high) / 2
        found = replace(work, pass_alpha=paper.pass_alpha * middle, pass_beta=paper.pass_beta * middle)
        low, high = (middle, high) if found.valid_share < chance else (low, middle)
    return replace(found, prior=paper.prior * chance / paper.valid_share)


def with_reward_share(work: Workload, share: float) -> Workload:
    """Rewards scaled so that they take this share of naive rollout."""
    own = reward_share(work)
    factor = share / (1.0 - share) * (1.0 - own) / own
    return replace(
        work, reward_median_s=paper.reward_median_s * factor, reward_max_s=paper.reward_max_s * max(1.0, factor)
    )


def reward_share(work: Workload) -> float:
    """Of the naive rollout."""
    groups = work.groups(0)
    free = replace(work, reward_median_s=0.0).groups(0)
    with_s = fmean(step.makespan_s for step in run(work, groups, METHODS["naive"]))
    without_s = fmean(step.makespan_s for step in run(work, free, METHODS["naive"]))
    return 1.0 - without_s / with_s


if __name__ == "__main__":
    main()
