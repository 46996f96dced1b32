"""The whole system on two CPU cores in minutes: real pages, 1.1 M parameters, maths and code.

MiMo's shape scaled down; every number is ours unless it says otherwise (decision 0030).
"""

from __future__ import annotations

from openmimo.curate.corpus import CorpusConfig
from openmimo.data.pipeline import DataConfig
from openmimo.draft import DraftingConfig
from openmimo.engine.engine import EngineConfig
from openmimo.eval.run import EvalConfig
from openmimo.judge.pool import JudgeConfig
from openmimo.model.config import MiMoConfig
from openmimo.recipes import Recipe
from openmimo.rl.config import RLConfig
from openmimo.train.draft import DraftConfig
from openmimo.train.optim import OptimConfig, Piece
from openmimo.train.pretrain import PretrainConfig, StageConfig
from openmimo.train.sft import SFTConfig

CONTEXT, LONG_CONTEXT = 256, 512
TOTAL = 1.8e6
"""Pre-training slots. MiMo's stages take 75 %, 17 % and 8 % of its tokens; here 60, 24 and 16."""


def tiny() -> Recipe:
    return Recipe(
        name="tiny",
        data=DataConfig(max_pages=600, documents_per_shard=128, held_out_share=0.0),  # so small a corpus: all of it
        corpus=CorpusConfig(),
        model=MiMoConfig(
            vocab_size=768,
            hidden_size=128,
            intermediate_size=352,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,  # grouped, as MiMo 2.2
            head_dim=32,
            rope_theta=10_000.0,  # MiMo 2.3, stages 1 and 2
            max_position_embeddings=LONG_CONTEXT,
        ),
        pretrain=PretrainConfig(
            learning_rate=(
                Piece(0.03 * TOTAL, 3e-3, "linear"),  # the shape of MiMo 2.3
                Piece(0.40 * TOTAL, 3e-3),
                Piece(0.60 * TOTAL, 2e-3, "cosine"),
                Piece(0.85 * TOTAL, 2e-3),
                Piece(1.00 * TOTAL, 2e-4, "cosine"),
            ),
            batch_ramp_tokens=0.1 * TOTAL,
            batch_ramp_start=4,
            batch_ramp_multiple=1,
            mtp_weight=(Piece(0.45 * TOTAL, 0.3), Piece(TOTAL, 0.1)),  # MiMo 2.3: 0.3, then 0.1
            stages=(
                StageConfig(0.6 * TOTAL, CONTEXT, 10_000.0, 8, {"web": 0.1, "lessons": 0.32, "problems": 0.58}),
                StageConfig(0.84 * TOTAL, CONTEXT, 10_000.0, 8, {"web": 0.05, "lessons": 0.2, "problems": 0.75}),
                StageConfig(  # longer context, larger RoPE base, synthetic responses in: MiMo 2.1, 2.3
                    TOTAL,
                    LONG_CONTEXT,
                    20_000.0,  # twice the context: 10,000 x 2^(32/30), about
                    4,
                    {"web": 0.05, "lessons": 0.1, "problems": 0.4, "synthetic": 0.45},
                ),
            ),
            optim=OptimConfig(kind="muon"),
            checkpoint_every=100,
        ),
        sft=SFTConfig(
            learning_rate=6e-4,
            warmup_steps=10,
            batch_rows=8,
            context=CONTEXT,
            epochs=1.0,
            optim=OptimConfig(kind="muon"),
            checkpoint_every=50,
        ),
        draft=DraftingConfig(
            num_prompts=600,
            num_samples=2,
            max_new_tokens=144,
            train=DraftConfig(
                steps=64,
                learning_rate=3e-3,
                final_share=0.1,
                batch_rows=8,
                context=CONTEXT,
                optim=OptimConfig(kind="muon"),
                checkpoint_every=32,
            ),
        ),
        rl=RLConfig(
            steps=24,
            batch_groups=24,
            num_rollouts=8,
            minibatch_groups=6,
            learning_rate=3e-4,
            warmup_steps=2,
            max_new_tokens=144,
            context=CONTEXT,
            max_active_groups=32,
            curation_samples=8,
            validate_every=6,
        ),
        engine=EngineConfig(max_batch_size=256, max_model_len=LONG_CONTEXT),
        judge=JudgeConfig(share_process=True, cpu_s=1.0, wall_s=3.0, accept_unsafe=True),
        eval=EvalConfig(max_new_tokens=144, num_samples=4),
    )
