"""Rewards from verdicts (MiMo 3.3.1): all-or-nothing, and the test-difficulty reward, strict and soft.

The judge says which tests passed; this file decides points. Tests are grouped into difficulty levels by the share of
rollouts that pass them; level 0 is easiest. Levels present share the points equally unless weights are given.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from openmimo.rl.kmeans import kmeans
from openmimo.types import Problem, Verdict

Scheme = Literal["all_or_nothing", "strict", "soft"]
Clustering = Literal["cuts", "kmeans"]

EASY, MEDIUM, HARD = 0, 1, 2
CUTS = (0.3, 0.7)  # decision 0006: hard below 0.3, medium, easy from 0.7


def level(pass_rate: float, cuts: tuple[float, float] = CUTS) -> int:
    """Difficulty level of a test: 0 easy, 1 medium, 2 hard; one that nobody passed is hard."""
    return HARD if pass_rate < cuts[0] else MEDIUM if pass_rate < cuts[1] else EASY


def levels(rates: Sequence[float], clustering: Clustering = "cuts") -> tuple[int, ...]:
    """Difficulty level of each test of one problem, from the shares of rollouts that pass them (decision 0006).

    `cuts` looks at each test alone; `kmeans` at how the problem's tests lie: the easiest of at most three clusters is
    level 0, the next 1, and one that nobody passes is hard.
    """
    if clustering == "cuts":
        return tuple(level(rate) for rate in rates)
    clusters = kmeans(rates, HARD + 1)
    hardest = max(clusters, default=0)
    return tuple(HARD if rate == 0 else hardest - cluster for rate, cluster in zip(rates, clusters, strict=True))


def reward(
    problem: Problem, verdict: Verdict, *, scheme: Scheme = "soft", weights: Sequence[float] | None = None
) -> float | None:
    """Points of one response, 0 to 1; None after an internal error, which is nobody's 0.

    Mathematics, and code under `all_or_nothing`, earn 1 for an accepted verdict. With levels l = 0..L:

    * strict: level l's score counts only if all tests of level l and of every easier level pass;
    * soft: level l's score is split equally over its tests; the reward is the sum over passed tests.

    Args:
        weights: points of levels 0, 1, 2; the levels present are scaled to sum to 1. Equal by default.

    Raises:
        ValueError: if a code verdict does not speak of every test (a program that never ran may have none).
    """
    if verdict.status == "internal_error":
        return None
    if problem.kind == "math" or scheme == "all_or_nothing":
        return 1.0 if verdict.status == "accepted" else 0.0
    if not verdict.tests:
        return 0.0
    if len(verdict.tests) != len(problem.tests):
        raise ValueError(f"{problem.id} has {len(problem.tests)} tests, its verdict speaks of {len(verdict.tests)}")
    passed = [result.status == "accepted" for result in verdict.tests]
    levels = [HARD if test.level is None else test.level for test in problem.tests]
    present = sorted(set(levels))
    raw = [1.0 if weights is None else weights[n] for n in present]
    total, points = 0.0, 0.0
    for n, score in zip(present, raw, strict=True):
        mine = [ok for ok, at in zip(passed, levels, strict=True) if at == n]
        total += score
        if scheme == "soft":
            points += score * sum(mine) / len(mine)
        elif all(mine):
            points += score
        else:
            total += sum(raw[present.index(n) + 1 :])
            break
    return points / total


def less_penalty(points: float, *, mixes_languages: bool, penalty: float) -> float:
    """Points of a response, `penalty` less if it mixes languages, at least 0 (tried and not kept: MiMo 3.6)."""
    return max(0.0, points - penalty) if mixes_languages else points
