"""The paper: MiMo-7B's own figures. Every default of the rooms' Configs is the paper's where the paper has one."""

from __future__ import annotations

from dataclasses import replace

from openmimo.draft import DraftingConfig
from openmimo.engine.engine import EngineConfig
from openmimo.eval.run import EvalConfig
from openmimo.model.config import MiMoConfig
from openmimo.recipes import Recipe
from openmimo.rl.config import RLConfig
from openmimo.train.compute import ComputeConfig
from openmimo.train.draft import DraftConfig
from openmimo.train.pretrain import PretrainConfig
from openmimo.train.sft import SFTConfig

STAGE_MIXTURES = (
    {"web": 0.5, "papers": 0.15, "books": 0.1, "code": 0.25},  # ours: MiMo 2.1 gives no shares for stage 1
    {"web": 0.12, "papers": 0.12, "books": 0.06, "maths": 0.3, "code": 0.4},  # MiMo 2.1: maths and code about 70 %
    {"web": 0.11, "papers": 0.11, "books": 0.05, "maths": 0.27, "code": 0.36, "synthetic": 0.1},  # MiMo 2.1: 10 %
)


COMPUTE = ComputeConfig(dtype="bfloat16", compile=True, recompute="full", shard=True)
"""Ours: 32,768 slots fit a GPU of 80 GB only so. Weights that are trained stay float32."""


def mimo7b() -> Recipe:
    stages = tuple(
        replace(stage, mixture=mixture) for stage, mixture in zip(PretrainConfig().stages, STAGE_MIXTURES, strict=True)
    )
    return Recipe(
        name="mimo7b",
        model=MiMoConfig(),  # MiMo 2.2, released checkpoint
        pretrain=PretrainConfig(  # MiMo 2.3
            stages=stages, micro_rows=1, compute=COMPUTE, keep_every=10_000, validate_every=1000
        ),
        sft=SFTConfig(micro_rows=1, compute=COMPUTE),  # MiMo 3.1
        draft=DraftingConfig(train=DraftConfig(micro_rows=1)),  # MiMo 2.2: three layers; the rest ours
        rl=RLConfig(micro_rows=1),  # MiMo 3.3.3
        engine=EngineConfig(max_model_len=32_768, num_token_ids=151_665),  # released checkpoint
        eval=EvalConfig(),  # MiMo 3.5
    )


def mimo7b_0530() -> Recipe:
    """The 0530 release: strictly on-policy, one update a batch (decision 0012)."""
    base = mimo7b()
    return replace(base, name="mimo7b_0530", rl=replace(base.rl, minibatch_groups=base.rl.batch_groups))
