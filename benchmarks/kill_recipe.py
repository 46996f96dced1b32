"""The recipe that `pretrain_kills.py` kills: nano with ten times the pre-training steps and frequent checkpoints."""

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
    pretrain = replace(
        base.pretrain, stages=stages, learning_rate=rates, mtp_weight=(Piece(SLOTS / 2, 0.3), Piece(SLOTS, 0.1)),
        batch_ramp_tokens=0.2 * SLOTS, checkpoint_every=7, validate_every=50,
    )  # fmt: skip
    return replace(base, name="kills", pretrain=pretrain, threads=1)
