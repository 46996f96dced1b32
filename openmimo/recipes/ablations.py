"""The paper's comparisons as recipes on the tiny run (MiMo 3.3, 3.6, 0530 release).

Run one with `openmimo run openmimo/recipes/ablations.py:NAME`. All but those of SFT change the section `rl` alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from openmimo.recipes import Recipe
from openmimo.recipes.tiny import tiny
from openmimo.rl.budget import BudgetConfig
from openmimo.train.sft import lite


def rl_zero() -> Recipe:
    """RL from the base model, on the problems that RL from SFT has (MiMo 3.5, 3.6, Figure 7)."""
    return _rl("rl_zero", start="base")


def lite_sft() -> Recipe:
    """RL from a light SFT that aligns the format alone (MiMo 3.6, Figure 7)."""
    base = tiny()
    return replace(base, name="lite_sft", sft=lite(base.sft))


def all_or_nothing() -> Recipe:
    """Code earns 1 or 0 (Figure 5's baseline)."""
    return _rl("all_or_nothing", scheme="all_or_nothing")


def strict() -> Recipe:
    """A level's score only with all easier levels (MiMo 3.3.1)."""
    return _rl("strict", scheme="strict")


def kmeans_levels() -> Recipe:
    """Difficulty levels by clustering each problem's tests (MiMo 3.3.1, decision 0006)."""
    return _rl("kmeans_levels", levels="kmeans")


def drop_solved() -> Recipe:
    """Solved problems are not drawn again (MiMo 3.3.2: unstable)."""
    return _rl("drop_solved", solved="drop")


def keep_solved() -> Recipe:
    """Solved problems stay in the main set: dynamic sampling alone (MiMo 3.3.2)."""
    return _rl("keep_solved", solved="keep")


def language_penalty() -> Recipe:
    """A response that mixes languages loses half a point (MiMo 3.6: tried, not kept)."""
    return _rl("language_penalty", language_penalty=0.5)


def on_policy() -> Recipe:
    """One update a rollout batch, the budget raised twice (0530 release, decisions 0012, 0044)."""
    rl = tiny().rl
    third = rl.steps // 3
    return _rl(
        "on_policy",
        minibatch_groups=rl.batch_groups,
        budget=BudgetConfig(  # 32K, 38K and 48K in proportion
            before=(rl.max_new_tokens * 32 // 48, rl.max_new_tokens * 38 // 48), at_steps=(third, 2 * third)
        ),
    )


def group_normalization() -> Recipe:
    """Eq. 1 read per group (decision 0004)."""
    return _rl("group_normalization", normalization="group")


def importance_sampling() -> Recipe:
    """Tokens weighed by trainer over engine, at most 2 (decision 0019)."""
    return _rl("importance_sampling", importance_cap=2.0)


def _rl(name: str, **changes: Any) -> Recipe:
    base = tiny()
    return replace(base, name=name, rl=replace(base.rl, **changes))
