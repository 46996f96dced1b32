"""The paper's comparisons as recipes on the tiny run (MiMo 3.3, 3.6).

Run one with `openmimo run openmimo/recipes/ablations.py:NAME`.
"""

from __future__ import annotations

from dataclasses import replace

from openmimo.recipes import Recipe
from openmimo.recipes.tiny import tiny
from openmimo.train.sft import lite


def all_or_nothing() -> Recipe:
    """Code earns 1 or 0 (Figure 5's baseline)."""
    base = tiny()
    return replace(base, name="all_or_nothing", rl=replace(base.rl, scheme="all_or_nothing"))


def strict() -> Recipe:
    """A level's score only with all easier levels (MiMo 3.3.1)."""
    base = tiny()
    return replace(base, name="strict", rl=replace(base.rl, scheme="strict"))


def lite_sft() -> Recipe:
    """RL from a light SFT that aligns the format alone (MiMo 3.6, Figure 7)."""
    base = tiny()
    return replace(base, name="lite_sft", sft=lite(base.sft))


def no_easy_pool() -> Recipe:
    """Solved problems are never drawn again (MiMo 3.3.2)."""
    base = tiny()
    return replace(base, name="no_easy_pool", rl=replace(base.rl, alpha=0.0))


def on_policy() -> Recipe:
    """One update a rollout batch (0530 release, decision 0012)."""
    base = tiny()
    return replace(base, name="on_policy", rl=replace(base.rl, minibatch_groups=base.rl.batch_groups))


def group_normalization() -> Recipe:
    """Eq. 1 read per group (decision 0004)."""
    base = tiny()
    return replace(base, name="group_normalization", rl=replace(base.rl, normalization="group"))
