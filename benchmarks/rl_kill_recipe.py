"""The recipe that `rl_kills.py` kills: nano trained until some answers are right, then RL with frequent updates."""

from __future__ import annotations

from dataclasses import replace

from openmimo.recipes import Recipe
from openmimo.recipes.nano import nano
from openmimo.train.optim import Piece

SLOTS = 240 * 4 * 256


def recipe() -> Recipe:
    base = nano()
    stages = tuple(
        replace(stage, until_tokens=share * SLOTS)
        for share, stage in zip((0.6, 0.8, 1.0), base.pretrain.stages, strict=True)
    )
    rates = (Piece(0.1 * SLOTS, 3e-3, "linear"), Piece(SLOTS, 3e-4, "cosine"))
    return replace(
        base,
        name="rl_kills",
        corpus=replace(base.corpus, num_documents=2000, num_lessons=600, num_sft=1500, num_rl=60, chain_steps=(1,)),
        pretrain=replace(
            base.pretrain, stages=stages, learning_rate=rates, mtp_weight=(Piece(SLOTS, 0.1),),
            batch_ramp_tokens=0.2 * SLOTS, checkpoint_every=100, validate_every=0,
        ),
        sft=replace(base.sft, learning_rate=2e-3, checkpoint_every=50),
        rl=replace(
            base.rl, steps=100, batch_groups=4, num_rollouts=8, minibatch_groups=2, max_new_tokens=96,
            max_active_groups=6, max_launch_factor=4, checkpoint_every=2, validate_every=3, curation_samples=4,
            stream_updates=True, no_groups_steps=0,
        ),
        threads=1,
    )  # fmt: skip
