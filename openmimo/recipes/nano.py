"""The same code path in a minute or so, for tests: accuracy means nothing here."""

from __future__ import annotations

from dataclasses import replace

from openmimo.curate.corpus import CorpusConfig
from openmimo.recipes import Recipe
from openmimo.recipes.tiny import tiny
from openmimo.train.optim import Piece
from openmimo.train.pretrain import StageConfig

TOTAL = 24 * 4 * 256
"""Pre-training slots: 24 steps of 4 rows of 256, or 2 of 512 in stage 3."""


def nano() -> Recipe:
    base = tiny()
    return replace(
        base,
        name="nano",
        data=replace(base.data, max_pages=40, held_out_share=0.01),
        corpus=CorpusConfig(
            num_documents=400,
            num_lessons=200,
            num_synthetic=100,
            num_sft=120,
            num_rl=24,
            num_held_out=6,
            num_validation=2,
            chain_steps=(3,),
            pipeline_steps=(1,),
            tokenizer_characters=200_000,
        ),
        model=replace(base.model, hidden_size=64, intermediate_size=128, num_hidden_layers=2, head_dim=16),
        pretrain=replace(
            base.pretrain,
            learning_rate=(Piece(0.1 * TOTAL, 3e-3, "linear"), Piece(0.6 * TOTAL, 3e-3), Piece(TOTAL, 1e-3, "cosine")),
            batch_ramp_tokens=0.2 * TOTAL,
            batch_ramp_start=2,
            mtp_weight=(Piece(0.45 * TOTAL, 0.3), Piece(TOTAL, 0.1)),
            stages=tuple(
                StageConfig(share * TOTAL, s.context, s.rope_theta, rows, s.mixture)
                for share, rows, s in zip((0.6, 0.8, 1.0), (4, 4, 2), base.pretrain.stages, strict=True)
            ),
            checkpoint_every=5,
            validate_every=10,
        ),
        sft=replace(base.sft, batch_rows=4, checkpoint_every=2),
        draft=replace(
            base.draft,
            num_prompts=8,
            max_new_tokens=24,
            train=replace(base.draft.train, steps=6, batch_rows=2, checkpoint_every=2),
        ),
        rl=replace(
            base.rl,
            steps=3,
            batch_groups=2,
            num_rollouts=4,
            minibatch_groups=1,
            max_new_tokens=24,
            max_active_groups=4,
            max_launch_factor=3,
            curation_samples=2,
            validate_every=2,
        ),
        eval=replace(base.eval, max_new_tokens=24, num_samples=2, sweep_temperatures=(0.0,), num_shown=4),
    )
