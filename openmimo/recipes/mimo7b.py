"""The paper: MiMo-7B's own figures. Every default of the rooms' Configs is the paper's where the paper has one."""

from __future__ import annotations

from dataclasses import replace

from openmimo.draft import DraftingConfig
from openmimo.engine.engine import EngineConfig
from openmimo.eval.run import EvalConfig
from openmimo.model.config import MiMoConfig
from openmimo.recipes import Recipe
from openmimo.rl.budget import BudgetConfig
from openmimo.rl.config import RLConfig
from openmimo.train.compute import ComputeConfig
from openmimo.train.draft import DraftConfig
from openmimo.train.optim import OptimConfig, Piece
from openmimo.train.pretrain import PretrainConfig, StageConfig
from openmimo.train.sft import SFTConfig

STAGE_MIXTURES = (
    {"web": 0.5, "papers": 0.15, "books": 0.1, "code": 0.25},  # ours: MiMo 2.1 gives no shares for stage 1
    {"web": 0.12, "papers": 0.12, "books": 0.06, "maths": 0.3, "code": 0.4},  # MiMo 2.1: maths and code about 70 %
    {"web": 0.11, "papers": 0.11, "books": 0.05, "maths": 0.27, "code": 0.36, "synthetic": 0.1},  # MiMo 2.1: 10 %
)


PROMPT = 2048
"""Room for the prompt beside the longest response. Ours: the paper does not say whether its lengths include it."""

COMPUTE = ComputeConfig(dtype="bfloat16", compile=True, recompute="full", shard=True)
"""Ours: 32,768 slots fit a GPU of 80 GB only so. Weights that are trained stay float32."""


PRETRAIN = PretrainConfig(
    learning_rate=(
        Piece(84e9, 1.07e-4, "linear"),  # MiMo 2.3: warm-up over the first 84 B
        Piece(10.284e12, 1.07e-4),  # MiMo 2.3: 10.2 T constant; decision 0017: after the warm-up
        Piece(17.784e12, 3e-5, "cosine"),  # MiMo 2.3: 7.5 T, to stage 1's end
        Piece(23.284e12, 3e-5),  # MiMo 2.3: stage 2's 4 T and the first 1.5 T of stage 3
        Piece(23.784e12, 1e-5, "cosine"),  # MiMo 2.3: 0.5 T, to the end; "about 25 T" in all, decision 0017
    ),
    batch_ramp_tokens=168e9,  # MiMo 2.3: linear over the first 168 B
    batch_ramp_start=64,  # decision 0018
    batch_ramp_multiple=16,  # decision 0018: rounded down
    mtp_weight=(Piece(10.3e12, 0.3), Piece(23.784e12, 0.1)),  # MiMo 2.3: 0.3 for the first 10.3 T, then 0.1
    stages=(
        StageConfig(17.784e12, 8192, 10_000.0, 2560, STAGE_MIXTURES[0]),  # MiMo 2.3: 8,192, base 10,000, batch 2,560
        StageConfig(21.784e12, 8192, 10_000.0, 2560, STAGE_MIXTURES[1]),  # MiMo 2.3: 4 T, the same
        StageConfig(23.784e12, 32_768, 640_000.0, 640, STAGE_MIXTURES[2]),  # MiMo 2.3: 32,768, base 640,000, batch 640
    ),
    optim=OptimConfig(betas=(0.9, 0.95), weight_decay=0.1, clip=1.0),  # MiMo 2.3: AdamW
    micro_rows=1,  # ours, as all below
    compute=COMPUTE,
    keep_every=10_000,
    validate_every=1000,
)


def mimo7b() -> Recipe:
    return Recipe(
        name="mimo7b",
        model=MiMoConfig(),  # MiMo 2.2, released checkpoint
        pretrain=PRETRAIN,  # MiMo 2.3
        sft=SFTConfig(micro_rows=1, compute=COMPUTE),  # MiMo 3.1
        draft=DraftingConfig(train=DraftConfig(micro_rows=1)),  # MiMo 2.2: three layers; the rest ours
        rl=RLConfig(micro_rows=1, context=32_768 + PROMPT, compute=replace(COMPUTE, shard=False)),  # MiMo 3.3.3
        engine=EngineConfig(max_model_len=32_768 + PROMPT, num_token_ids=151_665),  # released checkpoint
        eval=EvalConfig(),  # MiMo 3.5
    )


def mimo7b_0530() -> Recipe:
    """The 0530 release: strictly on-policy, one update a batch (decision 0012), budgets of 32K, 38K and 48K."""
    base = mimo7b()
    return replace(
        base,
        name="mimo7b_0530",
        rl=replace(
            base.rl,
            minibatch_groups=base.rl.batch_groups,
            max_new_tokens=49_152,  # MiMo 0530: 48K
            budget=BudgetConfig(before=(32_768, 38_912), truncated=0.1, plateau=0.0),  # 32K, 38K; when: decision 0044
            context=49_152 + PROMPT,
        ),
        engine=replace(base.engine, max_model_len=49_152 + PROMPT),
    )
